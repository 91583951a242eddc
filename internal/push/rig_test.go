package push

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// patience is more than anything takes that happens at all.
const patience = 2 * time.Minute

// rig is a provisioned server and one node.
type rig struct {
	nats *embednats.Server
	js   jetstream.JetStream // of the user provision
	*node
}

// node is a hub behind a web server.
type node struct {
	hub  *Hub
	url  string
	web  *httptest.Server
	stop func() // ends the hub and waits for it
}

func newRig(t *testing.T, change ...func(*limits)) *rig {
	t.Helper()
	server := natstest.New(t, natstest.WithTCP())
	nc, err := bus.Connect(bus.Config{URL: server.URL("provision")}, "provision", zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	return &rig{nats: server, js: js, node: newNode(t, server, change...)}
}

// newNode starts a hub as the user api, with that user's rights.
func newNode(t *testing.T, server *embednats.Server, change ...func(*limits)) *node {
	t.Helper()
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel)
	nc, err := bus.Connect(bus.Config{URL: server.URL("api")}, "api", log)
	require.NoError(t, err)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	n := &node{hub: New(js, nc, log, prometheus.NewRegistry())}
	for _, f := range change {
		f(&n.hub.limits)
	}
	web := httptest.NewServer(http.HandlerFunc(n.serve))
	n.url, n.web = web.URL, web

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.hub.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	n.stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(func() {
		n.stop()
		web.Close()
		nc.Close()
	})
	wait(t, n.hub.Ready(), "the hub")
	return n
}

// serve stands for httpapi: it knows the session and answers errors.
func (n *node) serve(w http.ResponseWriter, r *http.Request) {
	var sub Subscriber
	err := json.Unmarshal([]byte(r.Header.Get("Session")), &sub)
	if err == nil {
		if r.URL.Path == "/ws" {
			err = n.hub.ServeWS(w, r, sub, r.URL.Query().Get("cursor"))
		} else {
			err = n.hub.ServeSSE(w, r, sub, r.URL.Query().Get("cursor"))
		}
	}
	if err == nil {
		return
	}
	status := http.StatusInternalServerError
	switch fault.KindOf(err) { //nolint:exhaustive // the others stay internal
	case fault.Malformed:
		status = http.StatusBadRequest
	case fault.RateLimited:
		status = http.StatusTooManyRequests
	case fault.Unavailable:
		status = http.StatusServiceUnavailable
	}
	http.Error(w, err.Error(), status)
}

func wait(tb testing.TB, ch <-chan struct{}, what string) {
	tb.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		tb.Fatalf("%s did not come in %s", what, patience)
	}
}

// told is what a client was told.
type told struct {
	Type   string          `json:"type"`
	Cursor string          `json:"cursor"`
	Reason string          `json:"reason"`
	Event  json.RawMessage `json:"event"`
	ID     string          `json:"-"` // the event's
}

type client struct {
	tb   testing.TB
	conn *websocket.Conn
}

func sessionHeader(tb testing.TB, sub Subscriber) http.Header {
	tb.Helper()
	b, err := json.Marshal(sub)
	require.NoError(tb, err)
	return http.Header{"Session": []string{string(b)}}
}

// try dials and gives the HTTP status when it is not let in.
func (n *node) try(tb testing.TB, sub Subscriber, cursor string) (*client, int) {
	tb.Helper()
	address := strings.Replace(n.url, "http", "ws", 1) + "/ws?cursor=" + url.QueryEscape(cursor)
	conn, res, err := websocket.DefaultDialer.DialContext(tb.Context(), address, sessionHeader(tb, sub))
	if res != nil {
		defer res.Body.Close() //nolint:errcheck // nothing was written to it
	}
	if err != nil {
		if res == nil {
			return nil, 0
		}
		return nil, res.StatusCode
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return &client{tb, conn}, res.StatusCode
}

func (n *node) connect(tb testing.TB, sub Subscriber, cursor string) *client {
	tb.Helper()
	c, status := n.try(tb, sub, cursor)
	require.Equal(tb, http.StatusSwitchingProtocols, status)
	return c
}

// open connects without a cursor and waits for ready.
func (n *node) open(tb testing.TB, sub Subscriber) (c *client, cursor string) {
	tb.Helper()
	c = n.connect(tb, sub, "")
	m := c.next()
	require.Equal(tb, "ready", m.Type)
	return c, m.Cursor
}

func (c *client) read() (told, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return told{}, err
	}
	kind, b, err := c.conn.ReadMessage()
	if err != nil {
		return told{}, err
	}
	if kind != websocket.TextMessage {
		return told{}, errors.New("not a text message")
	}
	return parse(b)
}

