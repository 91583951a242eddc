package push

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/fault"
)

// held are the user's places, and all.
func (h *Hub) held(user string) (own, all int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.places[user], h.taken
}

// awaitPlaces waits until the user holds so many.
func (h *Hub) awaitPlaces(tb testing.TB, user string, want int) {
	tb.Helper()
	require.Eventually(tb, func() bool { own, _ := h.held(user); return own == want }, patience, time.Millisecond)
}

func TestPlacesOfAUser(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.perUser = 3 })
	elsewhere := newNode(t, r.nats)
	me := someone()
	first, cursor := r.open(t, me)
	r.open(t, me)
	require.Equal(t, "ready", r.stream(t, me, "", "").next().kind)

	another := me
	another.SessionID = events.NewID()
	_, status := r.try(t, another, "")
	require.Equal(t, http.StatusTooManyRequests, status, "the limit is the user's, not the session's")
	require.Equal(t, http.StatusTooManyRequests, r.stream(t, me, cursor, "").res.StatusCode)
	_, err := r.hub.admit(t.Context(), me.UserID, "")
	f, ok := errors.AsType[*fault.Error](err)
	require.True(t, ok)
	require.Equal(t, fault.RateLimited, f.Kind)
	require.Equal(t, "too-many-sockets", f.Code)
	require.Contains(t, f.Detail, "You have 3 connections")
	require.Positive(t, f.RetryAfter)
	require.InDelta(t, 3, testutil.ToFloat64(r.hub.refused.WithLabelValues(refusedUser)), 0)
	r.open(t, someone())
	elsewhere.open(t, me)

	require.NoError(t, first.conn.Close())
	r.hub.awaitPlaces(t, me.UserID, 2)
	r.open(t, me)

	t.Run("what becomes no socket keeps none", func(t *testing.T) {
		you := someone()
		_, status := r.try(t, you, "nonsense")
		require.Equal(t, http.StatusBadRequest, status)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/ws", nil)
		require.NoError(t, err)
		req.Header = sessionHeader(t, you)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
		r.nats.Stop()
		_, status = r.try(t, you, cursor)
		require.Equal(t, http.StatusServiceUnavailable, status)
		own, _ := r.hub.held(you.UserID)
		require.Zero(t, own)
		require.NoError(t, r.nats.Restart(t.Context()))
	})
}

// A client that was let in and is no socket yet counts: else as many as connect at once would all see room for one.
func TestPlacesAreTakenBeforeTheSocketOpens(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.perUser, l.perNode = 2, 3 })
	me, you := events.NewID(), events.NewID()
	for range 2 {
		_, err := r.hub.admit(t.Context(), me, "")
		require.NoError(t, err)
	}
	_, err := r.hub.admit(t.Context(), me, "")
	require.Equal(t, fault.RateLimited, fault.KindOf(err))
	_, err = r.hub.admit(t.Context(), you, Cursor{r.hub.epoch, 0}.String())
	require.NoError(t, err)
	_, err = r.hub.admit(t.Context(), you, "")
	require.Equal(t, fault.Unavailable, fault.KindOf(err), "the node is full")
	r.hub.giveBack(me)
	_, err = r.hub.admit(t.Context(), you, "")
	require.NoError(t, err)
}

// rush connects that many clients at once, every other one with a cursor, and counts the statuses.
func (n *node) rush(t *testing.T, count int, who func(int) Subscriber, cursor string) (clients []*client, statuses map[int]int) {
	t.Helper()
	var mu sync.Mutex
	var dialing sync.WaitGroup
	statuses = make(map[int]int)
	begin := make(chan struct{})
	for i := range count {
		dialing.Go(func() {
			<-begin
			at := ""
			if i%2 == 0 {
				at = cursor
			}
			c, status := n.try(t, who(i), at)
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
			if c != nil {
				clients = append(clients, c)
			}
		})
	}
	close(begin)
	dialing.Wait()
	return clients, statuses
}

func TestPlacesAreExact(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.perUser, l.perNode = 8, 20 })
	me := someone()
	cursor := Cursor{r.hub.epoch, 0}.String()
	for range 3 {
		clients, statuses := r.rush(t, 100, func(int) Subscriber { return me }, cursor)
		require.Equal(t, map[int]int{http.StatusSwitchingProtocols: 8, http.StatusTooManyRequests: 92}, statuses)
		for _, c := range clients {
			require.Equal(t, "ready", c.next().Type)
			require.NoError(t, c.conn.Close())
		}
		r.hub.awaitPlaces(t, me.UserID, 0)
	}
	clients, statuses := r.rush(t, 100, func(int) Subscriber { return someone() }, cursor)
	require.Equal(t, map[int]int{http.StatusSwitchingProtocols: 20, http.StatusServiceUnavailable: 80}, statuses)
	require.InDelta(t, 80, testutil.ToFloat64(r.hub.refused.WithLabelValues(refusedNode)), 0)
	for _, c := range clients {
		require.NoError(t, c.conn.Close())
	}
	require.Eventually(t, func() bool { _, all := r.hub.held(""); return all == 0 }, patience, time.Millisecond)
	require.Empty(t, r.hub.places, "nobody is remembered")
}
