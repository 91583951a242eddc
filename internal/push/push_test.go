package push

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/bus"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	workspace := events.NewID()
	me := someone(workspace)
	me.Admin = true
	c := r.connect(t, me, "")
	raw := func() string {
		_, b, err := c.conn.ReadMessage()
		require.NoError(t, err)
		return string(b)
	}
	start := Cursor{r.hub.epoch, 0}
	require.Equal(t, `{"type":"ready","cursor":"`+start.String()+`"}`, raw())

	// Who acted where is for the audit log; everything else arrives as it was stored, attributes of the future too.
	ev := taskIn(workspace)
	ev.IP, ev.UserAgent, ev.RequestID = "192.0.2.1", "curl/8 <&>", "r-1"
	body, err := events.Encode(ev)
	require.NoError(t, err)
	body = []byte(strings.Replace(string(body), `{`, "{\n  \"newer\": 7,", 1))
	r.publishRaw(t, ev.NATSSubject(), body)
	first := Cursor{r.hub.epoch, 1}
	var got struct {
		Type, Cursor string
		Event        map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(raw()), &got))
	require.Equal(t, "event", got.Type)
	require.Equal(t, first.String(), got.Cursor)
	var want map[string]any
	require.NoError(t, json.Unmarshal(body, &want))
	delete(want, "ip")
	delete(want, "useragent")
	require.Equal(t, want, got.Event)

	ev = flag()
	ev.IP = "192.0.2.1"
	body, err = events.Encode(ev)
	require.NoError(t, err)
	r.publish(t, ev)
	require.Equal(t, `{"type":"event","cursor":"`+Cursor{r.hub.epoch, 2}.String()+`","event":`+string(body)+`}`, raw())

	progress := events.New(meta, "", events.SyncProgress{JobID: events.NewID(), UserID: me.UserID, Phase: "tasks", Done: 1, Total: 2})
	body, err = events.Encode(progress)
	require.NoError(t, err)
	require.NoError(t, r.js.Conn().Publish(progress.NATSSubject(), body))
	require.Equal(t, `{"type":"progress","event":`+string(body)+`}`, raw())
}

func TestScopes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mine, other := events.NewID(), events.NewID()
	member, stranger, admin := someone(mine), someone(other), someone()
	admin.Admin = true

	var all []events.Event
	for _, ws := range []string{mine, other} {
		all = append(all, taskIn(ws), events.New(meta, "", events.OrgChartUpdated{WorkspaceID: ws, Version: 1}),
			events.New(meta, "", events.WorkspaceDataUpdated{WorkspaceID: ws, Version: 1}))
	}
	for _, sub := range []Subscriber{member, stranger, admin} {
		all = append(all, syncOf(sub.UserID), events.New(meta, "", events.UserCreated{UserID: sub.UserID, Version: 1, Email: "a***@example.com"}))
	}
	about := meta // the operators' events may name a user and a workspace, and are not theirs even so
	about.UserID, about.WorkspaceID = member.UserID, mine
	all = append(all,
		flag(),
		events.New(about, "", events.AuthLoginFailed{Reason: "consent_denied"}),
		events.New(about, "", events.AccessDenied{Method: "GET", Route: "/x", Reason: "role"}),
		events.New(about, "", events.AuditExported{Format: "csv"}),
		events.New(about, "", events.OpsReplayed{Consumer: "syncer"}),
	)
	see := func(sub Subscriber) (list []events.Event) {
		for _, ev := range all {
			switch ty, _ := events.TypeOf(ev.Data); {
			case ty.Scope == events.ScopeSystem && !sub.Admin,
				ty.Scope == events.ScopeUser && ev.UserID != sub.UserID,
				ty.Scope == events.ScopeWorkspace && (len(sub.WorkspaceIDs) == 0 || ev.WorkspaceID != sub.WorkspaceIDs[0]):
			default:
				list = append(list, ev)
			}
		}
		return list
	}
	require.Len(t, see(member), 5)
	require.Len(t, see(admin), 7)

	subs := []Subscriber{member, stranger, admin}
	var live []*client
	var cursors []string
	for _, sub := range subs {
		c, cursor := r.open(t, sub)
		live, cursors = append(live, c), append(cursors, cursor)
	}
	r.publish(t, all...)
	end := []events.Event{syncOf(member.UserID), syncOf(stranger.UserID), syncOf(admin.UserID)}
	r.publish(t, end...)
	for i, sub := range subs {
		live[i].expect(append(see(sub), end[i])...)
		resumed := r.connect(t, sub, cursors[i])
		resumed.expect(append(see(sub), end[i])...)
		require.Equal(t, "ready", resumed.next().Type)
	}
}

func TestMembershipFollowsTheEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := events.NewID(), events.NewID()
	me, colleague := someone(a), someone(a, b)
	mine, start := r.open(t, me)
	theirs, _ := r.open(t, colleague)

	inA, unseen, join, inB, leave := taskIn(a), taskIn(b), added(b, me.UserID), taskIn(b), removed(b, me.UserID)
	invited := events.New(meta, "", events.WorkspaceMemberAdded{
		WorkspaceID: b, UserID: me.UserID, Version: 9, Role: "MEMBER", Status: events.MemberInvited, Email: "b***@example.com",
	})
	after, last := taskIn(b), taskIn(a)
	r.publish(t, inA, unseen, invited, join, inB, leave, after, invited, after, last)
	mine.expect(inA, join, inB, leave, last)
	theirs.expect(inA, unseen, invited, join, inB, leave, after, invited, after, last)

	own := meta
	own.UserID = me.UserID
	created := events.New(own, "", events.WorkspaceCreated{WorkspaceID: events.NewID(), Version: 1})
	inNew := taskIn(created.WorkspaceID)
	role := func(from, to string) events.Event {
		return events.New(meta, "", events.UserRoleChanged{UserID: me.UserID, Version: 2, From: from, To: to})
	}
	hidden, promoted, seen, demoted, hiddenToo, end := flag(), role("USER", "SA"), flag(), role("SA", "USER"), flag(), syncOf(me.UserID)
	r.publish(t, created, inNew, hidden, promoted, seen, demoted, hiddenToo, end)
	mine.expect(created, inNew, promoted, seen, demoted, end)

	// A session that was looked up before all that opens a socket only now: the events count. It is given nothing of b,
	// and what its user has missed elsewhere.
	stale := me
	stale.WorkspaceIDs = []string{a, b}
	stale.Admin = true
	late := r.connect(t, stale, start)
	late.expect(inA, last, created, inNew, promoted, demoted, end)
	require.Equal(t, "ready", late.next().Type)
	fresh, again := taskIn(created.WorkspaceID), taskIn(a)
	r.publish(t, taskIn(b), flag(), fresh, again)
	late.expect(fresh, again)
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	me := someone()
	here := me
	here.SessionID = events.NewID()
	first, cursor := r.open(t, me)
	second, _ := r.open(t, me)
	other, _ := r.open(t, here)
	stream := r.stream(t, me, "", "")
	require.Equal(t, "ready", stream.next().kind)

	gone := revoked(me)
	r.publish(t, gone)
	for _, c := range []*client{first, second} {
		code, before := c.closed()
		require.Equal(t, CodeSessionEnded, code)
		require.Empty(t, before, "a dead session is told nothing more")
	}
	require.Equal(t, frame{kind: "closed", data: `{"code":4001}`}, stream.next())
	require.False(t, stream.more())
	other.expect(gone)

	// The session was looked up before, the socket opens after.
	for _, at := range []string{"", cursor} {
		code, before := r.connect(t, me, at).closed()
		require.Equal(t, CodeSessionEnded, code)
		require.Empty(t, before)
	}
	end := syncOf(me.UserID)
	r.publish(t, end)
	other.expect(end)

	t.Run("by itself", func(t *testing.T) {
		brief := newNode(t, r.nats, func(l *limits) { l.ping = 25 * time.Millisecond })
		soon := someone()
		soon.ExpiresAt = time.Now().Add(50 * time.Millisecond)
		code, before := brief.connect(t, soon, "").closed()
		require.Equal(t, CodeSessionEnded, code)
		require.Equal(t, "ready", before[0].Type)
	})
}

func TestResume(t *testing.T) {
	t.Parallel()
	for name, bytes := range histories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resume(t, newRig(t, func(l *limits) { l.history = bytes }))
		})
	}
}

// histories are how much a node remembers: everything here, so that nothing is read from the stream; nothing; some.
var histories = map[string]int{"remembered": defaults.history, "from the stream": 0, "both": 100 << 10}

