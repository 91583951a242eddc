package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/internal/platform/outbox"
)

const commitsPerSecond = 300

// outboxLatency commits at a steady rate and takes the time from just before each commit until a consumer has the event.
func outboxLatency(ctx context.Context, b *bench) ([]sample, error) {
	var ours, theirs []time.Duration
	err := b.inTurns(
		func() (err error) { ours, err = b.commitLatency(ctx, ourOutbox); return err },
		func() (err error) { theirs, err = b.commitLatency(ctx, theirOutbox); return err },
	)
	if err != nil {
		return nil, err
	}
	const baseline = "Watermill SQL forwarder"
	about := fmt.Sprintf("outbox at %d commits/s: commit → consumer, ", commitsPerSecond)
	us, them := inMilliseconds(ours), inMilliseconds(theirs)
	return []sample{
		{
			line: line{Case: about + "p50", Ours: "relay", Baseline: baseline, Unit: milliseconds, Target: target{AtMost: 5}},
			ours: median(us), baseline: median(them),
		},
		{
			line: line{Case: about + "p99", Ours: "relay", Baseline: baseline, Unit: milliseconds},
			ours: quantile(us, 0.99), baseline: quantile(them, 0.99),
		},
	}, nil
}

// transact runs fn in a transaction that ends with an event in the outbox; committing is called last before the commit.
type transact func(ctx context.Context, committing func(eventID string)) error

// ourOutbox starts the relay.
func ourOutbox(ctx context.Context, w *world, t *tasks) (transact, func() error, error) {
	stop := background(ctx, w.relay().Run)
	return func(ctx context.Context, committing func(string)) error {
		return w.outbox.Tx(ctx, func(tx pgx.Tx) error {
			event, err := t.bump(ctx, tx)
			if err != nil {
				return err
			}
			if err := outbox.Append(ctx, tx, event); err != nil {
				return err
			}
			committing(event.ID)
			return nil
		})
	}, stop, nil
}

// relay is the relay as every API process runs it.
func (w *world) relay() *outbox.Relay {
	return outbox.NewRelay(w.db, w.js, zerolog.Nop(), prometheus.NewRegistry())
}

// theirOutbox starts the forwarder.
func theirOutbox(ctx context.Context, w *world, t *tasks) (transact, func() error, error) {
	m, err := newWatermillOutbox(w)
	if err != nil {
		return nil, nil, err
	}
	stop, err := m.start(ctx)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, committing func(string)) error {
		return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			event, err := t.bump(ctx, tx)
			if err != nil {
				return err
			}
			if err := m.publish(ctx, tx, event); err != nil {
				return err
			}
			committing(event.ID)
			return nil
		})
	}, stop, nil
}

func (b *bench) commitLatency(
	ctx context.Context, start func(context.Context, *world, *tasks) (transact, func() error, error),
) (took []time.Duration, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		t, err := w.tasks(ctx, 100)
		if err != nil {
			return err
		}
		arrived, stopReceiving, err := w.receive(ctx)
		if err != nil {
			return err
		}
		defer stopReceiving()
		commit, stop, err := start(ctx, w, t)
		if err != nil {
			return err
		}
		took, err = measureCommits(ctx, arrived, commitsPerSecond, b.length(), commit)
		return errors.Join(err, stop())
	})
	return took, err
}

// measureCommits commits so many times a second and gives the time from each commit to the arrival.
func measureCommits(ctx context.Context, arrived *moments, perSecond int, length time.Duration, commit transact) ([]time.Duration, error) {
	committed, err := commitSteadily(ctx, perSecond, length, commit, func(warm *moments) error {
		_, err := arrived.since(ctx, warm)
		arrived.reset()
		return err
	})
	if err != nil {
		return nil, err
	}
	return arrived.since(ctx, committed)
}

// commitSteadily commits so many times a second and gives the moment just before each commit. The first commits pay for connections
// and plans: they are given to settle, and then don't count.
func commitSteadily(
	ctx context.Context, perSecond int, length time.Duration, commit transact, settle func(warm *moments) error,
) (*moments, error) {
	warm, committed := newMoments(), newMoments()
	record := func(to *moments) func(context.Context) error {
		return func(ctx context.Context) error {
			return commit(ctx, func(id string) { to.record(id, time.Now()) })
		}
	}
	if err := openLoop(ctx, perSecond, min(length, 500*time.Millisecond), record(warm)); err != nil {
		return nil, err
	}
	if err := settle(warm); err != nil {
		return nil, err
	}
	return committed, openLoop(ctx, perSecond, length, record(committed))
}
