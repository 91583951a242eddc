package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"fdc/internal/platform/fault"
)

// Clients send nothing but control frames; a text message up to this size is ignored, a longer one ends the socket.
const maxIncoming = 4 << 10

// maxIgnored is how much of what a client goes on to send is read after the end, so that its own unread bytes don't keep the close
// frame from it.
const maxIgnored = 256 << 10

// upgrader is tuned for many idle sockets: a small buffer to read into, and buffers to write from only while writing.
var upgrader = websocket.Upgrader{
	HandshakeTimeout: 10 * time.Second,
	ReadBufferSize:   512,
	WriteBufferSize:  4 << 10,
	WriteBufferPool:  new(sync.Pool),
	// httpapi has compared the Origin with the public URL by now.
	CheckOrigin: func(*http.Request) bool { return true },
}

// ServeWS turns the request into a WebSocket and returns; the hub looks after it from then on. An error means that
// nothing was answered yet.
func (h *Hub) ServeWS(w http.ResponseWriter, r *http.Request, sub Subscriber, cursor string) error {
	from, err := h.admit(r.Context(), sub.UserID, cursor)
	if err != nil {
		return err
	}
	entered := false
	defer func() {
		if !entered {
			h.giveBack(sub.UserID)
		}
	}()
	status := 0
	upgrade := upgrader
	upgrade.Error = func(_ http.ResponseWriter, _ *http.Request, code int, _ error) { status = code }
	metered := &meteredWriter{ResponseWriter: w, meter: meter{most: h.limits.frames, within: h.limits.framesWithin, begun: time.Now()}}
	conn, err := upgrade.Upgrade(metered, r, w.Header())
	switch {
	case err == nil:
	case status >= http.StatusInternalServerError:
		return fmt.Errorf("upgrade: %w", err)
	case status != 0:
		w.Header().Set("Sec-Websocket-Version", "13")
		return fault.Wrap(err, fault.Malformed, "not-a-websocket", "This address speaks WebSocket, version 13.")
	default: // the client has gone, or broke the protocol; its connection is closed
		h.log.Debug().Err(err).Msg("push client lost while it connected")
		return nil
	}
	t := &wsTransport{conn: conn, raw: metered.conn.Conn, limits: &h.limits}
	s := &socket{hub: h, user: sub.UserID, session: sub.SessionID, expires: sub.ExpiresAt, t: t}
	// The request's context ends with this function; the socket's requests to NATS have timeouts of their own.
	if entered = h.enter(context.WithoutCancel(r.Context()), s, sub, from); !entered {
		t.end(CodeRestart)
		t.abort()
		return nil
	}
	h.open.WithLabelValues("ws").Inc()
	h.wg.Go(func() {
		defer h.open.WithLabelValues("ws").Dec()
		if errors.Is(t.read(func() { s.end(codeUnsupported) }, s.pingLater), errFlood) {
			h.flooded.Inc()
			s.end(CodeFlood)
			_, _ = io.CopyN(io.Discard, t.raw, maxIgnored) // until the client hangs up, or the socket's time to end is over
		}
		t.abort()
		s.finish()
	})
	return nil
}

type wsTransport struct {
	conn    *websocket.Conn
	raw     net.Conn // under conn and its meter
	limits  *limits
	pong    atomic.Pointer[string] // that is due
	pending net.Buffers            // frames that wait for the next one
	bytes   int                    // in pending
}

// writeTogether is how much is collected of what can go out at once.
const writeTogether = 32 << 10

// write passes the library by: a message's frame is made once, whoever gets it, and several can go out in one call. What
// the library writes are single frames too, and the connection lets one call finish before the next.
func (t *wsTransport) write(m *message, more bool) error {
	if len(t.pending) > 0 || more {
		t.pending = append(t.pending, m.frame)
		t.bytes += len(m.frame)
		if more && t.bytes < writeTogether {
			return nil
		}
	}
	conn := t.raw
	if err := conn.SetWriteDeadline(time.Now().Add(t.limits.write)); err != nil {
		return err
	}
	if len(t.pending) == 0 {
		_, err := conn.Write(m.frame)
		return err
	}
	list := t.pending
	t.pending, t.bytes = nil, 0
	_, err := list.WriteTo(conn)
	return err
}

// ping answers a client's too. The library would do that at any moment, and shorten the time that a write under way has.
func (t *wsTransport) ping() error {
	if data := t.pong.Swap(nil); data != nil {
		if err := t.conn.WriteControl(websocket.PongMessage, []byte(*data), time.Now().Add(t.limits.write)); err != nil {
			return err
		}
	}
	return t.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(t.limits.write))
}

func (t *wsTransport) end(code int) {
	frame := websocket.FormatCloseMessage(code, "")
	// The client may be gone; abort follows.
	_ = t.conn.WriteControl(websocket.CloseMessage, frame, time.Now().Add(t.limits.grace))
}

func (t *wsTransport) abort() { _ = t.raw.Close() } // a second close is an error without a meaning

// read returns when the client has hung up, was cut off or floods the socket (errFlood). It keeps nothing that the client sends, and
// refuses what is no text. The goroutine that writes answers a ping.
func (t *wsTransport) read(refuse, answer func()) error {
	t.conn.SetReadLimit(maxIncoming)
	t.conn.SetPingHandler(func(data string) error {
		t.pong.Store(&data)
		answer()
		return nil
	})
	alive := func(string) error { return t.conn.SetReadDeadline(time.Now().Add(2*t.limits.ping + t.limits.write)) }
	t.conn.SetPongHandler(alive)
	err := alive("")
	for err == nil {
		var kind int
		kind, _, err = t.conn.NextReader()
		if err == nil && kind != websocket.TextMessage {
			refuse()
		}
	}
	return err
}
