package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/platform/bus"
)

// meta is what a request from a browser gives to an event.
func meta(userID string) events.Meta {
	return events.Meta{
		Source: "/fdc/api", ActorID: userID, UserID: userID, RequestID: events.NewID(), IP: "203.0.113.7",
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	}
}

// history is n events of several kinds as a day's work leaves them, a version after the other per aggregate.
func history(n int) []events.Event {
	const aggregates = 1000
	type aggregate struct {
		id, user, workspace string
		version             int64
	}
	list := make([]aggregate, min(aggregates, n))
	for i := range list {
		list[i] = aggregate{id: events.NewID(), user: events.NewID(), workspace: events.NewID()}
	}
	facts := make([]events.Event, n)
	for i := range facts {
		k := i % len(list)
		a := &list[k]
		a.version++
		var data events.Payload
		switch {
		case k%10 == 0:
			data = events.WorkspaceDataUpdated{WorkspaceID: a.workspace, Version: a.version, Changed: []string{"/board/columns", "/title"}, Bytes: 20_000}
		case k%10 == 1:
			data = events.SyncRequested{
				JobID: a.id, UserID: a.user, Version: a.version,
				Type: events.SyncFull, Mode: events.SyncIncremental, Trigger: events.TriggerUser,
			}
		case a.version == 1:
			data = events.TaskCreated{TaskID: a.id, WorkspaceID: a.workspace, Version: 1, Origin: events.OriginUser}
		default:
			data = events.TaskUpdated{
				TaskID: a.id, WorkspaceID: a.workspace, Version: a.version, Changed: []string{"status", "title"}, Origin: events.OriginUser,
			}
		}
		facts[i] = events.New(meta(a.user), "", data)
	}
	return facts
}

// tasks are rows that transactions bump before they append their event.
type tasks struct{ ids []string }

func (w *world) tasks(ctx context.Context, n int) (*tasks, error) {
	t := &tasks{}
	if _, err := w.pool.Exec(ctx, `CREATE TABLE bench_tasks (id uuid PRIMARY KEY, version bigint NOT NULL DEFAULT 0)`); err != nil {
		return nil, fmt.Errorf("make tasks: %w", err)
	}
	for range n {
		id := events.NewID()
		if _, err := w.pool.Exec(ctx, `INSERT INTO bench_tasks (id) VALUES ($1)`, id); err != nil {
			return nil, fmt.Errorf("make tasks: %w", err)
		}
		t.ids = append(t.ids, id)
	}
	return t, nil
}

// bump changes a random task and states it.
func (t *tasks) bump(ctx context.Context, tx pgx.Tx) (events.Event, error) {
	id := t.ids[rand.IntN(len(t.ids))] //nolint:gosec // any will do
	var version int64
	err := tx.QueryRow(ctx, `UPDATE bench_tasks SET version = version + 1 WHERE id = $1 RETURNING version`, id).Scan(&version)
	if err != nil {
		return events.Event{}, fmt.Errorf("bump task %s: %w", id, err)
	}
	return events.New(meta(id), "", events.TaskUpdated{
		TaskID: id, WorkspaceID: id, Version: version, Changed: []string{"title"}, Origin: events.OriginUser,
	}), nil
}

// moments holds when something happened to each event. It is safe for concurrent use.
type moments struct {
	mu       sync.Mutex
	at       map[string]time.Time
	repeated int // events that it happened to more than once
}

func newMoments() *moments { return &moments{at: make(map[string]time.Time)} }

func (m *moments) record(id string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.at[id]; known {
		m.repeated++
		return
	}
	m.at[id] = at
}

func (m *moments) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.at)
}

// missing is how much of what happened earlier has not happened here. Other things may have: the audit log tells of its own months.
func (m *moments) missing(earlier *moments) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	earlier.mu.Lock()
	defer earlier.mu.Unlock()
	for id := range earlier.at {
		if _, ok := m.at[id]; !ok {
			n++
		}
	}
	return n
}

// since waits until everything that happened earlier has happened here too, exactly once, and gives how long it took.
func (m *moments) since(ctx context.Context, earlier *moments) ([]time.Duration, error) {
	const patience = 30 * time.Second
	err := until(ctx, patience, func(context.Context) (bool, error) { return m.missing(earlier) == 0, nil })
	if err != nil {
		return nil, fmt.Errorf("%d of %d events did not arrive: %w", m.missing(earlier), earlier.count(), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	earlier.mu.Lock()
	defer earlier.mu.Unlock()
	if m.repeated > 0 {
		return nil, fmt.Errorf("%d events arrived more than once", m.repeated)
	}
	took := make([]time.Duration, 0, len(earlier.at))
	for id, start := range earlier.at {
		took = append(took, m.at[id].Sub(start))
	}
	return took, nil
}

// receive consumes EVENTS as the audit archiver does and notes each event's arrival.
func (w *world) receive(ctx context.Context) (_ *moments, stop func(), _ error) {
	nc, err := w.connect(bus.AuditArchiver)
	if err != nil {
		return nil, nil, err
	}
	js, err := bus.JetStream(nc)
	if err != nil {
		return nil, nil, err
	}
	consumer, err := js.Consumer(ctx, bus.Events, bus.AuditArchiver)
	if err != nil {
		return nil, nil, fmt.Errorf("bind consumer %s: %w", bus.AuditArchiver, err)
	}
	arrived := newMoments()
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		arrived.record(msg.Headers().Get(jetstream.MsgIDHeader), time.Now())
		_ = msg.Ack() // unacknowledged it comes again, and is noticed
	})
	if err != nil {
		return nil, nil, fmt.Errorf("consume as %s: %w", bus.AuditArchiver, err)
	}
	return arrived, consuming.Stop, nil
}

// openLoop calls do so many times a second for a while, whether or not earlier calls have returned, and waits for all.
func openLoop(ctx context.Context, perSecond int, length time.Duration, do func(context.Context) error) error {
	ticker := time.NewTicker(time.Second / time.Duration(perSecond))
	defer ticker.Stop()
	var calls sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	start := time.Now()
	due := func(elapsed time.Duration) int { return int(elapsed.Seconds() * float64(perSecond)) }
	for n := 0; n < due(length); {
		// A ticker drops ticks when we are late; what is due by now is made up for.
		for ; n < min(due(time.Since(start))+1, due(length)); n++ {
			calls.Go(func() {
				if err := do(ctx); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
			})
		}
		select {
		case <-ctx.Done():
			calls.Wait()
			return ctx.Err()
		case <-ticker.C:
		}
	}
	calls.Wait()
	if len(errs) > 0 {
		return fmt.Errorf("%d calls failed, the first: %w", len(errs), errs[0])
	}
	return nil
}

// expect checks that the stream holds exactly these events, each once, in this order.
func (w *world) expect(ctx context.Context, want []string) error {
	info, err := w.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	if info.State.Msgs != uint64(len(want)) {
		return fmt.Errorf("the stream holds %d events, not %d", info.State.Msgs, len(want))
	}
	consumer, err := w.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	defer messages.Stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i, id := range want {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		if got := msg.Headers().Get(jetstream.MsgIDHeader); got != id {
			return fmt.Errorf("event %d of the stream is %s, not %s: lost, repeated or out of order", i+1, got, id)
		}
	}
	return nil
}

// background runs a service until the returned function ends it.
func background(ctx context.Context, run func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return sync.OnceValue(func() error {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

// reset forgets everything.
func (m *moments) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.at)
	m.repeated = 0
}
