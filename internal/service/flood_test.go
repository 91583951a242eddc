package service_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
)

// However often the audit-archiver is killed while events pour in, each has its row in the end, once. FDC_FLOOD_EVENTS=1000000
// makes it a million, FDC_FLOOD_KILLS=20 kills it twenty times.
func TestAuditArchiverKilledInAFlood(t *testing.T) {
	t.Parallel()
	total, kills := testenv.Size(t, "FDC_FLOOD_EVENTS", 6000), testenv.Size(t, "FDC_FLOOD_KILLS", 1)
	s := newSystem(t)
	s.impatient(t)
	s.start(t, bus.AuditArchiver)
	before := s.rows(t)
	published := make(chan error, 1)
	go func() {
		err := s.flood(t.Context(), total)
		if err != nil {
			t.Errorf("flood: %v", err)
		}
		published <- err
	}()
	for n := range kills {
		require.Eventually(t, func() bool { return t.Failed() || s.rows(t)-before >= total*(n+1)/(kills+2) }, 10*patience, patience/1000, "no progress")
		s.kill(t, bus.AuditArchiver)
		s.start(t, bus.AuditArchiver)
	}
	require.NoError(t, <-published)
	consumer, err := s.js.Consumer(t.Context(), bus.Events, bus.AuditArchiver)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	}, 10*patience, patience/1000)
	require.Equal(t, total, s.rows(t)-before)
	dead, err := s.js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	require.Zero(t, dead.CachedInfo().State.Msgs)
	s.stop(t, bus.AuditArchiver)
}

// rows counts those of tasks that were made.
func (s *system) rows(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM audit_logs WHERE action = 'task.created'`).Scan(&n))
	return n
}

// flood publishes events as fast as the stream takes them.
func (s *system) flood(ctx context.Context, total int) error {
	workspace := events.NewID()
	var last jetstream.PubAckFuture
	for range total {
		ev := events.New(events.Meta{Source: "/fdc/api", ActorID: events.SystemActor}, "",
			events.TaskCreated{TaskID: events.NewID(), WorkspaceID: workspace, Version: 1})
		body, err := events.Encode(ev)
		if err != nil {
			return err
		}
		// A server that is slower than the flood makes it wait, rather than lose an event and fail.
		last, err = s.js.PublishMsgAsync(&nats.Msg{Subject: ev.NATSSubject(), Data: body}, jetstream.WithStallWait(patience))
		if err != nil {
			return err
		}
	}
	select {
	case <-s.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-last.Err():
		return err
	default:
		return nil
	}
}
