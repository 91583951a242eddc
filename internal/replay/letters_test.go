package replay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/worker"
	"fdc/internal/replay"
)

var operator = events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}

func ignore(int) {}

// desk is where an operator handles dead letters.
type desk struct {
	*rig
	db   *pgtest.DB
	dead *replay.DeadLetters
}

func newDesk(tb testing.TB, opts ...natstest.Option) *desk {
	tb.Helper()
	d := &desk{rig: newRig(tb, opts...), db: pgtest.New(tb)}
	d.dead = replay.NewDeadLetters(d.js, outbox.New(d.db.Pool, nil))
	return d
}

// consume runs the worker of a service, with the rights of that service, until the test ends.
func (d *desk) consume(t *testing.T, name string, handle worker.Handler) {
	t.Helper()
	js, err := bus.JetStream(natstest.Connect(t, d.server, name))
	require.NoError(t, err)
	consumer, ok := bus.ConsumerNamed(name)
	require.True(t, ok)
	w := worker.New(js, worker.Config{
		Consumer: consumer, Handle: handle, ReplayPoll: 20 * time.Millisecond, Log: zerolog.New(zerolog.NewTestWriter(t)), Metrics: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

// deaths makes dead letters of events, as a worker makes them.
func (d *desk) deaths(tb testing.TB, consumer string, list ...events.Event) {
	tb.Helper()
	stored := make([]jetstream.PubAckFuture, len(list))
	for i, ev := range list {
		body, err := events.Encode(ev)
		require.NoError(tb, err)
		stored[i], err = d.owner.PublishMsgAsync(&nats.Msg{Subject: "dead." + consumer + "." + ev.NATSSubject(), Data: body, Header: nats.Header{
			jetstream.MsgIDHeader: {consumer + ":" + ev.ID}, "traceparent": {"x"}, worker.HeaderConsumer: {consumer},
			worker.HeaderReason: {"poison"}, worker.HeaderAttempts: {"8"}, worker.HeaderSequence: {strconv.Itoa(i + 1)},
		}}, jetstream.WithStallWait(patience))
		require.NoError(tb, err)
	}
	for _, future := range stored {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			require.NoError(tb, err)
		}
	}
}

func (d *desk) list(tb testing.TB, f replay.LetterFilter) []replay.Letter {
	tb.Helper()
	letters, err := d.dead.List(tb.Context(), f)
	require.NoError(tb, err)
	return letters
}

// settles waits until DEAD holds n letters and REPLAY nothing.
func (d *desk) settles(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		dead, err := d.owner.Stream(t.Context(), bus.Dead)
		if err != nil {
			return false
		}
		queue, err := d.owner.Stream(t.Context(), bus.Replay)
		return err == nil && queue.CachedInfo().State.Msgs == 0 && dead.CachedInfo().State.Msgs == uint64(n) //nolint:gosec // a count
	}, patience, 10*time.Millisecond, "want %d letters", n)
}

// refused returns a function that waits until so many copies for DEAD were published, which it has then refused as known, and
// has DEAD forget the ids of its messages.
func (d *desk) refused(t *testing.T) (forget func(consumers ...string)) {
	t.Helper()
	copies, err := d.owner.Conn().SubscribeSync("dead.>")
	require.NoError(t, err)
	return func(consumers ...string) {
		t.Helper()
		for len(consumers) > 0 {
			msg, err := copies.NextMsg(patience)
			require.NoError(t, err)
			consumers = slices.DeleteFunc(consumers, func(name string) bool { return strings.HasPrefix(msg.Subject, "dead."+name+".") })
		}
		d.remembers(t, 101*time.Millisecond) // the server looks with the window from before
		d.remembers(t, 100*time.Millisecond)
	}
}

// remembers sets for how long DEAD remembers ids.
func (d *desk) remembers(t *testing.T, window time.Duration) {
	t.Helper()
	dead, err := d.owner.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	config := dead.CachedInfo().Config
	config.Duplicates = window
	_, err = d.owner.UpdateStream(t.Context(), config)
	require.NoError(t, err)
}

// handled counts deliveries by event.
type handled struct {
	mu sync.Mutex
	n  map[string]int
}

