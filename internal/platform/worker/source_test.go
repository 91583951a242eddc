package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
)

// replay begins a replay, as fdc replay does: a second from now, when the worker has left the one before.
func (r *rig) replay(t *testing.T, from uint64, order bus.ReplayOrder, ackWaits ...time.Duration) {
	t.Helper()
	order.ID, order.StartedAt, order.StartedBy = events.NewID(), time.Now(), "test"
	config := r.consumer.ReplayConfig(order, from, r.consumer.Filters, 1)
	begins := time.Now().Add(time.Second)
	config.PauseUntil, config.BackOff = &begins, ackWaits
	_, err := r.js.CreateConsumer(t.Context(), bus.Events, config)
	require.NoError(t, err)
}

// replayed waits until the replay owes and expects nothing, and ends it.
func (r *rig) replayed(t *testing.T) {
	t.Helper()
	name := bus.ReplayConsumer(r.consumer.Name)
	require.Eventually(t, func() bool {
		consumer, err := r.stream.Consumer(t.Context(), name)
		return err == nil && consumer.CachedInfo().NumAckPending == 0 && consumer.CachedInfo().NumPending == 0
	}, patience, 10*time.Millisecond, "the replay still has work")
	require.NoError(t, r.stream.DeleteConsumer(t.Context(), name))
}

func (r *rig) queueEmpty(t *testing.T) {
	t.Helper()
	stream, err := r.js.Stream(t.Context(), bus.Replay)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, patience, 10*time.Millisecond, "REPLAY still holds messages")
}

// each runs the body for a worker that handles events one by one, and for one that handles batches.
func each(t *testing.T, body func(t *testing.T, cfg func(worker.Handler) worker.Config)) {
	t.Helper()
	t.Run("each", func(t *testing.T) {
		t.Parallel()
		body(t, func(handle worker.Handler) worker.Config { return worker.Config{Handle: handle} })
	})
	t.Run("batch", func(t *testing.T) {
		t.Parallel()
		body(t, func(handle worker.Handler) worker.Config {
			return worker.Config{BatchSize: 10, HandleBatch: func(ctx context.Context, batch []*worker.Delivery) error {
				for _, d := range batch {
					d.Fail(handle(ctx, d))
				}
				return nil
			}}
		})
	})
}

// A replay that begins while the worker runs is drained, twice with different selections, by nobody but its consumer; what
// is not selected is not handled; live events don't wait for it.
func TestAReplayIsDrainedBesideTheLiveEvents(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, cfg func(worker.Handler) worker.Config) {
		t.Helper()
		r := newRig(t)
		bystander := r.as(t, "bystander")
		var seen, others calls
		release := make(chan struct{})
		r.start(t, cfg(func(_ context.Context, d *worker.Delivery) error {
			if d.Replayed {
				<-release
			}
			seen.add(d.Event.ID)
			return nil
		}))
		bystander.start(t, cfg(func(_ context.Context, d *worker.Delivery) error {
			others.add(d.Event.ID)
			return nil
		}))
		user := events.NewID()
		var published []events.Event
		for n := range 30 {
			published = append(published, r.publishOf(t, []string{user, events.NewID(), ""}[n%3]))
		}
		r.settled(t)
		r.replay(t, 6, bus.ReplayOrder{Until: 15})
		live := r.publish(t)
		require.Eventually(t, func() bool { return seen.of(live.ID) == 1 }, patience, 5*time.Millisecond, "a live event waits for the replay")
		close(release)
		r.replayed(t)
		r.replay(t, 1, bus.ReplayOrder{Until: 30, UserID: user})
		r.replayed(t)
		r.settled(t)
		bystander.settled(t)
		for n, e := range published {
			want, sequence := 1, n+1
			if sequence >= 6 && sequence <= 15 {
				want++
			}
			if n%3 == 0 {
				want++
			}
			require.Equal(t, want, seen.of(e.ID), "event %d", sequence)
			require.Equal(t, 1, others.of(e.ID), "event %d", sequence)
		}
		require.Equal(t, 1, seen.of(live.ID))
		require.Empty(t, r.dead(t, 0))
	})
}

