package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/outbox"
)

// outboxDrain times how a backlog gets into the stream, and checks that all of it did, once and in order.
func outboxDrain(ctx context.Context, b *bench) ([]sample, error) {
	n, peers := b.amount(100_000, 5000), b.amount(10_000, 500)
	var ours, theirs time.Duration
	err := b.inTurns(
		func() (err error) { ours, err = b.drain(ctx, n, ourBacklog); return err },
		func() (err error) { theirs, err = b.drain(ctx, peers, theirBacklog); return err },
	)
	if err != nil {
		return nil, err
	}
	return []sample{{
		line: line{
			Case: fmt.Sprintf("outbox: drain a backlog of %d (Watermill: %d)", n, peers),
			Ours: "relay", Baseline: "Watermill SQL forwarder", Unit: perSecond, Target: target{Ratio: 10},
		},
		ours: rate(n, ours), baseline: rate(peers, theirs),
	}}, nil
}

// backlog puts the events where a drainer will find them, and gives the drainer.
type backlog func(ctx context.Context, w *world, facts []events.Event) (start func(context.Context) (stop func() error, err error), err error)

func ourBacklog(ctx context.Context, w *world, facts []events.Event) (func(context.Context) (func() error, error), error) {
	if err := w.fill(ctx, facts); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (func() error, error) { return background(ctx, w.relay().Run), nil }, nil
}

func theirBacklog(ctx context.Context, w *world, facts []events.Event) (func(context.Context) (func() error, error), error) {
	m, err := newWatermillOutbox(w)
	if err != nil {
		return nil, err
	}
	return m.start, m.fill(ctx, facts)
}

// fill writes the events into the outbox, the fast way.
func (w *world) fill(ctx context.Context, facts []events.Event) error {
	columns := []string{"event_id", "aggregate", "version", "subject", "body"}
	_, err := w.pool.CopyFrom(ctx, pgx.Identifier{"outbox"}, columns, pgx.CopyFromSlice(len(facts), func(i int) ([]any, error) {
		event := facts[i]
		body, err := events.Encode(event)
		return []any{event.ID, event.Aggregate(), event.Version(), event.NATSSubject(), body}, err
	}))
	if err != nil {
		return fmt.Errorf("fill the outbox: %w", err)
	}
	return nil
}

func (b *bench) drain(ctx context.Context, n int, prepare backlog) (took time.Duration, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		facts := history(n)
		start, err := prepare(ctx, w, facts)
		if err != nil {
			return err
		}
		if err := w.settle(ctx); err != nil {
			return err
		}
		began := time.Now()
		stop, err := start(ctx)
		if err != nil {
			return err
		}
		err = w.stored(ctx, n)
		took = time.Since(began)
		if err == nil {
			err = w.emptied(ctx)
		}
		if err = errors.Join(err, stop()); err != nil {
			return err
		}
		ids := make([]string, n)
		for i, event := range facts {
			ids[i] = event.ID
		}
		return w.expect(ctx, ids)
	})
	return took, err
}

// stored waits until the stream holds n events.
func (w *world) stored(ctx context.Context, n int) error {
	var got uint64
	err := until(ctx, 10*time.Minute, func(ctx context.Context) (bool, error) {
		info, err := w.stream.Info(ctx)
		if err != nil {
			return false, err
		}
		got = info.State.Msgs
		return got >= uint64(n), nil //nolint:gosec // not negative
	})
	if err != nil {
		return fmt.Errorf("%d of %d events reached the stream: %w", got, n, err)
	}
	return nil
}

// emptied waits until the relay has deleted what it published.
func (w *world) emptied(ctx context.Context) error {
	return until(ctx, time.Minute, func(ctx context.Context) (bool, error) {
		stats, err := outbox.ReadStats(ctx, w.pool)
		return stats.Pending == 0, err
	})
}