func (h *handled) add(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n == nil {
		h.n = map[string]int{}
	}
	h.n[id]++
}

func (h *handled) of(id string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n[id]
}

// A body that can't be decoded and an event whose handler fails die in each consumer that fails on them; the others, and the
// other events, go on. Requeued after the handler was mended, the event is handled once, by the one that gave up on it.
func TestAPoisonMessageDiesAloneAndComesBackOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var broken atomic.Bool
	broken.Store(true)
	good, poison := update(), update()
	counts := map[string]*handled{bus.AuditArchiver: {}, bus.CacheInvalidator: {}}
	for name, seen := range counts {
		d.consume(t, name, func(_ context.Context, delivery *worker.Delivery) error {
			if name == bus.CacheInvalidator && delivery.Event.ID == poison.ID && broken.Load() {
				return worker.Discard(errors.New("this service is broken"))
			}
			seen.add(delivery.Event.ID)
			return nil
		})
	}
	garbage := "evt.workspace.data_updated.v1." + workspace
	_, err := d.js.Publish(t.Context(), garbage, []byte("{"))
	require.NoError(t, err)
	d.publish(t, poison, good)
	d.settles(t, 3)
	for _, seen := range counts {
		require.Eventually(t, func() bool { return seen.of(good.ID) == 1 }, patience, 5*time.Millisecond)
	}
	require.Equal(t, 1, counts[bus.AuditArchiver].of(poison.ID))

	letters := d.list(t, replay.LetterFilter{Consumer: bus.CacheInvalidator, Subjects: []string{poison.NATSSubject()}})
	require.Len(t, letters, 2, "the garbage has that subject, too")
	require.Len(t, d.list(t, replay.LetterFilter{Consumer: bus.AuditArchiver}), 1)
	var letter replay.Letter
	for _, l := range letters {
		if l.EventID() == poison.ID {
			letter = l
		}
	}
	require.Equal(t, "this service is broken", letter.Reason)
	require.Equal(t, 1, letter.Attempts)
	require.EqualValues(t, 2, letter.Original)

	broken.Store(false)
	done, err := d.dead.Requeue(t.Context(), operator, []replay.Letter{letter}, "mended", ignore)
	require.NoError(t, err)
	require.Equal(t, 1, done)
	require.Eventually(t, func() bool { return counts[bus.CacheInvalidator].of(poison.ID) == 1 }, patience, 5*time.Millisecond)
	d.settles(t, 2)
	require.Equal(t, 1, counts[bus.CacheInvalidator].of(poison.ID))
	require.Equal(t, 1, counts[bus.AuditArchiver].of(poison.ID), "it was requeued for another")
	told := d.db.Told(t)
	require.Len(t, told, 1)
	require.Equal(t, events.OpsDeadLetterRequeued{
		Consumer: bus.CacheInvalidator, Sequence: int64(letter.Sequence), EventID: poison.ID, Reason: "mended", //nolint:gosec // small
	}, told[0].Data)

	// What can't be decoded dies again, once, although DEAD still knows its id.
	garbled := d.list(t, replay.LetterFilter{})
	forget := d.refused(t)
	_, err = d.dead.Requeue(t.Context(), operator, garbled, "", ignore)
	require.NoError(t, err)
	forget(bus.AuditArchiver, bus.CacheInvalidator)
	d.settles(t, 2)
	again := d.list(t, replay.LetterFilter{})
	for _, l := range again {
		require.True(t, strings.HasPrefix(l.Reason, "decode: "), l.Reason)
		require.Equal(t, garbage, l.Subject)
		require.EqualValues(t, 1, l.Original)
		require.Equal(t, 1, l.Attempts)
		require.Greater(t, l.Sequence, garbled[1].Sequence)
	}
}

