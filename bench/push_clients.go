package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"
)

// pushClientsCommand holds many WebSockets in a process of its own, so that neither their memory nor their garbage is the
// server's.
const pushClientsCommand = "push-clients"

// clientsQuestion is what the process is to do: one of its fields is set.
type clientsQuestion struct {
	Open   *openSockets `json:"open,omitempty"`
	Gather *gather      `json:"gather,omitempty"`
	Cut    bool         `json:"cut,omitempty"`   // count the stalled clients that were cut off
	Close  bool         `json:"close,omitempty"` // all sockets
}

// openSockets opens sockets, so many at once, and waits until all of them that read are told that they are ready.
type openSockets struct {
	Addr   string         `json:"addr"`            // on this machine
	Hello  string         `json:"hello,omitempty"` // a message that each one sends first
	AtOnce int            `json:"atOnce"`
	Room   int            `json:"room"` // how many events each one will get, about
	Of     []socketClient `json:"of"`
}

// socketClient is one client.
type socketClient struct {
	Path    string `json:"path"`
	Group   string `json:"group"` // the events that it gets
	Stalled bool   `json:"stalled,omitempty"`
}

// gather waits until each reading client has had these events of its group since the last time: each once, in this order.
type gather struct {
	Groups map[string][]string `json:"groups"` // event ids
	Each   bool                `json:"each"`   // wanted are all arrivals, not only the last one
}

// clientsAnswer has moments of the machine's clock, which all processes share, in nanoseconds.
type clientsAnswer struct {
	Began    int64                `json:"began,omitempty"`   // Open: before the first one dialled
	Ready    int64                `json:"ready,omitempty"`   // Open: when the last one was ready
	Cursors  []string             `json:"cursors,omitempty"` // Open: of each one's "ready"
	Last     int64                `json:"last,omitempty"`    // Gather: when the last event arrived
	Arrivals map[string][][]int64 `json:"arrivals,omitempty"`
	Cut      int                  `json:"cut,omitempty"`
}

// runPushClients does as little for an event as it can, because it shares the machine with what it measures.
func runPushClients(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	runtime.GOMAXPROCS(2)
	s := &swarm{failed: make(chan error, 1)}
	defer s.close()
	return answerAll(ctx, stdin, stdout, func(ctx context.Context, q clientsQuestion) (any, error) {
		switch {
		case q.Open != nil:
			return s.open(ctx, *q.Open)
		case q.Gather != nil:
			return s.gather(ctx, *q.Gather)
		case q.Cut:
			return s.cut()
		default:
			s.close()
			return clientsAnswer{}, nil
		}
	})
}

// swarm is all clients of the process.
type swarm struct {
	clients  []*socketConn
	readers  sync.WaitGroup
	ready    tally
	events   tally
	expected int        // events, so far
	failed   chan error // the first failure
}

// tally counts, and says when there are enough.
type tally struct {
	mu    sync.Mutex
	n     int
	want  int
	there chan struct{}
}

func (t *tally) add() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	if t.there != nil && t.n >= t.want {
		close(t.there)
		t.there = nil
	}
}

func (t *tally) reaches(n int) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := make(chan struct{})
	if t.n >= n {
		close(there)
		return there
	}
	t.want, t.there = n, there
	return there
}

func (t *tally) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