func resume(t *testing.T, r *rig) {
	t.Helper()
	workspace := events.NewID()
	me := someone(workspace)
	c, _ := r.open(t, me)
	first := taskIn(workspace)
	r.publish(t, first)
	start := c.expect(first)

	var mine []events.Event
	for range 3*replayBatch + 7 {
		mine = append(mine, taskIn(workspace))
		r.publish(t, mine[len(mine)-1], taskIn(events.NewID()))
	}
	c = r.connect(t, me, start)
	last := c.expect(mine...)
	end := c.next()
	require.Equal(t, "ready", end.Type)
	require.NotEqual(t, last, end.Cursor, "ready is the node's position, not the last own event")
	half := mine[len(mine)/2:]
	at, err := ParseCursor(last)
	require.NoError(t, err)
	at.Sequence -= 2 * uint64(len(half))
	c = r.connect(t, me, at.String())
	c.expect(half...)
	require.Equal(t, end, c.next())

	t.Run("nothing is left behind at the server", func(t *testing.T) {
		for range 20 {
			c := r.connect(t, me, at.String())
			c.expect(half...)
			require.Equal(t, end, c.next())
			require.NoError(t, c.conn.Close())
			require.Empty(t, r.replays(t))
		}
	})
	t.Run("nothing missed", func(t *testing.T) {
		require.Equal(t, end, r.connect(t, me, end.Cursor).next())
	})
	t.Run("no more scope", func(t *testing.T) {
		require.Equal(t, "ready", r.connect(t, someone(), start).next().Type)
	})
	t.Run("forged", func(t *testing.T) {
		for _, cursor := range []string{"x", strings.Repeat("A", 21), strings.Repeat("A", 22) + "=", "////" + last[4:], last + last} {
			_, status := r.try(t, me, cursor)
			require.Equal(t, http.StatusBadRequest, status, cursor)
		}
	})
	t.Run("too old, of another stream, of the future", func(t *testing.T) {
		stream, err := r.js.Stream(t.Context(), bus.Events)
		require.NoError(t, err)
		require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSequence(at.Sequence)))
		position, err := ParseCursor(end.Cursor)
		require.NoError(t, err)
		for cursor, reason := range map[Cursor]string{
			{at.Epoch, at.Sequence - 2}:              reasonExpired,
			{at.Epoch, 0}:                            reasonExpired,
			{at.Epoch + 1, at.Sequence}:              reasonReset,
			{0, 0}:                                   reasonReset,
			{position.Epoch, position.Sequence + 99}: reasonReset,
			{position.Epoch, 1<<64 - 1}:              reasonReset,
			{position.Epoch, 1 << 63}:                reasonReset,
			{-position.Epoch, position.Sequence}:     reasonReset,
		} {
			c := r.connect(t, me, cursor.String())
			require.Equal(t, told{Type: "resync", Cursor: end.Cursor, Reason: reason}, c.next(), cursor)
			require.Equal(t, end, c.next())
			next := taskIn(workspace)
			r.publish(t, next)
			end.Cursor = c.expect(next)
		}
		// The oldest that is held can still be resumed from.
		c := r.connect(t, me, Cursor{at.Epoch, at.Sequence - 1}.String())
		c.expect(mine[len(mine)-len(half)-1:]...)
	})
}

// gate is a transport that stops before each message until it is let through.
type gate struct {
	arrived chan *message
	pass    chan struct{}
}

func (g gate) write(m *message, _ bool) error {
	g.arrived <- m
	<-g.pass
	return nil
}
func (gate) ping() error { return nil }
func (gate) end(int)     {}
func (gate) abort()      {}

// TestReplayMeetsTheWorld looks at what happens while a client is being caught up, with a transport that can be stopped.
func TestReplayMeetsTheWorld(t *testing.T) {
	t.Parallel()
	for name, bytes := range histories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replayMeetsTheWorld(t, newRig(t, func(l *limits) { l.history = bytes }))
		})
	}
}

