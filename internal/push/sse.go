package push

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// ServeSSE answers the request with a stream of Server-Sent Events and returns when it is over. A Last-Event-ID that the
// browser sends when it reconnects goes before the cursor, which is still that of its first request. An error means that
// nothing was answered yet.
func (h *Hub) ServeSSE(w http.ResponseWriter, r *http.Request, sub Subscriber, cursor string) error {
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		cursor = last
	}
	from, err := h.admit(r.Context(), sub.UserID, cursor)
	if err != nil {
		return err
	}
	t := &sseTransport{w: w, rc: http.NewResponseController(w), limits: &h.limits, gone: make(chan struct{})}
	s := &socket{hub: h, user: sub.UserID, session: sub.SessionID, expires: sub.ExpiresAt, t: t}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would collect the stream
	header.Set("Connection", "close")     // the write deadlines are the connection's, and no next request should meet them
	if !h.enter(r.Context(), s, sub, from) {
		h.giveBack(sub.UserID)
		h.refused.WithLabelValues(refusedUnavailable).Inc()
		for _, name := range []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", "Connection"} {
			header.Del(name)
		}
		return unavailable(nil)
	}
	h.open.WithLabelValues("sse").Inc()
	defer h.open.WithLabelValues("sse").Dec()
	select {
	case <-r.Context().Done():
	case <-t.gone:
	}
	t.close()
	s.finish()
	return nil
}

var errClosed = errors.New("the stream is closed")

type sseTransport struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	limits *limits

	once sync.Once
	gone chan struct{} // the handler should return

	mu     sync.Mutex // held while writing: the handler must not return meanwhile
	closed bool
}

func (t *sseTransport) write(m *message, _ bool) error {
	var b bytes.Buffer
	if m.cursor != "" {
		b.WriteString("id: " + m.cursor + "\n")
	}
	b.WriteString("event: " + m.kind + "\ndata: ")
	b.Write(m.body)
	b.WriteString("\n\n")
	return t.send(b.Bytes(), t.limits.write)
}

func (t *sseTransport) ping() error { return t.send([]byte(": ping\n\n"), t.limits.write) }

// end tells the client only of the session's end: after any other it should reconnect, as browsers do by themselves.
func (t *sseTransport) end(code int) {
	if code == CodeSessionEnded {
		// The client may be gone; abort follows.
		_ = t.send(fmt.Appendf(nil, "event: closed\ndata: {\"code\":%d}\n\n", code), t.limits.grace)
	}
	t.abort()
}

func (t *sseTransport) send(b []byte, within time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed
	}
	if err := t.rc.SetWriteDeadline(time.Now().Add(within)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := t.w.Write(b); err != nil {
		return err
	}
	return t.rc.Flush()
}

func (t *sseTransport) abort() { t.once.Do(func() { close(t.gone) }) }

// close waits for a write under way, cut short, and lets none begin.
func (t *sseTransport) close() {
	_ = t.rc.SetWriteDeadline(time.Now()) // where it is not supported, the write takes as long as it takes
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	_ = t.rc.SetWriteDeadline(time.Now().Add(t.limits.grace)) // for the end of the response
}