// A paused replay is left alone and goes on where it was, whoever was stopped or restarted meanwhile.
func TestAReplayOutlivesPausesKillsAndRestarts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, cfg func(worker.Handler) worker.Config) {
		t.Helper()
		r := newRig(t)
		var published []events.Event
		for range 200 {
			published = append(published, r.publish(t))
		}
		name := bus.ReplayConsumer(r.consumer.Name)
		var again calls
		var count atomic.Int64
		reached, resume := make(chan struct{}, 1000), make(chan struct{})
		handle := func(_ context.Context, d *worker.Delivery) error {
			if d.Replayed {
				again.add(d.Event.ID)
				reached <- struct{}{}
				if count.Add(1) > 20 {
					<-resume // after the pause, however slow that is
				}
			}
			return nil
		}
		stop := r.start(t, cfg(handle))
		r.settled(t)
		r.replay(t, 1, bus.ReplayOrder{Until: 200, Rate: 100}, 500*time.Millisecond, time.Minute)
		for range 20 {
			<-reached
		}
		_, err := r.js.PauseConsumer(t.Context(), bus.Events, name, time.Now().Add(24*time.Hour))
		require.NoError(t, err)
		close(resume)
		stop()
		atPause := count.Load()
		require.Less(t, atPause, int64(200))

		// One that is killed leaves its deliveries without an answer.
		_, err = r.js.ResumeConsumer(t.Context(), bus.Events, name)
		require.NoError(t, err)
		consumer, err := r.stream.Consumer(t.Context(), name)
		require.NoError(t, err)
		killed, err := consumer.Fetch(7, jetstream.FetchMaxWait(patience))
		require.NoError(t, err)
		for range killed.Messages() { // no answer
		}
		_, err = r.js.PauseConsumer(t.Context(), bus.Events, name, time.Now().Add(24*time.Hour))
		require.NoError(t, err)

		r.start(t, cfg(handle))
		live := r.publish(t)
		r.settled(t)
		require.Equal(t, atPause, count.Load(), "a paused replay went on")
		require.NoError(t, r.server.Restart(t.Context()))
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // a request gets lost with the connection
			defer cancel()
			_, err := r.js.ResumeConsumer(ctx, bus.Events, name)
			return err == nil
		}, patience, 20*time.Millisecond)
		for count.Load() < 100 {
			<-reached
		}
		require.NoError(t, r.server.Restart(t.Context()))
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			consumer, err := r.js.Consumer(ctx, bus.Events, name)
			return err == nil && consumer.CachedInfo().NumPending == 0 && consumer.CachedInfo().NumAckPending == 0
		}, patience, 20*time.Millisecond)
		for n, e := range published {
			require.NotZero(t, again.of(e.ID), "event %d", n+1)
		}
		require.Zero(t, again.of(live.ID), "it is no part of the replay")
		require.Less(t, count.Load(), int64(200+60), "it began anew somewhere")
		require.Empty(t, r.dead(t, 0))
	})
}

// A worker lets a replay be that it doesn't understand in full.
func TestAReplayWithUnknownConditionsIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.publish(t)
	var again atomic.Int32
	r.start(t, worker.Config{Handle: func(_ context.Context, d *worker.Delivery) error {
		if d.Replayed {
			again.Add(1)
		}
		return nil
	}})
	config := r.consumer.ReplayConfig(bus.ReplayOrder{ID: "x", Until: 1}, 1, r.consumer.Filters, 1)
	config.Metadata["fdc-moon"] = "full"
	_, err := r.js.CreateConsumer(t.Context(), bus.Events, config)
	require.NoError(t, err)
	understood := config
	understood.Metadata = bus.ReplayOrder{ID: "y", Until: 1}.Metadata()
	// The worker has looked at least once before the next one comes and is drained.
	r.queued(t, worker.Copy{ID: "other", Subject: "evt.task.deleted.v1.x", Body: []byte("undecodable")})
	r.dead(t, 1)
	require.Zero(t, again.Load())
	require.NoError(t, r.stream.DeleteConsumer(t.Context(), config.Durable))
	_, err = r.js.CreateConsumer(t.Context(), bus.Events, understood)
	require.NoError(t, err)
	r.replayed(t)
	require.EqualValues(t, 1, again.Load())
}