func replayMeetsTheWorld(t *testing.T, r *rig) {
	t.Helper()
	a, b := events.NewID(), events.NewID()
	me := someone(a, b)
	c, start := r.open(t, me)
	inA, inB := []events.Event{taskIn(a), taskIn(a), taskIn(a)}, []events.Event{taskIn(b), taskIn(b)}
	r.publish(t, inA[0], inB[0], inA[1], inB[1], inA[2])
	c.expect(inA[0], inB[0], inA[1], inB[1], inA[2])

	join := func(t *testing.T) (g gate, next func() told) {
		t.Helper()
		g = gate{make(chan *message), make(chan struct{})}
		from, err := r.hub.admit(t.Context(), me.UserID, start)
		require.NoError(t, err)
		s := &socket{hub: r.hub, user: me.UserID, session: me.SessionID, t: g}
		require.True(t, r.hub.enter(t.Context(), s, me, from))
		t.Cleanup(s.finish)
		return g, func() told {
			select {
			case m := <-g.arrived:
				got, err := parse(m.body)
				require.NoError(t, err)
				return got
			case <-time.After(patience):
				require.Fail(t, "no message")
				return told{}
			}
		}
	}
	t.Run("removed meanwhile", func(t *testing.T) {
		g, next := join(t)
		require.Equal(t, inA[0].ID, next().ID)
		out, after := removed(b, me.UserID), taskIn(a)
		r.publish(t, out, taskIn(b), after)
		c.expect(out, after) // the node has dispatched them
		for _, id := range []string{inA[1].ID, inA[2].ID, "", out.ID, after.ID} {
			g.pass <- struct{}{}
			require.Equal(t, id, next().ID, "nothing more of b but the removal, in its place")
		}
		g.pass <- struct{}{}
	})
	t.Run("the stream drops what was not read yet", func(t *testing.T) {
		g, next := join(t)
		require.Equal(t, inA[0].ID, next().ID)
		stream, err := r.js.Stream(t.Context(), bus.Events)
		require.NoError(t, err)
		require.NoError(t, stream.Purge(t.Context()))
		var kinds []string
		for {
			g.pass <- struct{}{}
			m := next()
			if m.Type != "event" {
				kinds = append(kinds, m.Type+m.Reason)
			}
			if m.Type == "ready" {
				break
			}
		}
		g.pass <- struct{}{}
		require.Equal(t, []string{"resyncexpired", "ready"}, kinds)
	})
	t.Run("the hub has another stream since", func(t *testing.T) {
		s := &socket{hub: r.hub, user: me.UserID, session: me.SessionID, t: deaf{}}
		require.False(t, r.hub.enter(t.Context(), s, me, start0(r.hub.epoch+1)))
	})
}

func start0(epoch int64) start { return start{resume: true, epoch: epoch} }

func TestSlowClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.write = time.Second })
	workspace := events.NewID()
	paths := make([]string, 100)
	for i := range paths {
		paths[i] = strings.Repeat("x", 190) + string(rune('a'+i%26)) + string(rune('a'+i/26))
	}
	big := func() events.Event {
		return events.New(meta, "", events.TaskUpdated{TaskID: events.NewID(), WorkspaceID: workspace, Version: 2, Changed: events.Changed(paths...)})
	}
	fast, _ := r.open(t, someone(workspace))
	slow, cursor := r.open(t, someone(workspace))
	var sent []events.Event
	for testutil.ToFloat64(r.hub.slow) == 0 {
		ev := big()
		r.publish(t, ev)
		fast.expect(ev)
		sent = append(sent, ev)
		require.Less(t, len(sent), 2000)
	}
	code, before := slow.closed()
	require.Contains(t, []int{0, CodeSlow}, code)
	require.Less(t, len(before), len(sent))
	for i, m := range before {
		require.Equal(t, sent[i].ID, m.ID, "in order, without a gap, up to the end")
		cursor = m.Cursor
	}
	again := r.connect(t, someone(workspace), cursor)
	again.expect(sent[len(before):]...)
	require.Equal(t, "ready", again.next().Type)
	ev := big()
	r.publish(t, ev)
	fast.expect(ev)
	again.expect(ev)
}

func TestQueueLimits(t *testing.T) {
	t.Parallel()
	// A socket whose pen is held elsewhere: nothing is written.
	h := &Hub{limits: defaults, slow: New(nil, nil, nopLog, newRegistry()).slow}
	fresh := func() *socket { return &socket{hub: h, writing: true, t: deaf{}, cancel: func() {}} }
	event := func(size int, seq uint64) *message {
		return &message{kind: kindEvent, seq: seq, body: make([]byte, size)}
	}

	s := fresh()
	for i := range 256 {
		s.push(event(1, uint64(i+1)))
	}
	require.Len(t, s.queue, 256)
	require.False(t, s.behind)
	for i := range 3 {
		s.push(event(1, uint64(i+257)))
	}
	require.True(t, s.behind)
	require.Len(t, s.queue, 256)
	require.EqualValues(t, 256, s.after)
	s.push(&message{kind: kindProgress, topic: "job", body: []byte("{}")})
	require.Len(t, s.queue, 256)

	s = fresh()
	s.push(event(200<<10, 1)) // alone at any size
	require.False(t, s.behind)
	s.push(event(1, 2))
	require.True(t, s.behind)

	s = fresh()
	s.push(event(64<<10, 1))
	require.False(t, s.behind)

	s = fresh()
	s.after = 7
	s.push(event(1, 7))
	require.Empty(t, s.queue)
	for i := range 1000 {
		s.push(&message{kind: kindProgress, topic: "job", body: make([]byte, i)})
	}
	require.Len(t, s.queue, 1, "the newest progress only")
	require.Equal(t, 999, s.bytes)
	s.push(&message{kind: kindProgress, topic: "another job", body: []byte("{}")})
	require.Len(t, s.queue, 2)

	s = fresh()
	s.joining = true
	for i := range 300 {
		s.push(event(1, uint64(i+1)))
	}
	require.True(t, s.behind)
	require.Zero(t, s.after)
	require.Empty(t, s.queue, "all of it is replayed")
}

