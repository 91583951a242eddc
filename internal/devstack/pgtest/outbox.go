package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
)

// Told takes the events out of the outbox, in their order: those since the last call, as long as no relay runs.
func (db *DB) Told(tb testing.TB) []events.Event {
	tb.Helper()
	rows, err := db.Pool.Query(tb.Context(), `WITH gone AS (DELETE FROM outbox RETURNING id, body) SELECT body FROM gone ORDER BY id`)
	require.NoError(tb, err)
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(tb, err)
	list := make([]events.Event, len(bodies))
	for i, body := range bodies {
		list[i], err = events.Decode(body)
		require.NoError(tb, err)
	}
	return list
}
