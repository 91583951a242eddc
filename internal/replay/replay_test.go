package replay_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
	"fdc/internal/replay"
)

// effects is what a service has made of events: one effect an event, however often it is handled.
type effects struct {
	mu      sync.Mutex
	handled int
	byID    map[string]int
	poison  string // the id of one that fails

	most int           // when so many are handled, the others wait
	goOn chan struct{} // until this is closed; nil: there is no such number
}

// stopAfter stops the service in the middle of its work, however slow the test is, until goOn.
func (e *effects) stopAfter(n int) (goOn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.most, e.goOn = n, make(chan struct{})
	return sync.OnceFunc(func() { close(e.goOn) })
}

func (e *effects) handle(_ context.Context, d *worker.Delivery) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if goOn := e.goOn; goOn != nil && e.handled >= e.most {
		e.mu.Unlock()
		<-goOn
		e.mu.Lock()
	}
	if d.Event.ID == e.poison {
		return worker.Discard(errors.New("poison"))
	}
	e.handled++
	e.byID[d.Event.ID]++
	return nil
}

func (e *effects) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handled, e.byID = 0, map[string]int{}
}

func (e *effects) counts() (handled, events int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.handled, len(e.byID)
}

// serve runs the service audit-archiver, as its own user of nats.conf. kill cuts it off without a goodbye,
// and only then lets go on what it has in hand.
func (r *rig) serve(t *testing.T, e *effects) (kill func(goOn func())) {
	t.Helper()
	nc := natstest.Connect(t, r.server, bus.AuditArchiver)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	consumer, _ := bus.ConsumerNamed(bus.AuditArchiver)
	w := worker.New(js, worker.Config{
		Consumer: consumer, Handle: e.handle, ReplayPoll: 20 * time.Millisecond, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(ctx) // it ends with ctx
	}()
	t.Cleanup(func() { stop(); nc.Close(); <-ended })
	return func(goOn func()) { nc.Close(); goOn(); stop(); <-ended }
}

// served is a rig with so many events, which the service has handled.
func served(t *testing.T, n int) (r *rig, e *effects, list []events.Event, kill func(goOn func())) {
	t.Helper()
	r = newRig(t, natstest.WithTCP())
	e = &effects{byID: map[string]int{}}
	kill = r.serve(t, e)
	list = r.fill(t, n)
	require.Eventually(t, func() bool { _, n := e.counts(); return n == len(list) }, patience, 10*time.Millisecond)
	e.reset()
	return r, e, list, kill
}

func (r *rig) replays() *replay.Replays {
	replays := &replay.Replays{NC: r.nc, JS: r.js}
	replays.SetWaits(r.settle, r.idle)
	return replays
}

func (r *rig) begin(t *testing.T, s replay.Selection, rate float64) replay.State {
	t.Helper()
	c, _ := bus.ConsumerNamed(bus.AuditArchiver)
	return r.beginTo(t, c, s, rate)
}

func (r *rig) beginTo(t *testing.T, c bus.Consumer, s replay.Selection, rate float64) replay.State {
	t.Helper()
	plan, err := r.replays().Plan(t.Context(), c, s)
	require.NoError(t, err)
	require.NoError(t, plan.Empty())
	state, err := r.replays().Begin(t.Context(), c, s, plan, bus.ReplayOrder{
		ID: events.NewID(), Rate: rate, StartedAt: time.Now(), StartedBy: events.OperatorActor,
	})
	require.NoError(t, err)
	return state
}

// delivered is what the durable consumers have had so far.
func (r *rig) delivered(t *testing.T) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for _, c := range bus.Consumers() {
		consumer, err := r.js.Consumer(t.Context(), bus.Events, c.Name)
		require.NoError(t, err)
		all[c.Name] = consumer.CachedInfo().Delivered.Consumer
	}
	return all
}