// Clients that read get everything, in order and on one connection, however much comes at once.
func TestABurst(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.queueMessages = 3 })
	ours, others := events.NewID(), events.NewID()
	var clients []*client
	for range 20 {
		c, _ := r.open(t, someone(ours))
		clients = append(clients, c)
	}
	sse := r.stream(t, someone(ours), "", "")
	require.Equal(t, "ready", sse.next().kind)
	var mine []events.Event
	r.hub.mu.Lock() // the feed waits, as it does for NATS
	for i := range 3000 {
		ev := taskIn(ours)
		if i%3 == 0 {
			ev = taskIn(others)
		} else {
			mine = append(mine, ev)
		}
		r.publish(t, ev)
	}
	r.hub.mu.Unlock()
	for _, c := range clients {
		c.expect(mine...)
	}
	for _, ev := range mine {
		require.Contains(t, sse.next().data, ev.ID)
	}
	last := taskIn(ours)
	r.publish(t, last)
	for _, c := range clients {
		c.expect(last)
	}
	require.Zero(t, testutil.ToFloat64(r.hub.slow))
}

// A client that is behind is told to come back when it can't be known any more what it may see, or what it has missed.
func TestBehind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		forget bool
		happen func(s *socket, h *Hub)
		code   int
	}{
		"it goes on":                         {false, func(*socket, *Hub) {}, 0},
		"the history is left behind":         {true, func(*socket, *Hub) {}, CodeSlow},
		"its user joins a workspace":         {false, func(s *socket, h *Hub) { h.widen(s, change{joins: "w2"}) }, CodeSlow},
		"its user leaves a workspace":        {false, func(s *socket, h *Hub) { h.narrow(s, change{leaves: "w"}) }, CodeSlow},
		"its user is an operator":            {false, func(s *socket, h *Hub) { h.widen(s, change{role: true, adminThen: true}) }, CodeSlow},
		"its user is an operator no more":    {false, func(s *socket, h *Hub) { h.narrow(s, change{role: true}) }, CodeSlow},
		"its session ends":                   {false, func(s *socket, h *Hub) { h.widen(s, change{session: "s"}) }, CodeSessionEnded},
		"another session of its user's ends": {false, func(s *socket, h *Hub) { h.widen(s, change{session: "s2"}) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := New(nil, nil, nopLog, newRegistry())
			h.limits.queueMessages = 2
			if c.forget {
				h.limits.history = 1000
			}
			s := &socket{hub: h, session: "s", writing: true, t: deaf{}, cancel: func() {}}
			h.widen(s, change{joins: "w"})
			for seq := range uint64(10) {
				m := &message{kind: kindEvent, seq: seq + 1, frame: make([]byte, 10)}
				h.history.reach(m.seq)
				h.pos = m.seq
				h.history.add(address{events.ScopeWorkspace, "w"}, m, h.limits.history)
				s.push(m)
			}
			require.True(t, s.behind)
			c.happen(s, h)
			var got []uint64
			for {
				m, _, what := s.next()
				switch what {
				case doWrite:
					got = append(got, m.seq)
					continue
				case doRefill:
					s.refill()
					continue
				}
				break
			}
			require.Equal(t, c.code, s.code)
			if c.code == 0 {
				require.Equal(t, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, got)
				require.False(t, s.behind)
			}
		})
	}
}

