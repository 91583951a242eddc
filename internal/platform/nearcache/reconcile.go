package nearcache

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// reconcilePause lies between two batches, for the sake of the database.
	reconcilePause = 50 * time.Millisecond
	// reconcileReport is after how many keys a comparison of the whole bucket says how far it is.
	reconcileReport = 50 * batchKeys
)

// Reconcile has the whole bucket compared with the rows, as Run does when it starts and after each new connection to the
// server. It returns at once.
func (m *Monitor) Reconcile() {
	select {
	case m.asked <- struct{}{}:
	default: // one is asked for already
	}
}

// reconcileAfterOutages compares the whole bucket when events may have been lost or rows changed unseen: at the start, after
// each reconnection and when asked. It repeats what failed.
func (m *Monitor) reconcileAfterOutages(ctx context.Context) {
	tick := time.NewTicker(m.Windows[0])
	defer tick.Stop()
	var connections uint64
	failures := 0
	for owed := true; ; {
		if now := m.NATS.Stats().Reconnects; owed || now != connections {
			err := m.reconcile(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				owed, connections, failures = false, now, 0
			default:
				if failures++; failures == 1 {
					m.Log.Warn().Err(err).Str("cache", m.name).Msg("cache not reconciled; trying again")
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-m.asked:
			owed = true
		case <-tick.C:
		}
	}
}

// reconcile withdraws every entry that is not what the row says.
func (m *Monitor) reconcile(ctx context.Context) error {
	start := time.Now()
	keys, err := m.keys(ctx)
	if err != nil {
		return err
	}
	done, withdrawn := 0, 0
	for batch := range slices.Chunk(keys, batchKeys) {
		for p, err := range m.pairs(ctx, batch) {
			if err != nil {
				return err
			}
			// A newer version than the entry's may just be on its way: to withdraw the entry is right all the same.
			outdated := int64(math.MaxInt64)
			if p.row != nil {
				outdated = p.row.Version - 1
			}
			if p.fault(outdated) == "" {
				continue
			}
			if err := m.withdraw(ctx, p, m.reconciled); err != nil {
				return err
			}
			withdrawn++
		}
		if done += len(batch); done%reconcileReport == 0 {
			m.Log.Info().Str("cache", m.name).Int("keys", done).Int("of", len(keys)).Int("withdrawn", withdrawn).Msg("reconciling cache")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reconcilePause):
		}
	}
	m.walks.Inc()
	m.Log.Info().Str("cache", m.name).Int("keys", done).Int("withdrawn", withdrawn).Dur("took", time.Since(start)).Msg("cache reconciled")
	return nil
}

// keys lists the bucket's. Beats have one token more.
func (m *Monitor) keys(ctx context.Context) ([]string, error) {
	prefix := "$KV." + m.name + "."
	stream, err := m.JS.Stream(ctx, "KV_"+m.name)
	if err != nil {
		return nil, fmt.Errorf("list the keys of %s: %w", m.name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list the keys of %s: %w", m.name, err)
	}
	keys := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		keys = append(keys, strings.TrimPrefix(subject, prefix))
	}
	return keys, nil
}