// All selected events are handled again, once each, by that consumer alone; what fails is counted as a dead letter.
func TestAReplayIsHandledByItsConsumerAlone(t *testing.T) {
	t.Parallel()
	r, e, list, _ := served(t, 300)
	bobs := []events.Event{task(bob), task(bob)}
	r.publish(t, bobs...)
	require.Eventually(t, func() bool { n, _ := e.counts(); return n == 2 }, patience, 10*time.Millisecond)
	e.reset()
	before := r.delivered(t)

	require.NoError(t, r.replays().Free(t.Context(), bus.AuditArchiver))
	require.NoError(t, r.replays().Attended(t.Context(), bus.AuditArchiver))
	e.poison = list[9].ID
	state := r.begin(t, replay.Selection{FromSeq: 1, ToSeq: 200}, 0)
	done, err := r.replays().Follow(t.Context(), state, nil)
	require.NoError(t, err)
	require.EqualValues(t, 200, done.Done)
	handled, distinct := e.counts()
	require.Equal(t, []int{199, 199}, []int{handled, distinct})
	dead, err := r.replays().DeadLetters(t.Context(), done)
	require.NoError(t, err)
	require.EqualValues(t, 1, dead)
	require.ErrorContains(t, r.replays().Free(t.Context(), bus.AuditArchiver), "already")
	require.NoError(t, r.replays().Remove(t.Context(), bus.AuditArchiver))
	require.NoError(t, r.replays().Remove(t.Context(), bus.AuditArchiver), "again is fine")

	e.reset()
	r.settle = 2 * time.Second // the worker leaves the one before
	state = r.begin(t, replay.Selection{UserID: bob}, 0)
	require.EqualValues(t, 2, state.Count)
	_, err = r.replays().Follow(t.Context(), state, nil)
	require.NoError(t, err)
	handled, distinct = e.counts()
	require.Equal(t, []int{2, 2}, []int{handled, distinct})
	require.Equal(t, before, r.delivered(t), "no live consumer moved")
}

// A replay that is paused stays where it is, and goes on from there; a second one is refused meanwhile.
func TestAReplayIsPausedAndGoesOn(t *testing.T) {
	t.Parallel()
	r, e, _, _ := served(t, 300)
	goOn := e.stopAfter(20)
	defer goOn()
	state := r.begin(t, replay.Selection{}, 1000)
	require.Eventually(t, func() bool { n, _ := e.counts(); return n == 20 }, patience, 10*time.Millisecond)
	require.NoError(t, r.replays().Pause(t.Context(), bus.AuditArchiver))
	c, _ := bus.ConsumerNamed(bus.AuditArchiver)
	_, err := r.replays().Begin(t.Context(), c, replay.Selection{}, &replay.Plan{Consumer: c.Name, Count: 1, FirstSequence: 1, LastSequence: 1},
		bus.ReplayOrder{ID: events.NewID(), StartedAt: time.Now()})
	require.ErrorContains(t, err, "--resume")
	paused, err := r.replays().State(t.Context(), bus.AuditArchiver)
	require.NoError(t, err)
	require.True(t, paused.Paused)
	require.Less(t, paused.Done, paused.Count)
	require.Equal(t, state.ID, paused.ID)
	goOn()
	require.NoError(t, r.replays().Continue(t.Context(), paused))
	_, err = r.replays().Follow(t.Context(), paused, nil)
	require.NoError(t, err)
	_, distinct := e.counts()
	require.Equal(t, 300, distinct)
}

// A worker that is in the middle of a replay must not take the next one for it: it would answer for events that the one before left out.
func TestAReplayIsNotTakenForTheOneBefore(t *testing.T) {
	t.Parallel()
	r, e, list, _ := served(t, 300)
	r.begin(t, replay.Selection{FromSeq: 1, ToSeq: 100}, 10)
	require.Eventually(t, func() bool { n, _ := e.counts(); return n > 0 }, patience, time.Millisecond)
	require.NoError(t, r.replays().Remove(t.Context(), bus.AuditArchiver))
	r.settle = 2 * time.Second
	state := r.begin(t, replay.Selection{FromSeq: 101}, 0)
	require.False(t, state.Paused, "by nobody")
	_, err := r.replays().Follow(t.Context(), state, nil)
	require.NoError(t, err)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range list[100:] {
		require.Contains(t, e.byID, ev.ID)
	}
}

// Whoever begins the replay and whoever handles it may both be killed in the middle, and the server restarted: whoever comes next goes on.
func TestAReplaySurvivesKills(t *testing.T) {
	t.Parallel()
	r, e, list, kill := served(t, 400)
	r.idle = 500 * time.Millisecond
	goOn := e.stopAfter(50)
	defer goOn()
	c, _ := bus.ConsumerNamed(bus.AuditArchiver)
	c.AckWait = 2 * time.Second // until those that were in hand come again
	state := r.beginTo(t, c, replay.Selection{}, 500)
	ctx, killed := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() {
		_, err := r.replays().Follow(ctx, state, nil)
		followed <- err
	}()
	require.Eventually(t, func() bool { n, _ := e.counts(); return n == 50 }, patience, 10*time.Millisecond)
	killed()
	require.ErrorIs(t, <-followed, context.Canceled)
	kill(goOn)
	require.NoError(t, r.server.Restart(t.Context()))
	var middle replay.State
	require.Eventually(t, func() bool {
		var err error
		middle, err = r.replays().State(t.Context(), bus.AuditArchiver)
		return err == nil
	}, patience, 10*time.Millisecond)
	require.Equal(t, state.ID, middle.ID)
	require.Less(t, middle.Done, middle.Count)
	noticed := sync.OnceFunc(func() { r.serve(t, e) }) // that nobody handles it
	done, err := r.replays().Follow(t.Context(), middle, noticed)
	require.NoError(t, err)
	require.EqualValues(t, 400, done.Done)
	_, distinct := e.counts()
	require.Equal(t, len(list), distinct, "every event has had its effect")
}