func TestProgressAndNonsense(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	workspace := events.NewID()
	me, other := someone(workspace), someone(workspace)
	mine, _ := r.open(t, me)
	twin, _ := r.open(t, me)
	theirs, _ := r.open(t, other)
	progress := events.New(meta, "", events.SyncProgress{JobID: events.NewID(), UserID: me.UserID, Phase: "push", Done: 3})
	body, err := events.Encode(progress)
	require.NoError(t, err)
	nc := r.js.Conn()
	require.NoError(t, nc.Publish(events.New(meta, "", events.SyncProgress{JobID: events.NewID(), UserID: other.UserID, Phase: "push"}).NATSSubject(), body))
	require.NoError(t, nc.Publish("live.sync.progress.v1."+me.UserID, []byte("{")))
	require.NoError(t, nc.Publish(progress.NATSSubject(), body))
	for _, c := range []*client{mine, twin} {
		m := c.next()
		require.Equal(t, told{Type: "progress", ID: progress.ID, Event: m.Event}, m)
	}

	stray := taskIn(workspace)
	body, err = events.Encode(stray)
	require.NoError(t, err)
	r.publishRaw(t, "evt.task.created.v1."+events.NewID(), body)
	r.publishRaw(t, "evt.task.created.v1."+workspace, []byte("not JSON"))
	r.publishRaw(t, "evt.task.created.v2."+workspace, []byte(strings.ReplaceAll(string(body), ".v1", ".v2")))
	last := taskIn(workspace)
	r.publish(t, last)
	mine.expect(last)
	theirs.expect(last)
	require.InDelta(t, 5, testutil.ToFloat64(r.hub.unreadable), 0)

	resumed := r.connect(t, me, Cursor{r.hub.epoch, 0}.String())
	resumed.expect(last)
	require.Equal(t, "ready", resumed.next().Type)
}

func TestWhatClientsSend(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	me := someone()
	bystander, _ := r.open(t, me)
	for name, tc := range map[string]struct {
		kind, size, code int
	}{
		"text":   {websocket.TextMessage, 4000, 0},
		"long":   {websocket.TextMessage, 10 << 20, websocket.CloseMessageTooBig},
		"binary": {websocket.BinaryMessage, 10, websocket.CloseUnsupportedData},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := r.open(t, me)
			err := c.conn.WriteMessage(tc.kind, make([]byte, tc.size))
			if tc.code == 0 {
				require.NoError(t, err)
				ev := syncOf(me.UserID)
				r.publish(t, ev)
				c.expect(ev)
				bystander.expect(ev)
				return
			}
			code, before := c.closed()
			require.Empty(t, before)
			if tc.size < 1<<20 {
				require.Equal(t, tc.code, code)
			} else {
				require.Contains(t, []int{tc.code, 0}, code, "the code may be lost while the client still sends")
			}
		})
	}
	t.Run("ping", func(t *testing.T) {
		c, _ := r.open(t, me)
		pong := make(chan string, 1)
		c.conn.SetPongHandler(func(data string) error { pong <- data; return nil })
		require.NoError(t, c.conn.WriteMessage(websocket.PingMessage, []byte("here?")))
		ev := syncOf(me.UserID)
		reading := make(chan struct{})
		go func() {
			defer close(reading)
			_, _, _ = c.conn.ReadMessage() // reads the pong first, then the event below
		}()
		select {
		case data := <-pong:
			require.Equal(t, "here?", data)
		case <-time.After(patience):
			require.Fail(t, "no pong")
		}
		r.publish(t, ev)
		bystander.expect(ev)
		wait(t, reading, "the event")
	})
	t.Run("nothing", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/ws", nil)
		require.NoError(t, err)
		req.Header = sessionHeader(t, me)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
		require.Equal(t, "13", res.Header.Get("Sec-Websocket-Version"))
	})
}

func TestPings(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.ping, l.write, l.frames = 100*time.Millisecond, 4*time.Second, 1000 })
	me := someone()
	answering, _ := r.open(t, me)
	silent, _ := r.open(t, me)
	pings := make(chan struct{}, 1000)
	answer := answering.conn.PingHandler()
	answering.conn.SetPingHandler(func(data string) error {
		pings <- struct{}{}
		return answer(data)
	})
	silent.conn.SetPingHandler(func(string) error { return nil })
	var reading sync.WaitGroup
	defer reading.Wait()
	end := syncOf(me.UserID)
	reading.Go(func() { answering.expect(end) })
	code, _ := silent.closed()
	require.Zero(t, code, "cut off")
	for range 5 {
		wait(t, asSignal(pings), "a ping")
	}
	r.publish(t, end)
}

func asSignal(ch chan struct{}) <-chan struct{} { return ch }

