package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/worker"
)

// What a replay consumer's metadata says beside its order, for whoever follows it. Workers don't look at it.
const (
	metaCount  = "replay-count"
	metaFirst  = "replay-first"
	metaDead   = "replay-dead" // the last sequence of DEAD when it began
	metaTotal  = "replay-total"
	lookEvery  = 200 * time.Millisecond
	idleAfter  = 5 * time.Second // then a service that doesn't pull is said to be away
	farAway    = 100 * 365 * 24 * time.Hour
	askTimeout = 3 * time.Second

	// settle is how long a new replay delivers nothing. Workers look once a second whether the replay that they drain is still the
	// same: until each has looked, one could take its events for those of the replay before, and answer for what that didn't select.
	settle = 2 * time.Second
)

// State is a replay that has begun.
type State struct {
	Consumer  string    `json:"consumer"`
	ID        string    `json:"id"`
	Count     int64     `json:"count"` // of the plan
	First     uint64    `json:"firstSequence"`
	Last      uint64    `json:"lastSequence"`
	Done      int64     `json:"done"` // about how many of them are handled
	Paused    bool      `json:"paused"`
	StartedAt time.Time `json:"startedAt"`

	ended   bool
	pulled  bool // a worker asks for more
	created time.Time
	dead    uint64
}

// ErrNone says that there is no replay to the consumer.
var ErrNone = errors.New("there is no replay")

// ErrGone says that the replay that was followed is there no more: somebody has abandoned or ended it.
var ErrGone = errors.New("the replay was ended by somebody else")

// State looks the replay to a consumer up; ErrNone when there is none.
func (r *Replays) State(ctx context.Context, consumer string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	found, err := r.JS.Consumer(ctx, bus.Events, bus.ReplayConsumer(consumer))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return State{}, ErrNone
	}
	if err != nil {
		return State{}, fmt.Errorf("look up the replay to %s: %w", consumer, err)
	}
	return stateOf(consumer, found.CachedInfo())
}

func stateOf(consumer string, info *jetstream.ConsumerInfo) (State, error) {
	order, err := bus.ParseReplayOrder(info.Config.Metadata)
	if err != nil {
		return State{}, fmt.Errorf("the replay to %s is none of this version's, abandon it with --abandon --yes: %w", consumer, err)
	}
	number := func(key string) int64 {
		n, _ := strconv.ParseInt(info.Config.Metadata[key], 10, 64) // what is missing is 0
		return n
	}
	s := State{
		Consumer: consumer, ID: order.ID, Count: number(metaCount), First: uint64(number(metaFirst)), Last: order.Until, //nolint:gosec // sequences
		Paused: info.Paused && info.PauseRemaining > settle, StartedAt: order.StartedAt,
		created: info.Created, dead: uint64(number(metaDead)), pulled: info.NumWaiting > 0, //nolint:gosec // a sequence
	}
	// All up to the last selected one is answered for, or what was left has expired.
	s.ended = info.AckFloor.Stream >= order.Until || info.NumPending == 0 && info.NumAckPending == 0
	// What is delivered and answered for, of all messages up to the last one: those of other users are among them.
	answered := max(int64(info.Delivered.Consumer)-int64(info.NumAckPending), 0) //nolint:gosec // counts
	if total := max(number(metaTotal), 1); !s.ended {
		s.Done = min(s.Count*min(answered, total)/total, max(s.Count-1, 0))
	} else {
		s.Done = s.Count
	}
	return s, nil
}

// Begin starts a replay of the plan that was made of the selection; its first event comes a little later. It fails when one is running.
func (r *Replays) Begin(ctx context.Context, c bus.Consumer, s Selection, plan *Plan, order bus.ReplayOrder) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	dead, err := r.JS.Stream(ctx, bus.Dead)
	if err != nil {
		return State{}, fmt.Errorf("look up %s: %w", bus.Dead, err)
	}
	total := plan.Count
	if s.UserID != "" {
		everyone := s
		everyone.UserID = ""
		everyone.FromSeq, everyone.ToSeq = plan.FirstSequence, plan.LastSequence
		of, err := (&Replays{NC: r.NC, JS: r.JS}).Plan(ctx, c, everyone)
		if err != nil {
			return State{}, err
		}
		total = of.Count
	}
	live, err := r.JS.Consumer(ctx, bus.Events, c.Name)
	if err != nil {
		return State{}, fmt.Errorf("look up the consumer %s (has fdc migrate run?): %w", c.Name, err)
	}
	order.Until, order.FromTime, order.UserID = plan.LastSequence, s.Since, s.UserID
	subjects := Intersect(s.Subjects(), c.Filters)
	config := c.ReplayConfig(order, plan.FirstSequence, subjects, live.CachedInfo().Config.Replicas)
	begins := live.CachedInfo().TimeStamp.Add(cmp.Or(r.settle, settle)) // by the server's clock, which ends the pause by itself
	config.PauseUntil = &begins
	config.Metadata[metaCount] = strconv.FormatInt(plan.Count, 10)
	config.Metadata[metaFirst] = strconv.FormatUint(plan.FirstSequence, 10)
	config.Metadata[metaDead] = strconv.FormatUint(dead.CachedInfo().State.LastSeq, 10)
	config.Metadata[metaTotal] = strconv.FormatInt(total, 10)
	made, err := r.JS.CreateConsumer(ctx, bus.Events, config)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return State{}, r.running(ctx, c.Name)
	}
	if err != nil {
		return State{}, fmt.Errorf("begin the replay to %s: %w", c.Name, err)
	}
	return stateOf(c.Name, made.CachedInfo())
}

