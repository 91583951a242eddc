package worker_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/worker"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(16) // they wait for redeliveries and retries
	m.Run()
}

// rig is a provisioned server and a consumer.
type rig struct {
	server   *embednats.Server
	js       jetstream.JetStream
	stream   jetstream.Stream
	consumer bus.Consumer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	server := natstest.Provisioned(t)
	js := natstest.JetStream(t, natstest.Connect(t, server, "provision"))
	stream, err := js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	r := &rig{server: server, js: js, stream: stream}
	return r.as(t, "probe")
}

// as is the same server with a consumer of another name. A slow machine must not have messages delivered twice, so AckWait is long.
func (r *rig) as(t *testing.T, name string) *rig {
	t.Helper()
	other := *r
	other.consumer = bus.Consumer{
		Name: name, Filters: []string{"evt.>"}, AckWait: time.Minute, MaxAckPending: 1000, MaxAttempts: 3,
	}
	config := other.config()
	_, err := r.js.CreateConsumer(t.Context(), bus.Events, config)
	require.NoError(t, err)
	config.FilterSubjects = []string{bus.ReplaySubject(name, ">")}
	_, err = r.js.CreateConsumer(t.Context(), bus.Replay, config)
	require.NoError(t, err)
	return &other
}

func (r *rig) config() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: r.consumer.Name, FilterSubjects: r.consumer.Filters, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: r.consumer.AckWait, MaxDeliver: r.consumer.MaxAttempts + 10, MaxAckPending: r.consumer.MaxAckPending,
	}
}

// outlast has the server deliver again what is unanswered for two seconds, and the worker report progress ten times a second. The
// returned function waits until an event was in hand for longer than that.
func (r *rig) outlast(t *testing.T) (wait func()) {
	t.Helper()
	config := r.config()
	config.AckWait = 2 * time.Second
	_, err := r.js.UpdateConsumer(t.Context(), bus.Events, config)
	require.NoError(t, err)
	r.consumer.AckWait = 300 * time.Millisecond
	answers, err := r.js.Conn().SubscribeSync("$JS.ACK.>")
	require.NoError(t, err)
	return func() {
		t.Helper()
		for reports := 0; reports < 25; {
			msg, err := answers.NextMsg(patience)
			require.NoError(t, err)
			if string(msg.Data) == "+WPI" {
				reports++
			}
		}
	}
}

// forget has DEAD forget the ids of its messages once copies to all of the subjects were published again.
func (r *rig) forget(t *testing.T, copies *nats.Subscription, subjects ...string) {
	t.Helper()
	for missing := len(subjects); missing > 0; {
		msg, err := copies.NextMsg(patience)
		require.NoError(t, err)
		if i := slices.Index(subjects, msg.Subject); i >= 0 {
			subjects[i] = ""
			missing--
		}
	}
	dead, err := r.js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	config := dead.CachedInfo().Config
	for _, config.Duplicates = range []time.Duration{101 * time.Millisecond, 100 * time.Millisecond} { // the server looks with the window from before
		_, err = r.js.UpdateStream(t.Context(), config)
		require.NoError(t, err)
	}
}

// publish puts an event on the stream.
func (r *rig) publish(t *testing.T) events.Event {
	t.Helper()
	return r.publishOf(t, "")
}

// publishOf puts an event that concerns a user on the stream.
func (r *rig) publishOf(t *testing.T, user string) events.Event {
	t.Helper()
	workspace := events.NewID()
	task := events.NewID()
	e := events.New(events.Meta{Source: "/fdc/test", ActorID: events.SystemActor, WorkspaceID: workspace, UserID: user}, task,
		events.TaskDeleted{TaskID: task, WorkspaceID: workspace, Version: 2, Origin: "user"})
	body, err := events.Encode(e)
	require.NoError(t, err)
	r.raw(t, e.NATSSubject(), e.ID, body)
	return e
}