func TestShutdown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	me := someone()
	var clients []*client
	for range 20 {
		c, _ := r.open(t, me)
		clients = append(clients, c)
	}
	stuck, _ := r.open(t, me) // reads no more
	stream := r.stream(t, me, "", "")
	require.Equal(t, "ready", stream.next().kind)
	counted := func() bool {
		return testutil.ToFloat64(r.hub.open.WithLabelValues("ws")) == 21 && testutil.ToFloat64(r.hub.open.WithLabelValues("sse")) == 1
	}
	require.Eventually(t, counted, patience, time.Millisecond, "a socket is counted just after it has entered")

	done := make(chan struct{})
	go func() {
		defer close(done)
		r.stop()
	}()
	for _, c := range clients {
		code, _ := c.closed()
		require.Equal(t, CodeRestart, code)
	}
	require.False(t, stream.more())
	wait(t, done, "the end of the hub, although a client doesn't hang up")
	require.NoError(t, stuck.conn.UnderlyingConn().Close())
	_, status := r.try(t, me, "")
	require.Equal(t, http.StatusServiceUnavailable, status)

	require.Empty(t, r.hub.sockets)
	require.Empty(t, r.hub.users)
	require.Empty(t, r.hub.spaces)
	require.Empty(t, r.hub.admins)
	require.InDelta(t, 0, testutil.ToFloat64(r.hub.open.WithLabelValues("ws")), 0)
}

// TestNoGoroutineStays is not parallel: it looks at all goroutines of this package.
func TestNoGoroutineStays(t *testing.T) {
	ours := func() (list []string) {
		buf := make([]byte, 1<<22)
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "push.(*Hub)") || strings.Contains(g, "push.(*socket)") || strings.Contains(g, "Transport)") &&
				strings.Contains(g, "internal/push") {
				list = append(list, g)
			}
		}
		return list
	}
	require.Empty(t, ours())
	r := newRig(t)
	workspace := events.NewID()
	me := someone(workspace)
	_, cursor := r.open(t, me)
	for range 30 {
		c := r.connect(t, me, cursor)
		r.publish(t, taskIn(workspace))
		cursor = c.next().Cursor
		require.NoError(t, c.conn.UnderlyingConn().Close())
		s := r.stream(t, me, cursor, "")
		require.NotEmpty(t, s.next().kind)
		require.NoError(t, s.res.Body.Close())
	}
	none := func() bool {
		return testutil.ToFloat64(r.hub.open.WithLabelValues("ws")) == 1 && testutil.ToFloat64(r.hub.open.WithLabelValues("sse")) == 0
	}
	require.Eventually(t, none, patience, time.Millisecond, "sockets end with their clients")
	r.stop()
	require.Eventually(t, func() bool { return len(ours()) == 0 }, patience, time.Millisecond)
}

func TestNATSRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	workspace := events.NewID()
	me := someone(workspace)
	c, _ := r.open(t, me)
	for range 2 {
		before := taskIn(workspace)
		r.publish(t, before)
		c.expect(before)

		r.nats.Stop()
		_, status := r.try(t, me, Cursor{r.hub.epoch, 1}.String())
		require.Equal(t, http.StatusServiceUnavailable, status, "what was missed can't be had now")
		without, _ := r.open(t, me) // live ones can wait
		require.NoError(t, r.nats.Restart(t.Context()))

		after := taskIn(workspace)
		publishUntilStored(t, r, after)
		start := time.Now()
		c.expect(after)
		without.expect(after)
		require.Less(t, time.Since(start), 15*time.Second, "only the consumer's heartbeats, silent for 18 s, showed the restart")
		require.NoError(t, without.conn.Close())
	}
}

// publishUntilStored repeats the publish, under one message id, over a restart.
func publishUntilStored(t *testing.T, r *rig, ev events.Event) {
	t.Helper()
	body, err := events.Encode(ev)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.js.Publish(ctx, ev.NATSSubject(), body, jetstream.WithMsgID(ev.ID))
		return err == nil
	}, patience, 10*time.Millisecond)
}

func TestStreamMadeAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	me := someone()
	c, _ := r.open(t, me)
	for range 5 {
		ev := syncOf(me.UserID)
		r.publish(t, ev)
		c.expect(ev)
	}
	old := Cursor{r.hub.epoch, 5}.String()
	require.NoError(t, r.js.DeleteStream(t.Context(), bus.Events))
	require.NoError(t, bus.Provision(t.Context(), r.js, 1))
	code, _ := c.closed()
	require.Equal(t, CodeRestart, code)
	require.Eventually(t, func() bool {
		var status int
		c, status = r.try(t, me, old)
		return status == http.StatusSwitchingProtocols
	}, patience, 10*time.Millisecond)
	m := c.next()
	require.Equal(t, "resync", m.Type)
	require.Equal(t, reasonReset, m.Reason)
	require.Equal(t, "ready", c.next().Type)
	ev := syncOf(me.UserID)
	r.publish(t, ev)
	c.expect(ev)
}