// What is requeued or discarded leaves the backup of DEAD with the transaction that tells of it, and stays there when that fails.
func TestALetterThatIsDealtWithLeavesTheBackup(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.deaths(t, bus.Syncer, task(alice), task(alice), task(alice), task(alice))
	stream, err := d.owner.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	letters := d.list(t, replay.LetterFilter{})
	for _, l := range letters {
		for _, created := range []time.Time{stream.CachedInfo().Created.Truncate(time.Microsecond), time.Unix(1, 0)} { // and of a stream that was lost
			_, err := d.db.Pool.Exec(t.Context(), `
				INSERT INTO stream_backup (stream, created, sequence, subject, headers, body, published_at)
				VALUES ('DEAD', $1, $2, '', jsonb_build_object('Nats-Msg-Id', jsonb_build_array($3::text)), '', now())`,
				created, int64(l.Sequence), bus.Syncer+":"+l.MessageID) //nolint:gosec // small
			require.NoError(t, err)
		}
	}
	left := func() (sequences []int64) {
		t.Helper()
		rows, err := d.db.Pool.Query(t.Context(), `SELECT sequence FROM stream_backup ORDER BY sequence, created`)
		require.NoError(t, err)
		sequences, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		require.NoError(t, err)
		return sequences
	}
	_, err = d.dead.Requeue(t.Context(), operator, letters[:1], "", ignore)
	require.NoError(t, err)
	require.Equal(t, []int64{2, 2, 3, 3, 4, 4}, left())
	_, err = d.dead.Discard(t.Context(), operator, letters[1:2], "enough", ignore)
	require.NoError(t, err)
	require.Equal(t, []int64{3, 3, 4, 4}, left())
	require.NoError(t, d.owner.DeleteStream(t.Context(), bus.Replay))
	_, err = d.dead.Requeue(t.Context(), operator, letters[2:], "", ignore)
	require.Error(t, err)
	require.Equal(t, []int64{3, 3, 4, 4}, left())
}

// update is a fact that both the archiver and the invalidator take.
func update() events.Event {
	return events.New(events.Meta{Source: "/fdc/test", ActorID: alice}, workspace,
		events.WorkspaceDataUpdated{WorkspaceID: workspace, Version: 1 + rand.Int64N(1<<40), Bytes: 2})
}

// An operator who is interrupted at any moment, and does the same again, requeues each letter once. FDC_REQUEUE_ROUNDS of it, or few.
func TestARequeueThatIsInterruptedLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var seen handled
	d.consume(t, bus.AuditArchiver, func(_ context.Context, delivery *worker.Delivery) error {
		seen.add(delivery.Event.ID)
		return nil
	})
	var all []events.Event
	interrupted := 0
	for round := 0; round < testenv.Size(t, "FDC_REQUEUE_ROUNDS", 10) || interrupted == 0; round++ {
		list := make([]events.Event, []int{1, 30}[round%2])
		for i := range list {
			list[i] = task(alice)
		}
		d.deaths(t, bus.AuditArchiver, list...)
		all = append(all, list...)
		for attempt := range 4 {
			ctx, cancel := context.WithCancel(t.Context())
			if attempt < 3 {
				timer := time.AfterFunc(rand.N(30*time.Millisecond), cancel)
				defer timer.Stop()
			}
			letters, err := d.dead.List(t.Context(), replay.LetterFilter{})
			require.NoError(t, err)
			if _, err = d.dead.Requeue(ctx, operator, letters, "", ignore); err != nil {
				interrupted++
				require.Less(t, attempt, 3, "%v", err)
			}
			cancel()
		}
		require.Empty(t, d.list(t, replay.LetterFilter{}))
	}
	t.Logf("%d interrupted", interrupted)
	d.settles(t, 0)
	for _, ev := range all {
		require.Equal(t, 1, seen.of(ev.ID))
	}
	told := map[string]int{}
	for _, ev := range d.db.Told(t) {
		told[ev.Data.(events.OpsDeadLetterRequeued).EventID]++ //nolint:forcetypeassert // nothing else happened
	}
	for _, ev := range all {
		require.NotZero(t, told[ev.ID], "nobody was told")
	}
}

// interrupted requeues letters, is interrupted as soon as a copy is in REPLAY, and reports whether they are in DEAD still.
func (d *desk) interrupted(t *testing.T, letters []replay.Letter) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	copied, err := d.owner.Conn().Subscribe("replay.>", func(*nats.Msg) { cancel() })
	require.NoError(t, err)
	require.NoError(t, d.owner.Conn().Flush())
	_, err = d.dead.Requeue(ctx, operator, letters, "", ignore)
	require.NoError(t, copied.Unsubscribe())
	return err != nil && len(d.list(t, replay.LetterFilter{})) == len(letters)
}

