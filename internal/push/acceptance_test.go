package push

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"fdc/events"
)

// line is a client's connection as whoever cuts it sees it.
type line struct{ open chan *websocket.Conn }

// cut waits until the client is connected, whatever it is being told, and breaks the connection; half of the time without a word to
// the other side's TCP that it is orderly.
func (l line) cut(ctx context.Context, rng *rand.Rand) bool {
	select {
	case conn := <-l.open:
		if tcp, ok := conn.UnderlyingConn().(*net.TCPConn); ok && rng.IntN(2) == 0 {
			_ = tcp.SetLinger(0) // it is closed next, anyhow
		}
		_ = conn.UnderlyingConn().Close()
		return true
	case <-ctx.Done():
		return false
	}
}

// follow reads on whatever node lets it in, from its last cursor each time, until it has seen the last event.
func follow(t *testing.T, pick func() *node, sub Subscriber, cursor, last string, l line) (seen []string, connects int) {
	t.Helper()
	for t.Context().Err() == nil {
		c, status := pick().try(t, sub, cursor)
		if c == nil {
			if status != 0 && status != http.StatusServiceUnavailable {
				t.Errorf("status %d", status)
				return seen, connects
			}
			runtime.Gosched() // the node is down
			continue
		}
		connects++
		l.open <- c.conn
		ready := false
		for {
			m, err := c.read()
			if err != nil {
				if isTimeout(err) {
					t.Errorf("nothing more after %d events", len(seen))
					return seen, connects
				}
				break
			}
			switch {
			case m.Type == "ready" && !ready:
				ready = true
			case m.Type == "event":
				seen = append(seen, m.ID)
			default:
				t.Errorf("unexpected %s %s", m.Type, m.Reason)
			}
			cursor = m.Cursor
			if m.ID == last {
				_ = c.conn.Close() // all seen
				return seen, connects
			}
		}
		select { // the old connection, if nobody has cut it
		case <-l.open:
		default:
		}
		_ = c.conn.Close() // it is broken
	}
	return seen, connects
}

// A client that is cut off 50 times while 2,000 events come, and comes back to one of two nodes, one of which is stopped and started
// again meanwhile, has seen each event of its scopes once, in the order of the stream.
func TestACutClientMissesNothing(t *testing.T) {
	t.Parallel()
	const total, cuts = 2000, 50
	r := newRig(t)
	var second atomic.Pointer[node]
	second.Store(newNode(t, r.nats))
	mine, others := events.NewID(), events.NewID()
	me := someone(mine)
	_, cursor := r.open(t, me)
	last := syncOf(me.UserID)

	l := line{make(chan *websocket.Conn, 1)}
	var running sync.WaitGroup
	var seen []string
	var connects int
	running.Go(func() {
		rng := rand.New(rand.NewPCG(3, 4))
		pick := func() *node {
			if rng.IntN(2) == 0 {
				return r.node
			}
			return second.Load()
		}
		seen, connects = follow(t, pick, me, cursor, last.ID, l)
	})
	third, twoThirds := make(chan struct{}), make(chan struct{})
	running.Go(func() {
		rng := rand.New(rand.NewPCG(5, 6))
		moments := rng.Perm(total)[:cuts]
		for n := range total {
			switch n {
			case total / 3:
				close(third)
			case 2 * total / 3:
				close(twoThirds)
			}
			switch rng.IntN(4) {
			case 0:
				publishUntilStored(t, r, taskIn(others))
			case 1:
				publishUntilStored(t, r, syncOf(me.UserID))
			default:
				publishUntilStored(t, r, taskIn(mine))
			}
			if slices.Contains(moments, n) && !l.cut(t.Context(), rng) {
				return
			}
		}
		publishUntilStored(t, r, last)
	})
	wait(t, third, "a third of the events")
	down := second.Load()
	down.stop()
	down.web.Close()
	wait(t, twoThirds, "two thirds of the events")
	second.Store(newNode(t, r.nats))
	running.Wait()

	want := r.expected(t, []Subscriber{me})[0]
	t.Logf("%d events, %d of them in scope; %d cuts, %d connects", total, len(want), cuts, connects)
	require.Equal(t, want, seen)
	require.Greater(t, connects, cuts)
	require.Greater(t, len(want), total/2)
}