// TestExactlyOnce lets clients come, go and stumble at random while events of several tenants are published: in the end
// each has seen exactly the events of its scopes, in the order of the stream, whichever node it was on.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change  func(*limits)
		restart bool
	}{
		"roomy":        {func(*limits) {}, false},
		"tight queues": {func(l *limits) { l.queueMessages = 3 }, false},
		"no history":   {func(l *limits) { l.queueMessages, l.history = 3, 0 }, false},
		"short memory": {func(l *limits) { l.queueMessages, l.history = 3, 20<<10 }, false},
		"restarts":     {func(l *limits) { l.queueMessages, l.history = 20, 50<<10 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tc.change)
			nodes := []*node{r.node, newNode(t, r.nats, tc.change)}
			workspaces := []string{events.NewID(), events.NewID(), events.NewID()}
			var subs []Subscriber
			for i := range 6 {
				sub := someone(workspaces[:1+i%3]...)
				sub.Admin = i == 5
				subs = append(subs, sub)
			}
			const total = 600
			last := make([]events.Event, len(subs)) // each one's final event
			for i, sub := range subs {
				last[i] = syncOf(sub.UserID)
			}
			var running sync.WaitGroup
			seen := make([][]string, len(subs))
			published := make(chan struct{})
			for i, sub := range subs {
				_, cursor := nodes[0].open(t, sub)
				rng := rand.New(rand.NewPCG(uint64(i), 7))
				running.Go(func() { seen[i] = wander(t, nodes, sub, cursor, last[i].ID, rng) })
			}
			running.Go(func() {
				defer close(published)
				rng := rand.New(rand.NewPCG(1, 2))
				for n := range total {
					var ev events.Event
					switch k := rng.IntN(10); {
					case k < 6:
						ev = taskIn(workspaces[rng.IntN(len(workspaces))])
					case k < 9:
						ev = syncOf(subs[rng.IntN(len(subs))].UserID)
					default:
						ev = flag()
					}
					publishUntilStored(t, r, ev)
					if tc.restart && n%150 == 100 {
						if err := r.nats.Restart(t.Context()); err != nil {
							t.Errorf("restart: %v", err)
						}
					}
				}
				for _, ev := range last {
					publishUntilStored(t, r, ev)
				}
			})
			running.Wait()
			wait(t, published, "the last event")
			want := r.expected(t, subs)
			for i := range subs {
				require.Equal(t, want[i], seen[i], "subscriber %d", i)
			}
		})
	}
}

// wander reads a random number of messages at a time, and comes back where it left, until it has seen the last one.
func wander(t *testing.T, nodes []*node, sub Subscriber, cursor, last string, rng *rand.Rand) (seen []string) {
	t.Helper()
	for {
		c, status := nodes[rng.IntN(len(nodes))].try(t, sub, cursor)
		if status != http.StatusSwitchingProtocols {
			if status != http.StatusServiceUnavailable && status != 0 {
				t.Errorf("status %d", status)
				return seen
			}
			runtime.Gosched()
			continue
		}
		isReady := false
		for range 1 + rng.IntN(60) {
			m, err := c.read()
			if err != nil {
				if isTimeout(err) {
					t.Errorf("subscriber %s hears nothing more after %d events", sub.UserID, len(seen))
					return seen
				}
				break
			}
			switch {
			case m.Type == "ready" && !isReady:
				isReady = true
			case m.Type == "event":
				seen = append(seen, m.ID)
			default:
				t.Errorf("unexpected %s", m.Type)
			}
			cursor = m.Cursor
			if m.ID == last {
				_ = c.conn.Close()
				return seen
			}
		}
		_ = c.conn.Close()
	}
}

// expected reads the stream from its beginning and sorts out who should have seen what.
func (r *rig) expected(t *testing.T, subs []Subscriber) [][]string {
	t.Helper()
	want := make([][]string, len(subs))
	stream, err := r.js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	for seq := range stream.CachedInfo().State.LastSeq {
		msg, err := stream.GetMsg(t.Context(), seq+1)
		require.NoError(t, err)
		ev, err := events.Decode(msg.Data)
		require.NoError(t, err)
		for i, sub := range subs {
			ty, _ := events.TypeOf(ev.Data)
			visible := map[events.Scope]bool{
				events.ScopeSystem:    sub.Admin,
				events.ScopeUser:      ev.UserID == sub.UserID,
				events.ScopeWorkspace: strings.Contains(strings.Join(sub.WorkspaceIDs, " "), ev.WorkspaceID),
			}
			if visible[ty.Scope] {
				want[i] = append(want[i], ev.ID)
			}
		}
	}
	return want
}