func parse(b []byte) (m told, err error) {
	if err := json.Unmarshal(b, &m); err != nil || m.Event == nil {
		return m, err
	}
	ev, err := events.Decode(m.Event)
	m.ID = ev.ID
	return m, err
}

func (c *client) next() told {
	c.tb.Helper()
	m, err := c.read()
	require.NoError(c.tb, err)
	return m
}

// expect reads exactly these events, in this order.
func (c *client) expect(list ...events.Event) (cursor string) {
	c.tb.Helper()
	for _, ev := range list {
		m := c.next()
		require.Equal(c.tb, "event", m.Type)
		require.Equal(c.tb, ev.ID, m.ID, ev.Type)
		cursor = m.Cursor
	}
	return cursor
}

// closed reads until the close frame and gives its code; 0 when the connection just broke.
func (c *client) closed() (code int, before []told) {
	c.tb.Helper()
	for {
		m, err := c.read()
		if err == nil {
			before = append(before, m)
			continue
		}
		if closing, ok := errors.AsType[*websocket.CloseError](err); ok && closing.Code != websocket.CloseAbnormalClosure {
			return closing.Code, before
		}
		require.False(c.tb, isTimeout(err), "%v", err)
		return 0, before
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// publish stores the events and returns when they are in the stream.
func (r *rig) publish(tb testing.TB, list ...events.Event) {
	tb.Helper()
	for _, ev := range list {
		body, err := events.Encode(ev)
		require.NoError(tb, err)
		r.publishRaw(tb, ev.NATSSubject(), body)
	}
}

func (r *rig) publishRaw(tb testing.TB, subject string, body []byte) {
	tb.Helper()
	_, err := r.js.PublishMsg(tb.Context(), &nats.Msg{Subject: subject, Data: body})
	require.NoError(tb, err)
}

var meta = events.Meta{Source: "/fdc/test", ActorID: events.SystemActor}

func taskIn(workspace string) events.Event {
	return events.New(meta, "", events.TaskCreated{TaskID: events.NewID(), WorkspaceID: workspace, Version: 1})
}

func syncOf(user string) events.Event {
	return events.New(meta, "", events.SyncCancelled{JobID: events.NewID(), UserID: user, Version: 3})
}

func flag() events.Event {
	return events.New(meta, "", events.FlagChanged{Name: "ai_cache", Value: events.FlagOff, Reason: "test"})
}

func added(workspace, user string) events.Event {
	return events.New(meta, "", events.WorkspaceMemberAdded{
		WorkspaceID: workspace, UserID: user, Version: 2, Role: "MEMBER", Status: events.MemberActive,
	})
}

func removed(workspace, user string) events.Event {
	return events.New(meta, "", events.WorkspaceMemberRemoved{
		WorkspaceID: workspace, UserID: user, Version: 3, Reason: events.MemberRemoved,
	})
}

func revoked(sub Subscriber) events.Event {
	return events.New(meta, "", events.SessionRevoked{
		SessionID: sub.SessionID, UserID: sub.UserID, Version: 2, Reason: events.RevokedByUser,
	})
}

// someone is a user with a session, in the workspaces.
func someone(workspaces ...string) Subscriber {
	return Subscriber{UserID: events.NewID(), SessionID: events.NewID(), WorkspaceIDs: workspaces}
}

// replays are the consumers of the stream that read for a client. The node's own, of which there may be two after an interruption,
// reads everything; the services' are durable.
func (r *rig) replays(t *testing.T) (names []string) {
	t.Helper()
	stream, err := r.js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	consumers := stream.ListConsumers(t.Context())
	for info := range consumers.Info() {
		if info.Config.Durable == "" && len(info.Config.FilterSubjects) > 0 {
			names = append(names, info.Name)
		}
	}
	require.NoError(t, consumers.Err())
	return names
}
