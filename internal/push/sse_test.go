package push

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
)

var nopLog = zerolog.Nop()

func newRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

// deaf is a transport to nobody.
type deaf struct{}

func (deaf) write(*message, bool) error { return nil }
func (deaf) ping() error                { return nil }
func (deaf) end(int)                    {}
func (deaf) abort()                     {}

// frame is an SSE event as the text has it.
type frame struct{ id, kind, data, comment string }

type sseClient struct {
	tb  testing.TB
	res *http.Response
	in  *bufio.Scanner
}

func (n *node) stream(tb testing.TB, sub Subscriber, cursor, lastEventID string) *sseClient {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, n.url+"/events?cursor="+cursor, nil)
	require.NoError(tb, err)
	req.Header = sessionHeader(tb, sub)
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	client := http.Client{Transport: &http.Transport{}}
	res, err := client.Do(req)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = res.Body.Close() })
	return &sseClient{tb, res, bufio.NewScanner(res.Body)}
}

// more reports whether the stream goes on.
func (c *sseClient) more() bool {
	c.tb.Helper()
	ok := c.in.Scan()
	require.NoError(c.tb, c.in.Err(), "an orderly end")
	return ok
}

func (c *sseClient) next() (f frame) {
	c.tb.Helper()
	for c.in.Scan() && c.in.Text() != "" {
		name, value, ok := strings.Cut(c.in.Text(), ": ")
		require.True(c.tb, ok, c.in.Text())
		switch name {
		case "id":
			f.id = value
		case "event":
			f.kind = value
		case "data":
			f.data = value
		case "":
			f.comment = value
		default:
			require.Fail(c.tb, "unknown field", name)
		}
	}
	require.NoError(c.tb, c.in.Err())
	return f
}

func TestSSE(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	workspace := events.NewID()
	me := someone(workspace)
	c := r.stream(t, me, "", "")
	require.Equal(t, http.StatusOK, c.res.StatusCode)
	require.Equal(t, "text/event-stream", c.res.Header.Get("Content-Type"))
	require.Equal(t, "no-store", c.res.Header.Get("Cache-Control"))
	start := Cursor{r.hub.epoch, 0}.String()
	require.Equal(t, frame{id: start, kind: "ready", data: `{"type":"ready","cursor":"` + start + `"}`}, c.next())

	one, two := taskIn(workspace), taskIn(workspace)
	body, err := events.Encode(one)
	require.NoError(t, err)
	// A line break in the stored JSON must not break the field.
	r.publishRaw(t, one.NATSSubject(), []byte(strings.Replace(string(body), "{", "{\r\n\n ", 1)))
	r.publish(t, two)
	first := c.next()
	require.Equal(t, Cursor{r.hub.epoch, 1}.String(), first.id)
	require.Equal(t, "event", first.kind)
	require.Equal(t, `{"type":"event","cursor":"`+first.id+`","event":`+string(body)+`}`, first.data)
	second := c.next()

	progress := events.New(meta, "", events.SyncProgress{JobID: events.NewID(), UserID: me.UserID, Phase: "tasks"})
	body, err = events.Encode(progress)
	require.NoError(t, err)
	require.NoError(t, r.js.Conn().Publish(progress.NATSSubject(), body))
	require.Equal(t, frame{kind: "progress", data: `{"type":"progress","event":` + string(body) + `}`}, c.next(), "without an id")

	t.Run("resume", func(t *testing.T) {
		c := r.stream(t, me, start, "")
		require.Equal(t, first, c.next())
		require.Equal(t, second, c.next())
		require.Equal(t, "ready", c.next().kind)
	})
	t.Run("the browser's own cursor is newer than the one in its URL", func(t *testing.T) {
		c := r.stream(t, me, start, first.id)
		require.Equal(t, second, c.next())
		require.Equal(t, "ready", c.next().kind)
	})
	t.Run("resync", func(t *testing.T) {
		c := r.stream(t, me, Cursor{1, 1}.String(), "")
		require.Equal(t, "resync", c.next().kind)
		require.Equal(t, "ready", c.next().kind)
	})
	t.Run("bad cursor", func(t *testing.T) {
		for _, c := range []*sseClient{r.stream(t, me, "nonsense", ""), r.stream(t, me, start, "nonsense")} {
			require.Equal(t, http.StatusBadRequest, c.res.StatusCode)
		}
	})
	t.Run("pings", func(t *testing.T) {
		n := newNode(t, r.nats, func(l *limits) { l.ping = 25 * time.Millisecond })
		c := n.stream(t, me, "", "")
		require.Equal(t, "ready", c.next().kind)
		for range 3 {
			require.Equal(t, frame{comment: "ping"}, c.next())
		}
	})
}
