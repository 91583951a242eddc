package archive

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// patience is a deadline that only a broken program reaches.
const patience = 2 * time.Minute

var byTest = events.Meta{Source: "/fdc/test", ActorID: events.OperatorActor}

// ensured is a fresh database with its partitions.
func ensured(tb testing.TB) *pgtest.DB {
	tb.Helper()
	db := pgtest.New(tb)
	_, err := audit.EnsurePartitions(tb.Context(), db.Pool, time.Now(), audit.MonthsAhead)
	require.NoError(tb, err)
	return db
}

// record writes events to the audit log, as the audit-archiver does.
func record(tb testing.TB, pool *pgxpool.Pool, list ...events.Event) {
	tb.Helper()
	batch := make([]*worker.Delivery, len(list))
	for i, ev := range list {
		batch[i] = &worker.Delivery{Event: ev, Attempt: 1}
	}
	log := zerolog.New(zerolog.NewTestWriter(tb))
	require.NoError(tb, audit.NewWriter(pool, log, prometheus.NewRegistry()).HandleBatch(tb.Context(), batch))
}

// taskEvent is an event of a time, zero for now.
func taskEvent(at time.Time) events.Event {
	ev := events.New(events.Meta{Source: "/fdc/api", ActorID: events.NewID(), RequestID: "r-1", IP: "192.0.2.7", UserAgent: "curl/8"},
		"", events.TaskCreated{TaskID: events.NewID(), WorkspaceID: events.NewID(), Version: 1})
	if !at.IsZero() {
		ev.Time = at.UTC().Truncate(time.Microsecond)
	}
	return ev
}

func count(tb testing.TB, q postgres.Querier, query string) int {
	tb.Helper()
	var n int
	require.NoError(tb, q.QueryRow(tb.Context(), query).Scan(&n))
	return n
}
