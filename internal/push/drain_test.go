package push

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"fdc/events"
)

// ended reads the stream to its end and gives what came before it.
func (c *sseClient) ended() (before []frame) {
	c.tb.Helper()
	for {
		f := c.next()
		if f == (frame{}) {
			return before
		}
		before = append(before, f)
	}
}

// crowd is clients of both transports, in one workspace, that say when and with what they ended.
type crowd struct {
	order []int            // of the ends
	codes map[int]int      // by client; 0 for a stream
	told  map[int][]string // the events that each was told
}

// gather opens that many clients, each of a user of its own, every tenth a stream. The returned channel gives the crowd once
// all have ended.
func (n *node) gather(t *testing.T, count int, workspace string) (running func() int, all <-chan crowd) {
	t.Helper()
	var mu sync.Mutex
	var reading sync.WaitGroup
	c := crowd{codes: map[int]int{}, told: map[int][]string{}}
	end := func(i, code int, ids []string) {
		mu.Lock()
		defer mu.Unlock()
		c.order, c.codes[i], c.told[i] = append(c.order, i), code, ids
	}
	for i := range count {
		sub := someone(workspace)
		if i%10 == 9 {
			s := n.stream(t, sub, "", "")
			require.Equal(t, "ready", s.next().kind)
			reading.Go(func() {
				var ids []string
				for _, f := range s.ended() {
					if f.kind == "" {
						continue // a ping
					}
					m, err := parse([]byte(f.data))
					if err != nil {
						t.Errorf("%s: %v", f.data, err)
					}
					ids = append(ids, m.ID)
				}
				end(i, 0, ids)
			})
			continue
		}
		ws, _ := n.open(t, sub)
		reading.Go(func() {
			code, before := ws.closed()
			_ = ws.conn.Close()
			var ids []string
			for _, m := range before {
				ids = append(ids, m.ID)
			}
			end(i, code, ids)
		})
	}
	done := make(chan crowd, 1)
	go func() {
		reading.Wait()
		done <- c
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return count - len(c.order)
	}, done
}

func await(tb testing.TB, all <-chan crowd) crowd {
	tb.Helper()
	select {
	case c := <-all:
		return c
	case <-time.After(patience):
		tb.Fatalf("not all clients were told goodbye in %s", patience)
		return crowd{}
	}
}

// While the hub drains, nobody is taken, and those who are left go on hearing.
func TestDrain(t *testing.T) {
	t.Parallel()
	const count = 60
	r := newRig(t, func(l *limits) { l.drain, l.drainEach = time.Minute, time.Hour })
	workspace := events.NewID()
	running, all := r.gather(t, count, workspace)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.stop()
	}()
	require.Eventually(t, func() bool { return running() < count }, patience, time.Millisecond)
	_, status := r.try(t, someone(workspace), "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, http.StatusServiceUnavailable, r.stream(t, someone(workspace), "", "").res.StatusCode)
	require.False(t, r.hub.enter(context.WithoutCancel(t.Context()), &socket{hub: r.hub, t: deaf{}}, someone(workspace), start{}),
		"nor one that was let in before")
	late := taskIn(workspace)
	r.publish(t, late)
	// Once it has come, all that are left may go.
	require.Eventually(t, func() bool { return testutil.ToFloat64(r.hub.delivered.WithLabelValues(kindEvent)) >= count/4 }, patience, time.Millisecond)
	r.hub.Cut()
	c := await(t, all)
	wait(t, ended, "the hub's end")

	heard := 0
	for i := range count {
		if slices.Contains(c.told[i], late.ID) {
			heard++
		}
	}
	t.Logf("%d of %d heard an event of the drain", heard, count)
	require.GreaterOrEqual(t, heard, count/4)
	require.Less(t, heard, count)
	require.Empty(t, r.hub.places)
}

func TestDrainIsSpread(t *testing.T) {
	t.Parallel()
	const count = 40
	r := newRig(t, func(l *limits) { l.drain, l.drainEach = time.Second, time.Hour })
	_, all := r.gather(t, count, events.NewID())
	began := time.Now()
	r.stop()
	t.Logf("%d goodbyes in %s", count, time.Since(began))
	require.GreaterOrEqual(t, time.Since(began), time.Second)
	c := await(t, all)
	for i, code := range c.codes {
		require.Equal(t, i%10 != 9, code == CodeRestart)
	}
	require.False(t, slices.IsSorted(c.order), "in random order")

	few := newNode(t, r.nats, func(l *limits) { l.drain = time.Hour })
	_, all = few.gather(t, 20, events.NewID())
	few.stop()
	await(t, all)

	gone := newNode(t, r.nats, func(l *limits) { l.drain, l.drainEach = time.Hour, time.Hour })
	client, _ := gone.open(t, someone())
	require.NoError(t, client.conn.Close())
	gone.stop() // there is nobody to wait for
}

func TestDrainIsCutShort(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.drain, l.drainEach = time.Hour, time.Hour })
	running, all := r.gather(t, 20, events.NewID())
	stuck, _ := r.open(t, someone()) // hangs up never
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.stop()
	}()
	require.Eventually(t, func() bool {
		r.hub.mu.Lock()
		defer r.hub.mu.Unlock()
		return r.hub.ending
	}, patience, time.Millisecond)
	require.Equal(t, 20, running())
	r.hub.Cut()
	r.hub.Cut()
	for i, code := range await(t, all).codes {
		require.Equal(t, i%10 != 9, code == CodeRestart)
	}
	wait(t, ended, "the hub's end")
	require.NoError(t, stuck.conn.UnderlyingConn().Close())
}
