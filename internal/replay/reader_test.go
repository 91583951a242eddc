package replay_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/replay"
)

// heard is what a reader has told, in its order.
type heard struct {
	mu   sync.Mutex
	list []replay.Stored
}

func (h *heard) add(s replay.Stored) error {
	s.Body = append([]byte(nil), s.Body...)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, s)
	return nil
}

func (h *heard) ids(t *testing.T) []string {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := []string{}
	for _, s := range h.list {
		ev, err := events.Decode(s.Body)
		require.NoError(t, err)
		ids = append(ids, ev.ID)
	}
	return ids
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.list)
}

func idsOf(list ...events.Event) []string {
	ids := []string{}
	for _, ev := range list {
		ids = append(ids, ev.ID)
	}
	return ids
}

func (r *rig) read(t *testing.T, w replay.Words) []string {
	t.Helper()
	s, err := replay.Parse(w, time.Now())
	require.NoError(t, err)
	var h heard
	require.NoError(t, (&replay.Reader{NC: r.nc, JS: r.js, Selection: s}).Run(t.Context(), h.add))
	return h.ids(t)
}

// Every filter, with what it must leave out.
func TestReadersSelect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	require.Empty(t, r.read(t, replay.Words{}), "an empty stream")
	a1, b1, system, a2 := task(alice), task(bob), denied(), task(alice)
	r.publish(t, a1, b1, system)
	var middle heard
	reader := &replay.Reader{NC: r.nc, JS: r.js}
	require.NoError(t, reader.Run(t.Context(), middle.add))
	last := middle.list[2].Time.Add(time.Nanosecond).Format(time.RFC3339Nano)
	r.publish(t, a2)

	for _, c := range []struct {
		words replay.Words
		want  []string
	}{
		{replay.Words{}, idsOf(a1, b1, system, a2)},
		{replay.Words{FromSeq: "2", ToSeq: "3"}, idsOf(b1, system)},
		{replay.Words{FromSeq: "4"}, idsOf(a2)},
		{replay.Words{FromSeq: "99"}, idsOf()},
		{replay.Words{Since: last}, idsOf(a2)},
		{replay.Words{Until: last}, idsOf(a1, b1, system)},
		{replay.Words{Since: last, FromSeq: "1"}, idsOf(a2)},
		{replay.Words{Types: []string{"task.*"}, User: bob}, idsOf(b1)},
		{replay.Words{User: alice}, idsOf(a1, a2)},
		{replay.Words{User: events.NewID()}, idsOf()},
		{replay.Words{Workspace: workspace}, idsOf(a1, b1, a2)},
		{replay.Words{Workspace: events.NewID()}, idsOf()},
		{replay.Words{Types: []string{"ops.replayed"}}, idsOf(system)},
		{replay.Words{Types: []string{"task.deleted"}}, idsOf()},
	} {
		require.Equal(t, c.want, r.read(t, c.words), "%+v", c.words)
	}
	stream, err := r.js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	names := stream.ConsumerNames(t.Context())
	var left []string
	for name := range names.Name() {
		left = append(left, name)
	}
	require.NoError(t, names.Err())
	require.ElementsMatch(t, []string{bus.Syncer, bus.CacheInvalidator, bus.AuditArchiver}, left, "readers leave no consumers")
}

// A reader that follows misses nothing and repeats nothing while the server restarts under it, and ends in good order.
func TestATailOutlivesRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.WithTCP())
	r.fill(t, 10) // from before
	var h heard
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	s, err := replay.Parse(replay.Words{FromSeq: "11"}, time.Now())
	require.NoError(t, err)
	go func() { ended <- (&replay.Reader{NC: r.nc, JS: r.js, Selection: s, Follow: true}).Run(ctx, h.add) }()
	var want []string
	for restarts := range uint64(3) {
		want = append(want, idsOf(r.fill(t, 300)...)...)
		require.NoError(t, r.server.Restart(t.Context()))
		// IsConnected may still be said of the connection from before.
		require.Eventually(t, func() bool { return r.nc.Stats().Reconnects > restarts }, patience, 10*time.Millisecond)
	}
	want = append(want, idsOf(r.fill(t, 7)...)...)
	require.Eventually(t, func() bool { return h.count() >= len(want) }, patience, 10*time.Millisecond, "it has %d", h.count())
	stop()
	require.NoError(t, <-ended)
	require.Equal(t, want, h.ids(t))
}