// A rate is a bound: so many events take at least so long.
func TestAReplayKeepsToItsRate(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, cfg func(worker.Handler) worker.Config) {
		t.Helper()
		r := newRig(t)
		const total, rate = 20, 40
		user := events.NewID()
		for range total {
			r.publishOf(t, user)
			r.publish(t) // costs nothing
		}
		r.settle(t)
		var ended atomic.Pointer[time.Time]
		var handled atomic.Int32
		r.start(t, cfg(func(_ context.Context, d *worker.Delivery) error {
			if !d.Replayed {
				return nil
			}
			now := time.Now()
			ended.Store(&now)
			handled.Add(1)
			return nil
		}))
		begins := time.Now().Add(time.Second) // and no earlier
		r.replay(t, 1, bus.ReplayOrder{Until: 2 * total, Rate: rate, UserID: user})
		r.replayed(t)
		require.EqualValues(t, total, handled.Load())
		// The first portion, of two, is free, and the deliveries of the last one may still be unpaid.
		require.GreaterOrEqual(t, ended.Load().Sub(begins), time.Second*(total-6)/rate)
	})
}

// queued puts a copy into REPLAY.
func (r *rig) queued(t *testing.T, c worker.Copy) {
	t.Helper()
	c.Consumer = r.consumer.Name
	_, err := r.js.PublishMsg(t.Context(), c.Message(), jetstream.WithExpectStream(bus.Replay))
	require.NoError(t, err)
}

// What is handled again and fails again becomes a dead letter with the original's subject and sequence, whichever way it
// came; a copy goes to one consumer only.
func TestAPoisonReplayBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, cfg func(worker.Handler) worker.Config) {
		t.Helper()
		r := newRig(t)
		bystander := r.as(t, "bystander")
		garbage := "evt.task.created.v1." + events.NewID()
		r.raw(t, garbage, "garbage", []byte(`{`))
		poison, good := r.publish(t), r.publish(t)
		r.settle(t)
		bystander.settle(t)
		var again, others calls
		handle := func(seen *calls) worker.Handler {
			return func(_ context.Context, d *worker.Delivery) error {
				seen.add(d.Event.ID)
				if !d.Replayed || d.Event.ID != poison.ID {
					return nil
				}
				if want := d.Sequence; want != 2 {
					t.Errorf("sequence %d", want)
				}
				return worker.RetryAfter(errors.New("still poison"), time.Millisecond)
			}
		}
		r.start(t, cfg(handle(&again)))
		bystander.start(t, cfg(handle(&others)))
		r.replay(t, 1, bus.ReplayOrder{Until: 3})
		letters := r.dead(t, 2)
		r.replayed(t)
		copies, err := r.js.Conn().SubscribeSync("dead.>")
		require.NoError(t, err)
		dead, err := r.js.Stream(t.Context(), bus.Dead)
		require.NoError(t, err)
		for _, letter := range letters {
			sequence, subject := "1", garbage
			if letter.Header.Get("Nats-Msg-Id") == "probe:"+poison.ID {
				sequence, subject = "2", poison.NATSSubject()
			}
			require.Equal(t, sequence, letter.Header.Get(worker.HeaderSequence))
			require.Equal(t, "dead.probe."+subject, letter.Subject)
			require.NotEmpty(t, letter.Header.Get("traceparent"))
			require.NoError(t, dead.DeleteMsg(t.Context(), letter.Sequence))
		}

		// The same two from copies, after their letters are gone and while their ids are known still.
		original, err := r.stream.GetMsg(t.Context(), 2)
		require.NoError(t, err)
		r.queued(t, worker.Copy{ID: "a", Subject: original.Subject, Header: original.Header, Body: original.Data, MessageID: poison.ID, Sequence: 2, DeadLetter: 2})
		r.queued(t, worker.Copy{ID: "b", Subject: garbage, Body: []byte(`{`), MessageID: "garbage", Sequence: 1, DeadLetter: 1})
		r.queued(t, worker.Copy{ID: "b", Subject: garbage, Body: []byte(`{`), MessageID: "garbage", Sequence: 1, DeadLetter: 1})
		r.forget(t, copies, "dead.probe."+garbage, "dead.probe."+poison.NATSSubject())
		for sequence := uint64(3); sequence <= 4; sequence++ {
			require.Eventually(t, func() bool {
				letter, err := dead.GetMsg(t.Context(), sequence)
				if err != nil {
					return false
				}
				reason, attempts := letter.Header.Get(worker.HeaderReason), letter.Header.Get(worker.HeaderAttempts)
				if letter.Subject == "dead.probe."+garbage {
					return strings.HasPrefix(reason, "decode: ") && attempts == "1"
				}
				return letter.Subject == "dead.probe."+poison.NATSSubject() && reason == "still poison" && attempts == "3"
			}, patience, 20*time.Millisecond)
			for _, header := range []string{worker.HeaderDeadLetter, worker.HeaderOriginalID, worker.HeaderOriginalSequence} {
				letter, err := dead.GetMsg(t.Context(), sequence)
				require.NoError(t, err)
				require.Empty(t, letter.Header.Get(header))
			}
		}
		r.queueEmpty(t)
		info, err := dead.Info(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, info.State.Msgs)
		require.Equal(t, 1, again.of(good.ID))
		require.Zero(t, others.of(good.ID)+others.of(poison.ID))
	})
}