// The copy is in REPLAY and fails again before the letter is deleted: the new letter is not taken for the old one, and the
// operator who does the same again deletes the old one only.
func TestALetterThatFailsWhileItIsRequeuedIsKept(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var ev events.Event
	var first []replay.Letter
	for attempts := 1; ; attempts++ { // who is interrupted too late has deleted the letter
		require.Less(t, attempts, 100)
		ev = task(alice)
		d.deaths(t, bus.AuditArchiver, ev)
		first = d.list(t, replay.LetterFilter{})
		if d.interrupted(t, first) {
			break
		}
		for _, name := range []string{bus.Replay, bus.Dead} {
			stream, err := d.owner.Stream(t.Context(), name)
			require.NoError(t, err)
			require.NoError(t, stream.Purge(t.Context()))
		}
	}
	failed := make(chan struct{}, 10)
	forget := d.refused(t)
	d.consume(t, bus.AuditArchiver, func(context.Context, *worker.Delivery) error {
		failed <- struct{}{}
		return worker.Discard(errors.New("again"))
	})
	<-failed
	_, err := d.dead.Requeue(t.Context(), operator, first, "", ignore)
	require.NoError(t, err)
	forget(bus.AuditArchiver)
	d.settles(t, 1)
	letters := d.list(t, replay.LetterFilter{})
	require.Equal(t, "again", letters[0].Reason)
	require.Equal(t, ev.ID, letters[0].EventID())
	require.Empty(t, failed, "it was handled twice")
}

// An event that died twice, since somebody was interrupted, is handled once when both its letters are requeued.
func TestTwoLettersOfOneEventAreRequeuedOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.remembers(t, 100*time.Millisecond)
	ev := task(alice)
	require.Eventually(t, func() bool {
		d.deaths(t, bus.AuditArchiver, ev)
		return len(d.list(t, replay.LetterFilter{})) == 2
	}, patience, 20*time.Millisecond)
	letters := d.list(t, replay.LetterFilter{})
	done, err := d.dead.Requeue(t.Context(), operator, letters, "", ignore)
	require.NoError(t, err)
	require.Equal(t, 2, done)
	var seen handled
	d.consume(t, bus.AuditArchiver, func(_ context.Context, delivery *worker.Delivery) error {
		seen.add(delivery.Event.ID)
		return nil
	})
	d.settles(t, 0)
	require.Equal(t, 1, seen.of(ev.ID))
}

// Without the database nothing changes, and so it is with a full REPLAY; both say what is wrong.
func TestWhatCannotBeDoneChangesNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.deaths(t, bus.AuditArchiver, task(alice), task(bob))
	letters := d.list(t, replay.LetterFilter{})
	unchanged := func() {
		t.Helper()
		require.Equal(t, letters, d.list(t, replay.LetterFilter{}))
		queue, err := d.owner.Stream(t.Context(), bus.Replay)
		require.NoError(t, err)
		require.Zero(t, queue.CachedInfo().State.LastSeq)
	}
	queue, err := d.owner.Stream(t.Context(), bus.Replay)
	require.NoError(t, err)
	full := queue.CachedInfo().Config
	full.MaxBytes = 1
	_, err = d.owner.UpdateStream(t.Context(), full)
	require.NoError(t, err)
	_, err = d.dead.Requeue(t.Context(), operator, letters, "", ignore)
	require.ErrorContains(t, err, "is it full")
	unchanged()
	require.Empty(t, d.db.Told(t))

	d.deaths(t, "gone", task(alice))
	orphan := d.list(t, replay.LetterFilter{Consumer: "gone"})
	_, err = d.dead.Requeue(t.Context(), operator, append(orphan, letters...), "", ignore)
	require.ErrorContains(t, err, "discard it")
	done, err := d.dead.Discard(t.Context(), operator, orphan, "nobody takes it", ignore)
	require.NoError(t, err)
	require.Equal(t, 1, done)
	require.Equal(t, events.OpsDeadLetterDiscarded{
		Consumer: "gone", Sequence: 3, EventID: orphan[0].EventID(), Reason: "nobody takes it",
	}, d.db.Told(t)[0].Data)
	unchanged()

	_, err = d.dead.Get(t.Context(), []uint64{2, 99, 2, 3})
	require.ErrorIs(t, err, replay.ErrNoLetter)
	require.ErrorContains(t, err, "3, 99")
	found, err := d.dead.Get(t.Context(), []uint64{2, 1, 2})
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.NotEmpty(t, found[0].Body)

	d.db.Pool.Close()
	_, err = d.dead.Requeue(t.Context(), operator, letters, "", ignore)
	require.Error(t, err)
	_, err = d.dead.Discard(t.Context(), operator, letters, "x", ignore)
	require.Error(t, err)
	unchanged()
}