// Free is the error of a replay to the consumer that is there already; nil when there is none.
func (r *Replays) Free(ctx context.Context, consumer string) error {
	_, err := r.State(ctx, consumer)
	if errors.Is(err, ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.running(ctx, consumer)
}

func (r *Replays) running(ctx context.Context, consumer string) error {
	s, err := r.State(ctx, consumer)
	if err != nil {
		return err
	}
	how := "running"
	if s.Paused {
		how = "paused"
	}
	return fault.New(fault.Conflict, "replay-running", "A replay to %s is %s already: %d of %d done. Go on with fdc replay --to %s --resume, "+
		"or give it up with --abandon --yes.", consumer, how, s.Done, s.Count, consumer)
}

// Attended waits until a copy of the service asks for events, and says after some seconds that none does.
func (r *Replays) Attended(ctx context.Context, consumer string) error {
	for deadline := time.Now().Add(r.idle()); ; {
		askCtx, cancel := context.WithTimeout(ctx, askTimeout)
		live, err := r.JS.Consumer(askCtx, bus.Events, consumer)
		cancel()
		switch {
		case err == nil && live.CachedInfo().NumWaiting > 0:
			return nil
		case err != nil && !bus.Unreachable(err) && !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("look up the consumer %s (has fdc migrate run?): %w", consumer, err)
		case time.Now().After(deadline):
			return fault.New(fault.Unavailable, "service-away", "The service %s does not seem to run: nobody asks for its events. Start it, then try again.", consumer)
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

// wait lets some time pass before the next look, or attempt.
func wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(lookEvery):
		return nil
	}
}

// Follow waits until the consumer has handled all of the replay. Away is told when nobody seems to handle it, and how long it
// was looked at.
func (r *Replays) Follow(ctx context.Context, s State, away func()) (State, error) {
	active, told, failures := time.Now(), false, 0
	for {
		now, err := r.State(ctx, s.Consumer)
		switch {
		case ctx.Err() != nil:
			return s, ctx.Err()
		case errors.Is(err, ErrNone), err == nil && !now.created.Equal(s.created):
			return s, ErrGone
		case err != nil:
			// A server that is away comes back, and the replay goes on without us.
			if failures++; failures == 2 && r.Waiting != nil {
				r.Waiting(err)
			}
		default:
			failures = 0
			if now.pulled || now.Done != s.Done || now.Paused {
				active, told = time.Now(), false
			}
			if s = now; r.Tell != nil {
				r.Tell(s.Done, s.Count)
			}
			if s.ended {
				return s, nil
			}
			if time.Since(active) > r.idle() && !told && away != nil {
				told = true
				away()
			}
		}
		if err := wait(ctx); err != nil {
			return s, err
		}
	}
}

// Pause stops the replay where it is, until Continue.
func (r *Replays) Pause(ctx context.Context, consumer string) error {
	if _, err := r.JS.PauseConsumer(ctx, bus.Events, bus.ReplayConsumer(consumer), time.Now().Add(farAway)); err != nil {
		return fmt.Errorf("pause the replay to %s: %w", consumer, err)
	}
	return nil
}

// Continue goes on with a paused replay, and leaves a running one alone.
func (r *Replays) Continue(ctx context.Context, s State) error {
	if !s.Paused {
		return nil
	}
	if _, err := r.JS.ResumeConsumer(ctx, bus.Events, bus.ReplayConsumer(s.Consumer)); err != nil {
		return fmt.Errorf("resume the replay to %s: %w", s.Consumer, err)
	}
	return nil
}

// Remove ends a replay, done or not. One that is gone already is fine.
func (r *Replays) Remove(ctx context.Context, consumer string) error {
	err := r.JS.DeleteConsumer(ctx, bus.Events, bus.ReplayConsumer(consumer))
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("end the replay to %s: %w", consumer, err)
	}
	return nil
}

// DeadLetters counts the events of the replay that have become dead letters since it began. An event that failed as a live one meanwhile,
// while it was replayed too, is among them.
func (r *Replays) DeadLetters(ctx context.Context, s State) (int64, error) {
	n := int64(0)
	reader := &Reader{
		NC: r.NC, JS: r.JS, Selection: Selection{FromSeq: s.dead + 1}, Subjects: []string{"dead." + s.Consumer + ".>"}, HeadersOnly: true, stream: bus.Dead,
	}
	err := reader.Run(ctx, func(e Stored) error {
		sequence, err := strconv.ParseUint(e.Header.Get(worker.HeaderSequence), 10, 64)
		if err == nil && s.First <= sequence && sequence <= s.Last {
			n++
		}
		return nil
	})
	return n, err
}
