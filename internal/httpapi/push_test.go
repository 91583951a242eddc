package httpapi_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

type told struct {
	Type   string
	Cursor string
	Event  struct{ Type, Subject, RequestID string }
}

// dial opens a WebSocket with the visitor's cookies; nil and the status when it is refused.
func (v *visitor) dial(query string, header http.Header) (*websocket.Conn, int) {
	v.t.Helper()
	dialer := websocket.Dialer{Jar: v.client.Jar, HandshakeTimeout: patience}
	conn, resp, err := dialer.DialContext(v.t.Context(), "ws"+strings.TrimPrefix(v.url, "http")+"/api/ws"+query, header)
	require.NotNil(v.t, resp, "%v", err)
	require.NoError(v.t, resp.Body.Close())
	if err != nil {
		require.ErrorIs(v.t, err, websocket.ErrBadHandshake)
		return nil, resp.StatusCode
	}
	v.t.Cleanup(func() { _ = conn.Close() }) // it may be closed
	require.NoError(v.t, conn.SetReadDeadline(time.Now().Add(patience)))
	return conn, resp.StatusCode
}

func hear(t *testing.T, conn *websocket.Conn) told {
	t.Helper()
	var m told
	require.NoError(t, conn.ReadJSON(&m))
	return m
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	conn, status := alice.dial("", http.Header{"Origin": {w.url}, "X-Request-Id": {"socket-1"}})
	require.Equal(t, http.StatusSwitchingProtocols, status)
	require.Equal(t, "ready", hear(t, conn).Type)

	bob.send(http.MethodPost, "/api/workspaces/"+bob.home()+"/tasks", object{"title": "Bob's own"})
	made := alice.send(http.MethodPost, "/api/workspaces/"+alice.home()+"/tasks", object{"title": "x"}, "X-Request-Id", "make-it")
	event := hear(t, conn)
	for event.Event.Type != "fdc.task.created.v1" { // those of the sign-in may be on their way still
		require.Equal(t, "event", event.Type)
		event = hear(t, conn)
	}
	require.Equal(t, made.str("id"), event.Event.Subject)
	require.Equal(t, "make-it", event.Event.RequestID)

	// What was missed comes first.
	require.NoError(t, conn.Close())
	missed := alice.send(http.MethodPost, "/api/workspaces/"+alice.home()+"/tasks", object{"title": "y"})
	w.facts("task.created") // it is in the stream
	conn, status = alice.dial("?cursor="+event.Cursor, nil)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	require.Equal(t, missed.str("id"), hear(t, conn).Event.Subject)
	require.Equal(t, "ready", hear(t, conn).Type)

	require.Equal(t, http.StatusNoContent, alice.send(http.MethodPost, "/api/auth/logout", nil).status)
	var err error
	for err == nil {
		_, _, err = conn.ReadMessage()
	}
	require.True(t, websocket.IsCloseError(err, 4001), "%v", err)
	require.Contains(t, w.log.String(), `"status":101`)
}

func TestWebSocketsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.signIn("alice")
	require.Equal(t, http.StatusUnauthorized, w.visitor().get("/api/ws").status)
	require.Equal(t, http.StatusUnauthorized, w.visitor().get("/api/events").status)
	require.Equal(t, "not-a-websocket", alice.get("/api/ws").code())

	_, status := w.visitor().dial("", nil)
	require.Equal(t, http.StatusUnauthorized, status)

	host, err := url.Parse(w.url)
	require.NoError(t, err)
	for _, origin := range []string{"https://evil.example", "null", "https://" + host.Host, "http://" + host.Hostname(), w.url + "/", w.url + ".evil.example", ""} {
		_, status := alice.dial("", http.Header{"Origin": {origin}})
		require.Equal(t, http.StatusForbidden, status, origin)
	}
	denied := w.facts("access.denied")
	require.Len(t, denied, 7)
	require.Equal(t, "csrf", denied[0].data["reason"])
	require.Equal(t, "/api/ws", denied[0].data["route"])

	for _, cursor := range []string{"x", "%00", "%ff", "AAAA", strings.Repeat("A", 23), strings.Repeat("A", 5000)} {
		_, status := alice.dial("?cursor="+cursor, nil)
		require.Equal(t, http.StatusBadRequest, status, cursor)
		require.Equal(t, http.StatusBadRequest, alice.get("/api/events?cursor="+cursor).status)
		if !strings.Contains(cursor, "%") {
			require.Equal(t, http.StatusBadRequest, alice.get("/api/events", "Last-Event-ID", cursor).status)
		}
	}
	require.Equal(t, http.StatusMethodNotAllowed, alice.do(http.MethodHead, "/api/events", nil, nil).status)
}

func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.signIn("alice")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/api/events", nil)
	require.NoError(t, err)
	resp, err := alice.client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))

	lines := bufio.NewScanner(resp.Body)
	next := func() (name, data string) {
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "event":
				name = value
			case "data":
				data = value
			case "":
				if name != "" {
					return name, data
				}
			}
		}
		require.NoError(t, lines.Err())
		return "", ""
	}
	name, _ := next()
	require.Equal(t, "ready", name)
	made := alice.send(http.MethodPost, "/api/workspaces/"+alice.home()+"/tasks", object{"title": "x"})
	var data string
	for m := (told{}); m.Event.Type != "fdc.task.created.v1"; {
		name, data = next()
		require.Equal(t, "event", name)
		require.NoError(t, json.Unmarshal([]byte(data), &m))
		require.True(t, m.Event.Type != "fdc.task.created.v1" || m.Event.Subject == made.str("id"))
	}
	alice.send(http.MethodPost, "/api/auth/logout", nil)
	for name != "closed" {
		name, data = next()
		require.NotEmpty(t, name, "the stream ended without a goodbye")
	}
	require.JSONEq(t, `{"code":4001}`, data)
}
