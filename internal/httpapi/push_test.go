package httpapi_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"fdc/internal/push"
)

type told struct {
	Type   string
	Cursor string
	Event  struct{ Type, Subject, RequestID, CallerRequestID string }
}

// dial opens a WebSocket with the visitor's cookies; nil and the status when it is refused.
func (v *visitor) dial(query string, header http.Header) (*websocket.Conn, int) {
	v.t.Helper()
	conn, answer := v.dialed(query, header)
	return conn, answer.status
}

// dialed is dial with all of the answer.
func (v *visitor) dialed(query string, header http.Header) (*websocket.Conn, *result) {
	v.t.Helper()
	dialer := websocket.Dialer{Jar: v.client.Jar, HandshakeTimeout: patience}
	if header = header.Clone(); v.agent != "" {
		if header == nil {
			header = http.Header{}
		}
		header.Set("User-Agent", v.agent)
	}
	conn, resp, err := dialer.DialContext(v.t.Context(), "ws"+strings.TrimPrefix(v.url, "http")+"/api/ws"+query, header)
	require.NotNil(v.t, resp, "%v", err)
	require.NoError(v.t, resp.Body.Close())
	if err != nil {
		require.ErrorIs(v.t, err, websocket.ErrBadHandshake)
		return nil, &result{t: v.t, status: resp.StatusCode, header: resp.Header}
	}
	v.t.Cleanup(func() { _ = conn.Close() }) // it may be closed
	require.NoError(v.t, conn.SetReadDeadline(time.Now().Add(patience)))
	return conn, &result{t: v.t, status: resp.StatusCode, header: resp.Header}
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
	require.Equal(t, made.header.Get("X-Request-Id"), event.Event.RequestID)
	require.Empty(t, event.Event.CallerRequestID, "other members get nothing that a client made up")

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
	w := shared(t)
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

// knock is the answer to an attempt to open a WebSocket.
type knock struct {
	status     int
	problem    string
	retryAfter string
	conn       *websocket.Conn
}

// knocks tries to open that many WebSockets, 100 at a time, and gives the answers.
func (w *world) knocks(count int, header func(int) http.Header) []knock {
	w.t.Helper()
	list := make([]knock, count)
	var knocking sync.WaitGroup
	for worker := range 100 {
		knocking.Go(func() {
			dialer := websocket.Dialer{HandshakeTimeout: patience}
			for i := worker; i < count; i += 100 {
				conn, resp, err := dialer.DialContext(w.t.Context(), "ws"+strings.TrimPrefix(w.url, "http")+"/api/ws", header(i))
				if resp == nil {
					w.t.Errorf("no answer: %v", err)
					continue
				}
				k := knock{status: resp.StatusCode, retryAfter: resp.Header.Get("Retry-After"), conn: conn}
				if conn == nil {
					var p struct{ Type string }
					body, err := io.ReadAll(resp.Body)
					if err == nil {
						err = json.Unmarshal(body, &p)
					}
					if err != nil {
						w.t.Errorf("%q: %v", body, err)
					}
					k.problem = strings.TrimPrefix(p.Type, "urn:fdc:problem:")
				}
				_ = resp.Body.Close() // read
				list[i] = k
			}
		})
	}
	knocking.Wait()
	return list
}

// sockets is how many the hub has open.
func (w *world) sockets() (n float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	require.NoError(w.t, err)
	for _, f := range families {
		if f.GetName() == "push_sockets" {
			for _, m := range f.GetMetric() {
				n += m.GetGauge().GetValue()
			}
		}
	}
	return n
}

// However many connect, without a session, with one that isn't any, or with one, the node keeps no more than a user's share of them,
// says so to the others, and those who are there already don't notice.
func TestAFloodOfConnects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	conn, _ := bob.dial("", nil)
	require.Equal(t, "ready", hear(t, conn).Type)
	session := func(token string) http.Header { return http.Header{"Cookie": {"fdc_session=" + token}} }
	at, err := url.Parse(w.url)
	require.NoError(t, err)
	var token string
	for _, c := range alice.client.Jar.Cookies(at) {
		if c.Name == "fdc_session" {
			token = c.Value
		}
	}

	bystander := func(done <-chan []knock) (list []knock) {
		t.Helper()
		path, slowest := "/api/workspaces/"+bob.home()+"/tasks", time.Duration(0)
		for n := 0; ; n++ {
			begun := time.Now()
			made := bob.send(http.MethodPost, path, object{"title": "x"})
			require.Equal(t, http.StatusCreated, made.status)
			for event := hear(t, conn); event.Event.Subject != made.str("id"); event = hear(t, conn) {
				require.Equal(t, "event", event.Type)
			}
			slowest = max(slowest, time.Since(begun))
			select {
			case list = <-done:
				t.Logf("meanwhile another user made and heard of %d tasks, in %s at most", n+1, slowest)
				return list
			default:
			}
		}
	}
	flood := func(name string, header func(int) http.Header) []knock {
		t.Helper()
		const count = 1000
		done := make(chan []knock, 1)
		begun := time.Now()
		go func() { done <- w.knocks(count, header) }()
		list := bystander(done)
		t.Logf("%s: %d connects in %s", name, count, time.Since(begun))
		return list
	}

	for name, header := range map[string]func(int) http.Header{
		"no session": func(int) http.Header { return nil },
		"a forged one": func(i int) http.Header {
			tail := fmt.Sprintf("%08d", i)
			return session(token[:len(token)-len(tail)] + tail)
		},
		"nonsense": func(i int) http.Header { return session(strings.Repeat("x", i%300)) },
	} {
		for _, k := range flood(name, header) {
			require.Equal(t, knock{status: http.StatusUnauthorized, problem: "unauthenticated"}, k)
		}
		require.InDelta(t, 1, w.sockets(), 0, "nothing was upgraded")
	}

	open := 0
	for _, k := range flood("one session", func(int) http.Header { return session(token) }) {
		if k.status == http.StatusSwitchingProtocols {
			t.Cleanup(func() { _ = k.conn.Close() }) // it may be closed
			require.NoError(t, k.conn.SetReadDeadline(time.Now().Add(patience)))
			require.Equal(t, "ready", hear(t, k.conn).Type)
			open++
			continue
		}
		require.Equal(t, http.StatusTooManyRequests, k.status)
		require.Equal(t, "too-many-sockets", k.problem)
		seconds, err := strconv.Atoi(k.retryAfter)
		require.NoError(t, err)
		require.True(t, 10 <= seconds && seconds <= 20, "%d s", seconds)
	}
	require.Equal(t, 32, open)
	require.InDelta(t, 33, w.sockets(), 0)
	refused := alice.get("/api/ws", "Connection", "Upgrade", "Upgrade", "websocket")
	require.Equal(t, "too-many-sockets", refused.code())
	require.Contains(t, refused.str("detail"), "close some")
	require.Equal(t, http.StatusTooManyRequests, alice.get("/api/events").status)
}

