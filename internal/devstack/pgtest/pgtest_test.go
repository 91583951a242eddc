package pgtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/pgtest"
)

func TestNew(t *testing.T) {
	t.Parallel()
	for range 3 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			var n int
			require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT count(*) FROM goose_db_version").Scan(&n))
			require.Positive(t, n)
		})
	}
}

func BenchmarkNew(b *testing.B) {
	pgtest.New(b)
	for b.Loop() {
		b.Run("", func(b *testing.B) { pgtest.New(b) })
	}
}