func TestLettersAreSelected(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	require.Empty(t, d.list(t, replay.LetterFilter{}))
	d.deaths(t, bus.AuditArchiver, task(alice), denied())
	d.deaths(t, bus.CacheInvalidator, update())
	all := d.list(t, replay.LetterFilter{})
	require.Len(t, all, 3)
	sequences := func(f replay.LetterFilter) string {
		var out []uint64
		for _, l := range d.list(t, f) {
			out = append(out, l.Sequence)
		}
		return fmt.Sprint(out)
	}
	require.Equal(t, "[1 2]", sequences(replay.LetterFilter{Consumer: bus.AuditArchiver}))
	require.Equal(t, "[1 3]", sequences(replay.LetterFilter{Subjects: []string{"evt.task.*.v1.>", "evt.workspace.*.v1.>"}}))
	require.Equal(t, "[1]", sequences(replay.LetterFilter{Consumer: bus.AuditArchiver, Subjects: []string{"evt.task.*.v1.>"}}))
	require.Equal(t, "[2 3]", sequences(replay.LetterFilter{Since: all[1].Time}))
	require.Equal(t, "[1]", sequences(replay.LetterFilter{Until: all[1].Time}))
	require.Equal(t, "[]", sequences(replay.LetterFilter{Since: time.Now().Add(time.Hour)}))
	require.Equal(t, "[]", sequences(replay.LetterFilter{Consumer: "nobody"}))
	dead, err := d.js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	require.NoError(t, dead.DeleteMsg(t.Context(), 2))
	require.Equal(t, "[1 3]", sequences(replay.LetterFilter{}))
	require.Positive(t, all[0].Size)
	require.Equal(t, "poison", all[0].Reason)
	require.Equal(t, 8, all[0].Attempts)

	// A list leaves no consumer behind.
	require.Empty(t, namesOf(t, d.owner))
}

func namesOf(t *testing.T, js jetstream.JetStream) (names []string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	lister := stream.ConsumerNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	require.NoError(t, lister.Err())
	return names
}

// FDC_DLQ_BENCH_LETTERS letters, or few: how long a list, a requeue and a discard of all of them take, with an fsync per write as in nats.conf.
func BenchmarkDeadLetters(b *testing.B) {
	letters := testenv.Size(b, "FDC_DLQ_BENCH_LETTERS", 1000)
	d := newDesk(b, natstest.WithSyncAlways())
	dead := make([]events.Event, letters)
	for b.Loop() {
		for _, step := range []string{"requeue", "discard"} {
			b.StopTimer()
			for i := range dead {
				dead[i] = task(alice)
			}
			d.deaths(b, bus.AuditArchiver, dead...)
			b.StartTimer()
			began := time.Now()
			list := d.list(b, replay.LetterFilter{})
			require.Len(b, list, letters)
			b.ReportMetric(time.Since(began).Seconds(), "list-s")
			began = time.Now()
			change := d.dead.Requeue
			if step == "discard" {
				change = d.dead.Discard
			}
			done, err := change(b.Context(), operator, list, "x", ignore)
			require.NoError(b, err)
			require.Equal(b, letters, done)
			b.ReportMetric(time.Since(began).Seconds(), step+"-s")
		}
	}
}