// Without a beginning, only what comes is told.
func TestATailBeginsNow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(t, 5)
	var h heard
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- (&replay.Reader{NC: r.nc, JS: r.js, Follow: true}).Run(ctx, h.add) }()
	var all []string // it reads from some moment on, and everything since
	require.Eventually(t, func() bool {
		all = append(all, idsOf(r.fill(t, 1)...)...)
		return h.count() > 0
	}, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { got := h.ids(t); return got[len(got)-1] == all[len(all)-1] }, patience, 10*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	got := h.ids(t)
	require.Equal(t, all[len(all)-len(got):], got)
}

// One that follows up to a moment ends when that has come.
func TestATailEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	list := r.fill(t, 5)
	var h heard
	s := replay.Selection{FromSeq: 1, Until: time.Now().Add(300 * time.Millisecond)}
	require.NoError(t, (&replay.Reader{NC: r.nc, JS: r.js, Selection: s, Follow: true}).Run(t.Context(), h.add))
	require.Equal(t, idsOf(list...), h.ids(t))
	require.False(t, time.Now().Before(s.Until))
	require.NoError(t, (&replay.Reader{NC: r.nc, JS: r.js, Selection: replay.Selection{FromSeq: 1, ToSeq: 3}, Follow: true}).Run(t.Context(), h.add))
	require.Equal(t, 8, h.count())
}

// A reader says so when the stream is another one, instead of going on at a sequence that means something else.
func TestAStreamMadeAnewIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(t, 5)
	var h heard
	ended := make(chan error, 1)
	go func() {
		ended <- (&replay.Reader{NC: r.nc, JS: r.js, Selection: replay.Selection{FromSeq: 1}, Follow: true}).Run(t.Context(), h.add)
	}()
	require.Eventually(t, func() bool { return h.count() == 5 }, patience, 10*time.Millisecond)
	require.NoError(t, r.owner.DeleteStream(t.Context(), bus.Events))
	require.NoError(t, bus.Provision(t.Context(), r.owner, 1))
	require.ErrorIs(t, <-ended, replay.ErrStreamReplaced)
}

func TestTheCallersErrorEndsTheReading(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(t, 5)
	full := errors.New("disk full")
	n := 0
	err := (&replay.Reader{NC: r.nc, JS: r.js}).Run(t.Context(), func(replay.Stored) error {
		if n++; n == 3 {
			return full
		}
		return nil
	})
	require.ErrorIs(t, err, full)
	require.Equal(t, 3, n)
}

func TestGetSaysWhyThereIsNone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	get := func(sequence uint64) error {
		_, err := replay.Get(t.Context(), r.js, sequence)
		return err
	}
	require.ErrorContains(t, get(1), "empty")
	list := r.fill(t, 3)
	stored, err := replay.Get(t.Context(), r.js, 2)
	require.NoError(t, err)
	require.Equal(t, list[1].NATSSubject(), stored.Subject)
	stream, err := r.owner.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(t.Context(), 1))
	require.NoError(t, stream.DeleteMsg(t.Context(), 2))
	r.fill(t, 1)
	require.NoError(t, stream.DeleteMsg(t.Context(), 4))
	for sequence, want := range map[uint64]string{1: "no longer", 4: "taken out", 5: "yet"} {
		require.ErrorContains(t, get(sequence), want)
		require.Equal(t, fault.NotFound, fault.KindOf(get(sequence)))
	}
}
