package service_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
)

// docs/privacy.md says of every table, stream and bucket what is in it and how long, and names none that does not exist.
func TestPrivacyNamesEveryStore(t *testing.T) {
	t.Parallel()
	rows, _ := pgtest.New(t).Pool.Query(t.Context(), `
		SELECT relname::text FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition`)
	stores, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, stores, "users")
	for _, s := range slices.Concat(bus.Streams(1), bus.Buckets(1)) {
		stores = append(stores, s.Name)
	}
	page, err := os.ReadFile("../../docs/privacy.md")
	require.NoError(t, err)
	var named []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z_]+)` \\|(.*)\\|$").FindAllStringSubmatch(string(page), -1) {
		named = append(named, row[1])
		cells := regexp.MustCompile(`\|`).Split(row[2], -1)
		require.Len(t, cells, 3, "%s wants what, why and how long", row[1])
		for _, cell := range cells {
			require.Regexp(t, `\w`, cell, row[1])
		}
	}
	require.ElementsMatch(t, stores, slices.Compact(slices.Sorted(slices.Values(named))), "docs/privacy.md and what is stored differ")
}