// Nothing is begun for a service that is not there.
func TestAServiceThatIsAwayIsNamed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.idle = 500 * time.Millisecond
	require.ErrorContains(t, r.replays().Attended(t.Context(), bus.Syncer), "syncer does not seem to run")
}

// A file goes to one consumer through REPLAY, with the sequences that it names.
func TestAFileIsFed(t *testing.T) {
	t.Parallel()
	r, e, list, _ := served(t, 40)
	var file bytes.Buffer
	lines := replay.NewLineWriter(&file)
	require.NoError(t, (&replay.Reader{NC: r.nc, JS: r.js}).Run(t.Context(), lines.Write))
	require.NoError(t, lines.Flush())
	before := r.delivered(t)
	c, _ := bus.ConsumerNamed(bus.AuditArchiver)
	s := replay.Selection{FromSeq: 11}
	plan, err := replay.PlanFile(bytes.NewReader(file.Bytes()), c, s, nil)
	require.NoError(t, err)
	require.Equal(t, &replay.Plan{Consumer: c.Name, Count: 30, FirstSequence: 11, LastSequence: 40, ByType: map[string]int64{"task.created": 30}}, plan)
	for range 2 { // the second one is another, and handled too
		e.reset()
		require.NoError(t, r.replays().FeedFile(t.Context(), bytes.NewReader(file.Bytes()), c, s, plan, events.NewID(), 0, nil))
		handled, distinct := e.counts()
		require.Equal(t, []int{30, 30}, []int{handled, distinct})
		require.NotContains(t, e.byID, list[9].ID)
	}
	require.Equal(t, before, r.delivered(t))
	_, err = replay.PlanFile(strings.NewReader(file.String()+"x\n"), c, s, nil)
	require.ErrorContains(t, err, "line 41")
}

// An empty stream is filled from an export, also by an import that was interrupted; a stream with other events is left alone.
func TestAStreamIsRecoveredFromAFile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	list := r.fill(t, 1200)
	var file bytes.Buffer
	lines := replay.NewLineWriter(&file)
	require.NoError(t, (&replay.Reader{NC: r.nc, JS: r.js}).Run(t.Context(), lines.Write))
	require.NoError(t, lines.Flush())
	require.NoError(t, r.owner.DeleteStream(t.Context(), bus.Events))
	require.NoError(t, bus.Provision(t.Context(), r.owner, 1))

	plan, err := r.replays().PlanImport(t.Context(), bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	require.EqualValues(t, 1200, plan.Count)
	ctx, interrupt := context.WithCancel(t.Context())
	broken := r.replays()
	broken.Tell = func(done, _ int64) {
		if done > 0 {
			interrupt()
		}
	}
	require.Error(t, broken.Import(ctx, bytes.NewReader(file.Bytes()), plan))
	plan, err = r.replays().PlanImport(t.Context(), bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	require.Positive(t, plan.Present)
	require.EqualValues(t, 1200, plan.Present+plan.Count)
	require.NoError(t, r.replays().Import(t.Context(), bytes.NewReader(file.Bytes()), plan))
	require.Equal(t, idsOf(list...), r.read(t, replay.Words{}))
	first, err := replay.Get(t.Context(), r.js, 1)
	require.NoError(t, err)
	require.Equal(t, list[0].ID, first.Header.Get(nats.MsgIdHdr))
	require.Equal(t, list[0].NATSSubject(), first.Subject)

	plan, err = r.replays().PlanImport(t.Context(), bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	require.Zero(t, plan.Count, "all is there")
	r.fill(t, 1)
	_, err = r.replays().PlanImport(t.Context(), bytes.NewReader(file.Bytes()))
	require.ErrorContains(t, err, "not in the file")
}