func (r *rig) raw(t *testing.T, subject, id string, body []byte) {
	t.Helper()
	_, err := r.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: body, Header: nats.Header{
		"Nats-Msg-Id": {id}, "traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}})
	require.NoError(t, err)
}

// start runs a worker; the returned function stops it and waits.
func (r *rig) start(t *testing.T, cfg worker.Config) (stop func()) {
	t.Helper()
	cfg.Consumer, cfg.Log, cfg.Metrics = r.consumer, zerolog.New(zerolog.NewTestWriter(t)), prometheus.NewRegistry()
	cfg.ReplayPoll = 20 * time.Millisecond
	js, err := jetstream.New(r.js.Conn(), jetstream.WithDefaultTimeout(2*time.Second)) // requests get lost with the connection
	require.NoError(t, err)
	w := worker.New(js, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// dead waits for the dead letters to become n and returns them.
func (r *rig) dead(t *testing.T, n uint64) []*jetstream.RawStreamMsg {
	t.Helper()
	stream, err := r.js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == n
	}, patience, 10*time.Millisecond, "want %d dead letters", n)
	var messages []*jetstream.RawStreamMsg
	for sequence := uint64(1); sequence <= n; sequence++ {
		msg, err := stream.GetMsg(t.Context(), sequence)
		require.NoError(t, err)
		messages = append(messages, msg)
	}
	return messages
}

// settled waits until the consumer owes and expects nothing.
func (r *rig) settled(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		consumer, err := r.stream.Consumer(t.Context(), r.consumer.Name)
		if err != nil {
			return false
		}
		info := consumer.CachedInfo()
		return info.NumAckPending == 0 && info.NumPending == 0
	}, patience, 10*time.Millisecond, "the consumer still has work")
}

// calls counts deliveries per event.
type calls struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *calls) add(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[id]++
	return c.n[id]
}

func (c *calls) of(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[id]
}

func TestAFailedEventComesAgainUntilItIsHandled(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]func() error{
		"error": func() error { return errors.New("not yet") },
		"later": func() error { return worker.RetryAfter(errors.New("not yet"), 10*time.Millisecond) },
		"panic": func() error { panic("not yet") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			e := r.publish(t)
			var seen calls
			r.start(t, worker.Config{Handle: func(_ context.Context, d *worker.Delivery) error {
				if n := seen.add(d.Event.ID); n < 3 {
					if d.Attempt != n {
						t.Errorf("attempt %d is numbered %d", n, d.Attempt)
					}
					return failure()
				}
				return nil
			}})
			require.Eventually(t, func() bool { return seen.of(e.ID) == 3 }, patience, 5*time.Millisecond)
			r.settled(t)
			require.Empty(t, r.dead(t, 0))
		})
	}
}

func TestAPoisonEventIsSetAsideAndHoldsNothingUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	garbage := "evt.task.created.v1." + events.NewID()
	r.raw(t, garbage, "garbage", []byte(`{"specversion":"1.0"`))
	exhausted, discarded := r.publish(t), r.publish(t)
	good := []events.Event{r.publish(t), r.publish(t), r.publish(t)}
	var seen calls
	r.start(t, worker.Config{Handle: func(_ context.Context, d *worker.Delivery) error {
		seen.add(d.Event.ID)
		switch d.Event.ID {
		case exhausted.ID:
			return worker.RetryAfter(errors.New("always fails\nwith a second line"), time.Millisecond)
		case discarded.ID:
			return worker.Discard(errors.New("makes no sense"))
		}
		return nil
	}})
	letters := map[string]*jetstream.RawStreamMsg{}
	for _, letter := range r.dead(t, 3) {
		letters[letter.Header.Get("Nats-Msg-Id")] = letter
	}
	r.settled(t)
	for _, e := range good {
		require.Equal(t, 1, seen.of(e.ID))
	}

	letter := letters["probe:"+exhausted.ID]
	require.NotNil(t, letter)
	require.Equal(t, 3, seen.of(exhausted.ID))
	require.Equal(t, "dead.probe."+exhausted.NATSSubject(), letter.Subject)
	require.Equal(t, "probe", letter.Header.Get(worker.HeaderConsumer))
	require.Equal(t, "always fails", letter.Header.Get(worker.HeaderReason))
	require.Equal(t, "3", letter.Header.Get(worker.HeaderAttempts))
	require.Equal(t, "2", letter.Header.Get(worker.HeaderSequence))
	require.NotEmpty(t, letter.Header.Get("traceparent"), "the original's headers stay")
	original, err := r.stream.GetMsg(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, original.Data, letter.Data)

	letter = letters["probe:"+discarded.ID]
	require.NotNil(t, letter)
	require.Equal(t, 1, seen.of(discarded.ID))
	require.Equal(t, "1", letter.Header.Get(worker.HeaderAttempts))

	letter = letters["probe:garbage"]
	require.NotNil(t, letter)
	require.True(t, strings.HasPrefix(letter.Header.Get(worker.HeaderReason), "decode: "), letter.Header.Get(worker.HeaderReason))
}

