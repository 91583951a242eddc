package push

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"time"
)

var errFlood = errors.New("the client sends too many frames")

// meter counts the frames that a client sends, of every kind: text, continuation, ping, pong, close. It reads their headers from the
// bytes as they come, because the library shows neither continuations nor control frames before it has handled them.
type meter struct {
	most   int           // frames
	within time.Duration // in any stretch of this length
	begun  time.Time

	recent []time.Duration // when the newest frames came, since begun; a ring
	next   int             // of recent

	header [14]byte
	have   int    // bytes of header
	skip   uint64 // bytes of the payload still to come
}

// read looks at what has come, and reports whether it is too much.
func (m *meter) read(p []byte) error {
	for len(p) > 0 {
		if m.skip > 0 {
			n := min(m.skip, uint64(len(p)))
			p, m.skip = p[n:], m.skip-n
			continue
		}
		m.header[m.have] = p[0]
		m.have++
		p = p[1:]
		if m.have < m.size() {
			continue
		}
		m.skip, m.have = m.length(), 0
		if err := m.count(time.Since(m.begun)); err != nil {
			return err
		}
	}
	return nil
}

// size is how long the header is, as far as that is known (RFC 6455, 5.2).
func (m *meter) size() int {
	size := 2
	if m.have < size {
		return size
	}
	switch m.header[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if m.header[1]&0x80 != 0 {
		size += 4 // the mask
	}
	return size
}

// length is the payload's, once the header is complete.
func (m *meter) length() uint64 {
	switch n := m.header[1] & 0x7f; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(m.header[2:]))
	case 127:
		return binary.BigEndian.Uint64(m.header[2:])
	default:
		return uint64(n)
	}
}

// count takes in a frame that came at a time since begun.
func (m *meter) count(at time.Duration) error {
	if len(m.recent) < m.most {
		m.recent = append(m.recent, at)
		return nil
	}
	if at-m.recent[m.next] < m.within {
		return errFlood
	}
	m.recent[m.next] = at
	m.next = (m.next + 1) % m.most
	return nil
}

// meteredWriter lets the connection that it gives away count its client's frames.
type meteredWriter struct {
	http.ResponseWriter
	meter meter
	conn  *meteredConn
}

// Hijack implements http.Hijacker.
func (w *meteredWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.conn = &meteredConn{Conn: conn, meter: w.meter}
	return w.conn, buffered, nil
}

type meteredConn struct {
	net.Conn
	meter meter
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if flood := c.meter.read(p[:n]); flood != nil {
		return 0, flood
	}
	return n, err
}