func (s *swarm) wait(ctx context.Context, t *tally, n int, what string) error {
	const patience = time.Minute
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-t.reaches(n):
		return nil
	case err := <-s.failed:
		return err
	case <-late.C:
		return fmt.Errorf("%d of %d %s after %s", t.count(), n, what, patience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *swarm) fail(err error) {
	select {
	case s.failed <- err:
	default: // not the first
	}
}

func (s *swarm) open(ctx context.Context, request openSockets) (clientsAnswer, error) {
	if host, _, err := net.SplitHostPort(request.Addr); err != nil || !net.ParseIP(host).IsLoopback() {
		return clientsAnswer{}, fmt.Errorf("sockets go to this machine only, not to %q", request.Addr)
	}
	s.clients = make([]*socketConn, len(request.Of))
	s.ready, s.events, s.expected = tally{}, tally{}, 0
	reading := 0
	for i, of := range request.Of {
		s.clients[i] = &socketConn{swarm: s, of: of, got: make([]arrival, 0, request.Room)}
		if !of.Stalled {
			reading++
		}
	}
	next := make(chan *socketConn, len(s.clients))
	for _, c := range s.clients {
		next <- c
	}
	close(next)
	began := time.Now()
	var dialling sync.WaitGroup
	for range request.AtOnce {
		dialling.Go(func() {
			for c := range next {
				if err := c.dial(ctx, request.Addr, request.Hello); err != nil {
					s.fail(err)
					return
				}
				if !c.of.Stalled {
					s.readers.Go(c.follow)
				}
			}
		})
	}
	dialling.Wait()
	if err := s.wait(ctx, &s.ready, reading, "sockets are ready"); err != nil {
		return clientsAnswer{}, err
	}
	answer := clientsAnswer{Began: began.UnixNano()}
	for _, c := range s.clients {
		c.mu.Lock()
		answer.Cursors = append(answer.Cursors, c.cursor)
		answer.Ready = max(answer.Ready, c.ready)
		c.mu.Unlock()
	}
	return answer, nil
}

func (s *swarm) gather(ctx context.Context, request gather) (clientsAnswer, error) {
	for _, c := range s.clients {
		if !c.of.Stalled {
			s.expected += len(request.Groups[c.of.Group])
		}
	}
	if err := s.wait(ctx, &s.events, s.expected, "events arrived"); err != nil {
		return clientsAnswer{}, err
	}
	answer := clientsAnswer{}
	if request.Each {
		answer.Arrivals = make(map[string][][]int64)
	}
	for _, c := range s.clients {
		if c.of.Stalled {
			continue
		}
		arrivals, err := c.check(request.Groups[c.of.Group])
		if err != nil {
			return clientsAnswer{}, err
		}
		if len(arrivals) > 0 {
			answer.Last = max(answer.Last, arrivals[len(arrivals)-1])
		}
		if request.Each {
			answer.Arrivals[c.of.Group] = append(answer.Arrivals[c.of.Group], arrivals)
		}
	}
	return answer, nil
}

// cut counts the stalled clients that the server has cut off.
func (s *swarm) cut() (answer clientsAnswer, err error) {
	for _, c := range s.clients {
		if !c.of.Stalled {
			continue
		}
		// To what is written after the end the server's kernel answers with a reset. Without one it would hand over what it
		// still holds first, which takes it seconds after so long a pause.
		if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return answer, fmt.Errorf("look for the end: %w", err)
		}
		err := c.write(frameText, []byte("anyone?"))
		if err == nil {
			_, err = c.read(func([]byte) {})
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			continue
		}
		answer.Cut++
	}
	return answer, nil
}

func (s *swarm) close() {
	for _, c := range s.clients {
		c.mu.Lock()
		c.closing = true
		if c.conn != nil {
			_ = c.conn.Close() // nothing is pending on it
		}
		c.mu.Unlock()
	}
	s.readers.Wait()
	s.clients = nil
}

// arrival is when an event came.
type arrival struct {
	id [uuidSize]byte
	at int64
}

const uuidSize = 36

// socketConn is one client's connection.
type socketConn struct {
	swarm *swarm
	of    socketClient
	conn  net.Conn
	r     *bufio.Reader

	mu      sync.Mutex
	got     []arrival // since the last gathering
	ready   int64
	cursor  string
	closing bool
}

// dial opens the connection and speaks the handshake.
func (c *socketConn) dial(ctx context.Context, addr, hello string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	if c.of.Stalled {
		// The less the kernel takes for it, the sooner the server meets a client that doesn't read.
		if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	const handshake = "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := fmt.Fprintf(conn, handshake, c.of.Path, addr); err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	c.r = bufio.NewReaderSize(conn, 2<<10)
	answer, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer answer.Body.Close() //nolint:errcheck // it has none
	if answer.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10)) // the status alone says enough
		return fmt.Errorf("open socket: %s: %s", answer.Status, bytes.TrimSpace(text))
	}
	if hello != "" {
		return c.write(frameText, []byte(hello))
	}
	return nil
}

// follow reads until the connection ends, which is a failure unless we ended it.
func (c *socketConn) follow() {
	code, err := c.read(c.take)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.swarm.fail(fmt.Errorf("a socket ended, with code %d: %w", code, err))
	}
}