// An event that takes the process down leaves no answer. It is delivered MaxAttempts times and then set aside unhandled.
func TestACrashLoopEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := r.publish(t)
	config := r.config()
	const soon = 50 * time.Millisecond
	config.BackOff = []time.Duration{soon, soon, soon, time.Minute} // AckWait of each delivery
	consumer, err := r.js.UpdateConsumer(t.Context(), bus.Events, config)
	require.NoError(t, err)
	for range r.consumer.MaxAttempts {
		msg, err := consumer.Next(jetstream.FetchMaxWait(patience)) // and no answer
		require.NoError(t, err)
		require.Equal(t, e.NATSSubject(), msg.Subject())
	}
	r.start(t, worker.Config{Handle: func(context.Context, *worker.Delivery) error {
		t.Error("handled once more")
		return nil
	}})
	letter := r.dead(t, 1)[0]
	require.Equal(t, "3 deliveries ended without an answer", letter.Header.Get(worker.HeaderReason))
	r.settled(t)
}

// While a dependency is away, the event waits: longer than AckWait, more often than MaxAttempts, on one delivery.
func TestAnOutageUsesUpNoAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outlasted := r.outlast(t)
	e := r.publish(t)
	var seen calls
	var back atomic.Bool
	r.start(t, worker.Config{Handle: func(_ context.Context, d *worker.Delivery) error {
		if d.Attempt != 1 {
			t.Errorf("delivered again, attempt %d", d.Attempt)
		}
		seen.add(d.Event.ID)
		if !back.Load() {
			return fault.New(fault.Unavailable, "database-unavailable", "away")
		}
		return nil
	}, Ping: func(context.Context) error {
		if !back.Load() {
			return errors.New("no answer")
		}
		return nil
	}})
	outlasted()
	require.Eventually(t, func() bool { return seen.of(e.ID) > r.consumer.MaxAttempts }, patience, 5*time.Millisecond)
	back.Store(true)
	r.settled(t)
	require.Empty(t, r.dead(t, 0))
}

func TestASlowEventDelaysNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outlasted := r.outlast(t)
	slow := r.publish(t)
	fast := []events.Event{r.publish(t), r.publish(t), r.publish(t), r.publish(t)}
	release := make(chan struct{})
	var seen calls
	r.start(t, worker.Config{Concurrency: 2, Handle: func(_ context.Context, d *worker.Delivery) error {
		if d.Event.ID == slow.ID {
			<-release
		}
		seen.add(d.Event.ID)
		return nil
	}})
	for _, e := range fast {
		require.Eventually(t, func() bool { return seen.of(e.ID) == 1 }, patience, 5*time.Millisecond)
	}
	outlasted()
	require.Zero(t, seen.of(slow.ID))
	close(release)
	r.settled(t)
	require.Equal(t, 1, seen.of(slow.ID), "it was slower than AckWait and is still delivered once")
}

func TestStopFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := r.publish(t)
	entered, release := make(chan struct{}), make(chan struct{})
	var handled atomic.Int32
	stop := r.start(t, worker.Config{Handle: func(ctx context.Context, _ *worker.Delivery) error {
		close(entered)
		<-release
		if ctx.Err() != nil {
			t.Error("work in hand was cancelled")
		}
		handled.Add(1)
		return nil
	}})
	<-entered
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("stopped before the handler had ended")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	<-stopped
	require.EqualValues(t, 1, handled.Load(), e.ID)
	r.settled(t)
}

func TestABatchSucceedsButForWhatItFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var published []events.Event
	for range 25 {
		published = append(published, r.publish(t))
	}
	bad := published[7]
	var seen calls
	var largest atomic.Int32
	r.start(t, worker.Config{BatchSize: 10, HandleBatch: func(_ context.Context, batch []*worker.Delivery) error {
		largest.Store(max(largest.Load(), int32(len(batch)))) //nolint:gosec // at most ten
		for _, d := range batch {
			seen.add(d.Event.ID)
			if d.Event.ID == bad.ID {
				d.Fail(worker.Discard(errors.New("bad row")))
			}
		}
		return nil
	}})
	letter := r.dead(t, 1)[0]
	require.Equal(t, "probe:"+bad.ID, letter.Header.Get("Nats-Msg-Id"))
	r.settled(t)
	for _, e := range published {
		require.Equal(t, 1, seen.of(e.ID))
	}
	require.LessOrEqual(t, largest.Load(), int32(10))
}

// Large events make small batches: memory is bounded by bytes, not by their number.
func TestABatchIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const total, size, most = 60, 200 << 10, 1 << 20
	padding := []byte(`"padding":"` + strings.Repeat("x", size) + `","data":`)
	for range total {
		workspace, task := events.NewID(), events.NewID()
		e := events.New(events.Meta{Source: "/fdc/test", ActorID: events.SystemActor, WorkspaceID: workspace}, task,
			events.TaskDeleted{TaskID: task, WorkspaceID: workspace, Version: 2, Origin: "user"})
		body, err := events.Encode(e)
		require.NoError(t, err)
		r.raw(t, e.NATSSubject(), e.ID, bytes.Replace(body, []byte(`"data":`), padding, 1))
	}
	var largest atomic.Int64
	var mu sync.Mutex
	handled := map[string]bool{}
	r.start(t, worker.Config{
		BatchSize: 1000, BatchBytes: most, BatchWait: time.Second,
		HandleBatch: func(_ context.Context, batch []*worker.Delivery) error {
			largest.Store(max(largest.Load(), int64(len(batch))))
			mu.Lock()
			defer mu.Unlock()
			for _, d := range batch {
				handled[d.Event.ID] = true
			}
			return nil
		},
	})
	r.settled(t)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, handled, total)
	require.LessOrEqual(t, largest.Load(), int64(most/size+1))
	require.Greater(t, largest.Load(), int64(1))
}

// Requeued after its dead letter was removed, the event fails again under the same message id: it must be set aside anew,
// not dropped as a duplicate.
func TestADeadLetterThatFailsAgainIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	e := r.publish(t)
	fail := worker.Config{Handle: func(context.Context, *worker.Delivery) error { return worker.Discard(errors.New("no")) }}
	stop := r.start(t, fail)
	r.dead(t, 1)
	stop()
	dead, err := r.js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	require.NoError(t, dead.DeleteMsg(t.Context(), 1))
	copies, err := r.js.Conn().SubscribeSync("dead.>")
	require.NoError(t, err)
	_, err = r.stream.ResetConsumerToSequence(t.Context(), r.consumer.Name, 1)
	require.NoError(t, err)
	r.start(t, fail)
	r.forget(t, copies, "dead.probe."+e.NATSSubject())
	require.Eventually(t, func() bool {
		msg, err := dead.GetMsg(t.Context(), 2)
		return err == nil && msg.Header.Get("Nats-Msg-Id") == "probe:"+e.ID
	}, patience, 20*time.Millisecond)
	r.settled(t)
}