// at publishes an event and returns where in the stream it is, and when it was known to be there.
func (r *rig) at(tb testing.TB, ev events.Event) (uint64, time.Time) {
	tb.Helper()
	body, err := events.Encode(ev)
	require.NoError(tb, err)
	ack, err := r.js.PublishMsg(tb.Context(), &nats.Msg{Subject: ev.NATSSubject(), Data: body})
	require.NoError(tb, err)
	return ack.Sequence, time.Now()
}

// heard is what a client was told, and when, until it ended or the event came after which it should look no further.
type heard struct {
	told []told
	code int
	when map[string]time.Time // by event
	end  time.Time
}

func listen(c *client, until string) (h heard) {
	h.when = make(map[string]time.Time)
	for {
		m, err := c.read()
		h.end = time.Now()
		if err != nil {
			if closing, ok := err.(*websocket.CloseError); ok { //nolint:errorlint // as gorilla returns it
				h.code = closing.Code
			}
			return h
		}
		h.told = append(h.told, m)
		h.when[m.ID] = h.end
		if m.ID == until {
			return h
		}
	}
}

// Under load, on either node: no event after the one that removes a member reaches that member, and none from the one on that ends
// a session reaches that session. How long after they were stored the end came is measured.
func TestNothingComesAfterTheEnd(t *testing.T) {
	t.Parallel()
	const rounds = 8
	// The load comes as fast as it can: on a machine that stalls, a queue's length of it at once, which would be another reason to end.
	long := func(l *limits) { l.queueMessages, l.queueBytes = 1<<16, 64<<20 }
	r := newRig(t, long)
	nodes := []*node{r.node, newNode(t, r.nats, long)}
	workspace := events.NewID()
	var load sync.WaitGroup
	loading, enough := context.WithCancel(t.Context())
	for range 2 {
		load.Go(func() {
			for loading.Err() == nil {
				ev := taskIn(workspace)
				body, err := events.Encode(ev)
				if err == nil {
					_, err = r.js.Publish(loading, ev.NATSSubject(), body)
				}
				if err != nil && loading.Err() == nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	defer func() {
		enough()
		load.Wait()
	}()
	var slowest time.Duration
	for range rounds {
		member, ending := someone(workspace), someone(workspace)
		var listening sync.WaitGroup
		last := syncOf(member.UserID)
		var removals, ends [2]heard
		for i, n := range nodes {
			c, _ := n.open(t, member)
			e, _ := n.open(t, ending)
			listening.Go(func() { removals[i] = listen(c, last.ID) })
			listening.Go(func() { ends[i] = listen(e, "") })
		}
		out, over := removed(workspace, member.UserID), revoked(ending)
		outSeq, outAt := r.at(t, out)
		overSeq, overAt := r.at(t, over)
		r.publish(t, taskIn(workspace), taskIn(workspace), last)
		listening.Wait()
		for i := range nodes {
			held := removals[i].told
			require.Equal(t, last.ID, held[len(held)-1].ID, "their own events still come")
			require.Equal(t, out.ID, held[len(held)-2].ID, "the removal is the last they hear of the workspace")
			for _, m := range held[:len(held)-1] {
				require.LessOrEqual(t, seqOf(t, m), outSeq)
			}
			slowest = max(slowest, removals[i].when[out.ID].Sub(outAt))

			require.Equal(t, CodeSessionEnded, ends[i].code)
			for _, m := range ends[i].told {
				require.Less(t, seqOf(t, m), overSeq)
			}
			slowest = max(slowest, ends[i].end.Sub(overAt))
		}
		own := []events.Event{last}
		// Nor does who comes back as the one they were.
		for _, n := range nodes {
			code, before := n.connect(t, ending, Cursor{r.hub.epoch, 0}.String()).closed()
			require.Equal(t, CodeSessionEnded, code)
			require.Empty(t, before)
			c := n.connect(t, member, Cursor{r.hub.epoch, outSeq}.String())
			c.expect(own...)
			require.Equal(t, "ready", c.next().Type)
			own = append(own, syncOf(member.UserID))
			r.publish(t, taskIn(workspace), own[len(own)-1])
			c.expect(own[len(own)-1])
		}
	}
	t.Logf("the last of %d removals and ends took effect %s after it was stored", 4*rounds, slowest)
	require.Less(t, slowest, patience)
}

func seqOf(t *testing.T, m told) uint64 {
	t.Helper()
	c, err := ParseCursor(m.Cursor)
	require.NoError(t, err)
	return c.Sequence
}

// tight is a listener whose connections' buffers are small, so that who doesn't read is noticed soon.
type tight struct{ net.Listener }

func (l tight) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(4 << 10) // without it the test takes longer
	}
	return conn, err
}

func dialTight(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(64 << 10) // as above; with less than a segment of loopback, the rest comes in trickles
	}
	return conn, err
}

// A hundred clients that never read cost their own sockets, no more memory than their queues may hold, and nobody else an event.
func TestStalledClients(t *testing.T) {
	t.Parallel()
	const stalled = 100
	r := newRig(t, func(l *limits) { l.write = time.Second })
	web := httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	web.Listener = tight{web.Listener}
	web.Start()
	t.Cleanup(web.Close)
	workspace := events.NewID()
	fast, _ := r.open(t, someone(workspace))
	fastStream := r.stream(t, someone(workspace), "", "")
	require.Equal(t, "ready", fastStream.next().kind)

	dialer := websocket.Dialer{NetDialContext: dialTight, HandshakeTimeout: patience}
	web.Client().Transport = &http.Transport{DialContext: dialTight}
	var sockets []*client
	for i := range stalled {
		header := sessionHeader(t, someone(workspace))
		if i%5 == 0 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, web.URL+"/events", nil)
			require.NoError(t, err)
			req.Header = header
			res, err := web.Client().Do(req)
			require.NoError(t, err)
			t.Cleanup(func() { _ = res.Body.Close() }) // cut off
			continue
		}
		conn, res, err := dialer.DialContext(t.Context(), strings.Replace(web.URL, "http", "ws", 1)+"/ws", header)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		t.Cleanup(func() { _ = conn.Close() }) // cut off
		sockets = append(sockets, &client{t, conn})
	}
	open := func() int {
		r.hub.mu.Lock()
		defer r.hub.mu.Unlock()
		return len(r.hub.sockets)
	}
	require.Eventually(t, func() bool { return open() == stalled+2 }, patience, time.Millisecond, "a handshake ends before the socket is entered")

	big := func() events.Event {
		var paths []string
		for i := range 60 {
			paths = append(paths, strings.Repeat("x", 190)+string(rune('a'+i%26))+string(rune('a'+i/26)))
		}
		return events.New(meta, "", events.TaskUpdated{TaskID: events.NewID(), WorkspaceID: workspace, Version: 2, Changed: events.Changed(paths...)})
	}
	// queued are the bytes in all queues; none holds more than it may.
	queued := func() (sum int) {
		r.hub.mu.Lock()
		defer r.hub.mu.Unlock()
		for _, s := range slices.Collect(maps.Keys(r.hub.sockets)) {
			s.mu.Lock()
			own, held := s.bytes, 0
			for _, m := range s.queue {
				held += len(m.body)
			}
			s.mu.Unlock()
			if own != held || own > r.hub.limits.queueBytes {
				t.Errorf("a queue of %d bytes says %d", held, own)
			}
			sum += own
		}
		return sum
	}
	heard := func(ev events.Event) {
		t.Helper()
		f := fastStream.next()
		for f.kind == "" {
			require.Equal(t, "ping", f.comment)
			f = fastStream.next()
		}
		require.Contains(t, f.data, ev.ID)
	}
	sent, most, slowest := 0, 0, time.Duration(0)
	for testutil.ToFloat64(r.hub.slow) < stalled {
		require.Less(t, sent, 2000, "%v of %d are gone", testutil.ToFloat64(r.hub.slow), stalled)
		ev, begun := big(), time.Now()
		r.publish(t, ev)
		most = max(most, queued())
		fast.expect(ev)
		heard(ev)
		slowest = max(slowest, time.Since(begun))
		sent++
	}
	require.Eventually(t, func() bool { return open() == 2 }, patience, time.Millisecond, "they are cut off")
	for _, c := range sockets {
		code, _ := c.closed()
		require.Contains(t, []int{0, CodeSlow}, code)
	}
	t.Logf("%d events of 12 KB; %d KiB queued at most for %d clients; the slowest event took %s to the others", sent, most>>10, stalled, slowest)
	require.LessOrEqual(t, most, (stalled+2)*r.hub.limits.queueBytes)
	ev := big()
	r.publish(t, ev)
	fast.expect(ev)
	heard(ev)
	require.Zero(t, queued())
}