// read gives each message to take until the connection ends, and returns the code that the server closed it with, or 0.
func (c *socketConn) read(take func(message []byte)) (code int, err error) {
	var frame []byte
	for {
		kind, err := readFrame(c.r, &frame)
		switch {
		case err != nil:
			return 0, err
		case kind == frameText:
			for line := range bytes.SplitSeq(frame, []byte("\n")) { // of Centrifuge's protocol
				take(line)
			}
		case kind == framePing:
			if err := c.write(framePong, frame); err != nil {
				return 0, err
			}
		case kind == frameClose && len(frame) >= 2:
			return int(binary.BigEndian.Uint16(frame)), errors.New("closed by the server")
		default:
			return 0, fmt.Errorf("a frame of kind %d", kind)
		}
	}
}

var (
	readyPrefix     = []byte(`{"type":"ready","cursor":"`)
	connectedPrefix = []byte(`{"id":1,"connect":`)
	eventPrefix     = []byte(`{"type":"event",`)
	publishedPrefix = []byte(`{"push":`)
	idPrefix        = []byte(`"id":"`)
	centrifugePing  = []byte(`{}`)
)

// take notes what a message says. It looks no further than it has to.
func (c *socketConn) take(message []byte) {
	now := time.Now().UnixNano()
	switch {
	case bytes.HasPrefix(message, eventPrefix), bytes.HasPrefix(message, publishedPrefix):
		_, rest, found := bytes.Cut(message, idPrefix)
		if !found || len(rest) < uuidSize {
			c.swarm.fail(fmt.Errorf("an event without an id: %s", message))
			return
		}
		a := arrival{at: now}
		copy(a.id[:], rest)
		c.mu.Lock()
		c.got = append(c.got, a)
		c.mu.Unlock()
		c.swarm.events.add()
	case bytes.HasPrefix(message, readyPrefix), bytes.HasPrefix(message, connectedPrefix):
		c.mu.Lock()
		repeated := c.ready != 0
		c.ready = now
		if rest, found := bytes.CutPrefix(message, readyPrefix); found {
			cursor, _, _ := bytes.Cut(rest, []byte(`"`))
			c.cursor = string(cursor)
		}
		c.mu.Unlock()
		if repeated {
			c.swarm.fail(errors.New("a socket was ready twice"))
			return
		}
		c.swarm.ready.add()
	case bytes.Equal(message, centrifugePing):
		if err := c.write(frameText, centrifugePing); err != nil {
			c.swarm.fail(err)
		}
	default:
		c.swarm.fail(fmt.Errorf("unexpected message %s", message))
	}
}

// check holds what came against what was to come, and forgets it.
func (c *socketConn) check(want []string) ([]int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := make([]int64, len(c.got))
	for i, a := range c.got {
		if i >= len(want) || string(a.id[:]) != want[i] {
			place := slices.Index(want, string(a.id[:])) + 1
			return nil, fmt.Errorf("event %d of a socket is its %dth of %d: lost, repeated or out of order", i+1, place, len(want))
		}
		at[i] = a.at
	}
	if len(c.got) < len(want) {
		return nil, fmt.Errorf("a socket got %d of %d events", len(c.got), len(want))
	}
	c.got = c.got[:0]
	return at, nil
}

// Kinds of a WebSocket frame.
const (
	frameText  = 1
	frameClose = 8
	framePing  = 9
	framePong  = 10
)

// write sends a short frame.
func (c *socketConn) write(kind byte, payload []byte) error {
	if len(payload) > 125 {
		return errors.New("a frame that is too long")
	}
	// A client must mask; zeros leave the payload as it is.
	frame := append([]byte{0x80 | kind, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...) //nolint:gosec // just compared
	if _, err := c.conn.Write(frame); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// readFrame reads a whole message of a server into payload.
func readFrame(r *bufio.Reader, payload *[]byte) (kind byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		return 0, errors.New("a fragment, an extension or a mask, which nobody asked for")
	}
	size := uint64(head[1])
	switch size {
	case 126:
		var long [2]byte
		_, err = io.ReadFull(r, long[:])
		size = uint64(binary.BigEndian.Uint16(long[:]))
	case 127:
		var long [8]byte
		_, err = io.ReadFull(r, long[:])
		size = binary.BigEndian.Uint64(long[:])
	}
	if err != nil {
		return 0, err
	}
	if size > 1<<20 {
		return 0, fmt.Errorf("a frame of %d bytes", size)
	}
	*payload = slices.Grow((*payload)[:0], int(size))[:size]
	_, err = io.ReadFull(r, *payload)
	return head[0] & 0x0f, err
}