// settle lets the consumer skip what is in the stream.
func (r *rig) settle(t *testing.T) {
	t.Helper()
	info, err := r.stream.Info(t.Context())
	require.NoError(t, err)
	_, err = r.stream.ResetConsumerToSequence(t.Context(), r.consumer.Name, info.State.LastSeq+1)
	require.NoError(t, err)
}

// A stream DEAD that is full takes no letter: the events stay, with their reasons, hold nothing up, and are set aside when there
// is room again.
func TestAFullDeadStreamLosesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, cfg func(worker.Handler) worker.Config) {
		t.Helper()
		r := newRig(t)
		dead, err := r.js.Stream(t.Context(), bus.Dead)
		require.NoError(t, err)
		config := dead.CachedInfo().Config
		full := config
		full.MaxMsgs = 1
		_, err = r.js.UpdateStream(t.Context(), full)
		require.NoError(t, err)
		poison := map[string]bool{}
		for range 5 {
			poison[r.publish(t).ID] = true
		}
		good := r.publish(t)
		var seen calls
		r.start(t, cfg(func(_ context.Context, d *worker.Delivery) error {
			seen.add(d.Event.ID)
			if poison[d.Event.ID] {
				return worker.RetryAfter(errors.New("poison"), time.Millisecond)
			}
			return nil
		}))
		r.dead(t, 1)
		require.Eventually(t, func() bool { return seen.of(good.ID) == 1 }, patience, 5*time.Millisecond)
		for id := range poison {
			require.Eventually(t, func() bool { return seen.of(id) == 3 }, patience, 5*time.Millisecond)
		}
		_, err = r.js.UpdateStream(t.Context(), config)
		require.NoError(t, err)
		for _, letter := range r.dead(t, 5) {
			require.Equal(t, "poison", letter.Header.Get(worker.HeaderReason))
			require.Equal(t, "3", letter.Header.Get(worker.HeaderAttempts))
		}
		r.settled(t)
		for id := range poison {
			require.Equal(t, 3, seen.of(id), "handled again while it waited for DEAD")
		}
	})
}
