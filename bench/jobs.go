package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/worker"
)

const (
	jobConcurrency = 100
	jobsPerSecond  = 200
)

// queue is a job queue whose jobs do nothing. Each job has an id.
type queue interface {
	// fill leaves n jobs for later.
	fill(ctx context.Context, n int) error
	// start works until the returned function ends it; handle is told the id of each job.
	start(ctx context.Context, handle func(id string)) (stop func() error, err error)
	// idle reports whether the end of every job has been recorded.
	idle(ctx context.Context) (bool, error)
	// enqueue makes one job, durably; committing is called right before that.
	enqueue(ctx context.Context, committing func(id string)) error
}

// jobs compares queues: how fast they work off what has piled up, and how soon they begin a new job.
func jobs(ctx context.Context, b *bench) ([]sample, error) {
	n := b.amount(10_000, 500)
	peers := []struct {
		name, absent string
		make         func(context.Context, *world) (queue, error)
	}{
		{name: "River", make: newRiverJobs},
		{name: "asynq", make: newAsynqJobs},
	}
	if b.redis == nil {
		peers[1].absent = noRedis
	}
	our, err := b.measureQueue(ctx, n, newOurJobs)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	var throughput, latency []sample
	for _, peer := range peers {
		var their queueSpeed
		if peer.absent == "" {
			if their, err = b.measureQueue(ctx, n, peer.make); err != nil {
				return nil, fmt.Errorf("%s: %w", peer.name, err)
			}
		}
		throughput = append(throughput, sample{
			line: line{
				Case: fmt.Sprintf("jobs: %d no-ops, concurrency %d", n, jobConcurrency),
				Ours: "worker", Baseline: peer.name, Unit: perSecond,
			},
			ours: our.perSecond, baseline: their.perSecond, absent: peer.absent,
		})
		latency = append(latency, sample{
			line: line{
				Case: fmt.Sprintf("jobs at %d/s: commit → handler, p50", jobsPerSecond),
				Ours: "outbox + worker", Baseline: peer.name, Unit: milliseconds,
			},
			ours: our.latency, baseline: their.latency, absent: peer.absent,
		})
	}
	return append(throughput, latency...), nil
}

type queueSpeed struct{ perSecond, latency float64 }

func (b *bench) measureQueue(ctx context.Context, n int, prepare func(context.Context, *world) (queue, error)) (speed queueSpeed, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		q, err := prepare(ctx, w)
		if err != nil {
			return err
		}
		speed.perSecond, err = b.workOff(ctx, w, q, n)
		return err
	})
	if err != nil {
		return speed, err
	}
	err = b.inWorld(ctx, func(w *world) error {
		q, err := prepare(ctx, w)
		if err != nil {
			return err
		}
		speed.latency, err = b.jobLatency(ctx, q)
		return err
	})
	return speed, err
}

// workOff takes the time from the first job until the end of the last is on record.
func (b *bench) workOff(ctx context.Context, w *world, q queue, n int) (float64, error) {
	if err := q.fill(ctx, n); err != nil {
		return 0, err
	}
	if err := w.settle(ctx); err != nil {
		return 0, err
	}
	handled := newMoments()
	first := make(chan time.Time, 1)
	stop, err := q.start(ctx, func(id string) {
		now := time.Now()
		handled.record(id, now)
		select {
		case first <- now:
		default: // it has had its first
		}
	})
	if err != nil {
		return 0, err
	}
	err = until(ctx, 5*time.Minute, func(context.Context) (bool, error) { return handled.count() >= n, nil })
	if err == nil {
		err = until(ctx, time.Minute, q.idle)
	}
	end := time.Now()
	if err = errors.Join(err, stop()); err != nil {
		return 0, fmt.Errorf("%d of %d jobs handled: %w", handled.count(), n, err)
	}
	if handled.repeated > 0 {
		return 0, fmt.Errorf("%d jobs handled more than once", handled.repeated)
	}
	select {
	case start := <-first:
		return rate(n, end.Sub(start)), nil
	default:
		return 0, errors.New("no job was handled")
	}
}

// jobLatency makes jobs at a steady rate and gives the median of the times until their handlers began.
func (b *bench) jobLatency(ctx context.Context, q queue) (float64, error) {
	begun := newMoments()
	stop, err := q.start(ctx, func(id string) { begun.record(id, time.Now()) })
	if err != nil {
		return 0, err
	}
	took, err := measureCommits(ctx, begun, jobsPerSecond, b.length(), q.enqueue)
	return median(inMilliseconds(took)), errors.Join(err, stop())
}

// ourJobs are events for the syncer: committed with the outbox, carried by the relay, worked by the worker.
type ourJobs struct{ world *world }

func newOurJobs(_ context.Context, w *world) (queue, error) { return &ourJobs{world: w}, nil }

func newJob() events.Event {
	user := events.NewID()
	return events.New(meta(user), "", events.SyncRequested{
		JobID: events.NewID(), UserID: user, Version: 1,
		Type: events.SyncFull, Mode: events.SyncIncremental, Trigger: events.TriggerUser,
	})
}

func (q *ourJobs) fill(ctx context.Context, n int) error {
	facts := make([]events.Event, n)
	for i := range facts {
		facts[i] = newJob()
	}
	if err := q.world.fill(ctx, facts); err != nil {
		return err
	}
	stop := background(ctx, q.world.relay().Run)
	err := q.world.stored(ctx, n)
	if err == nil {
		err = q.world.emptied(ctx)
	}
	return errors.Join(err, stop())
}

func (q *ourJobs) start(ctx context.Context, handle func(string)) (func() error, error) {
	stopWorker, err := q.world.consume(ctx, jobConcurrency, func(_ context.Context, d *worker.Delivery) error {
		handle(d.Event.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	stopRelay := background(ctx, q.world.relay().Run)
	return func() error { return errors.Join(stopRelay(), stopWorker()) }, nil
}

// consume handles the events of the syncer's consumer until the returned function ends it.
func (w *world) consume(ctx context.Context, concurrency int, handle worker.Handler) (stop func() error, err error) {
	consumer, ok := bus.ConsumerNamed(bus.Syncer)
	if !ok {
		return nil, fmt.Errorf("consumer %s is not declared", bus.Syncer)
	}
	nc, err := w.connect(bus.Syncer)
	if err != nil {
		return nil, err
	}
	js, err := bus.JetStream(nc)
	if err != nil {
		return nil, err
	}
	return background(ctx, worker.New(js, worker.Config{
		Consumer: consumer, Concurrency: concurrency, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Handle: handle,
	}).Run), nil
}

func (q *ourJobs) idle(ctx context.Context) (bool, error) {
	consumer, err := q.world.stream.Consumer(ctx, bus.Syncer)
	if err != nil {
		return false, fmt.Errorf("read consumer %s: %w", bus.Syncer, err)
	}
	info := consumer.CachedInfo()
	return info.NumPending == 0 && info.NumAckPending == 0, nil
}

func (q *ourJobs) enqueue(ctx context.Context, committing func(string)) error {
	return q.world.outbox.Tx(ctx, func(tx pgx.Tx) error {
		event := newJob()
		if err := outbox.Append(ctx, tx, event); err != nil {
			return err
		}
		committing(event.ID)
		return nil
	})
}