// A session that nobody uses ends, with its sockets: that they are open is no use of it.
func TestAnIdleSessionsSocketsAreClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	idle, _ := alice.dial("", nil)
	require.Equal(t, "ready", hear(t, idle).Type)
	used, _ := bob.dial("", nil)
	require.Equal(t, "ready", hear(t, used).Type)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/api/events", nil)
	require.NoError(t, err)
	for _, cookie := range alice.client.Jar.Cookies(req.URL) {
		req.AddCookie(cookie)
	}
	stream, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer stream.Body.Close() //nolint:errcheck // read to its end

	require.NoError(t, w.hub.CheckSessions(t.Context()))
	tag, err := w.db.Pool.Exec(t.Context(), `UPDATE sessions SET last_seen_at = now() - interval '25 hours' WHERE user_id = $1`, alice.id())
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
	require.NoError(t, w.hub.CheckSessions(t.Context()))
	for err == nil {
		_, _, err = idle.ReadMessage()
	}
	require.True(t, websocket.IsCloseError(err, push.CodeSessionEnded), "%v", err)
	text, err := io.ReadAll(stream.Body)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(text), "event: closed\ndata: {\"code\":4001}\n\n"), "%s", text)

	bob.send(http.MethodPost, "/api/workspaces/"+bob.home()+"/tasks", object{"title": "x"})
	for hear(t, used).Event.Type != "fdc.task.created.v1" {
		continue
	}
}
