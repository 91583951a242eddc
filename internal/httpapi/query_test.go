package httpapi

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func TestParseQuery(t *testing.T) {
	t.Parallel()
	params := append(paging(),
		flagParam("flag", ""), redirectParam(), loginHintParam(),
		param{name: "from", required: true, parse: parseMoment},
	)
	values, err := parseQuery("from=2026-01-02&flag=true&limit=7&unknown=a&unknown=b", params)
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"from": time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), "flag": true, "limit": 7, "redirect": "/",
	}, values)

	for _, query := range []string{
		"", "from=", "from=now", "from=2026-13-01", "from=0000-01-01", "from=2026-01-02T03:04:05", "from=2026-01-02&from=2026-01-02",
		"from=2026-01-02T03:04:05+09:00", // an unescaped plus is a space
		"from=2026-01-02&limit=0", "from=2026-01-02&limit=201", "from=2026-01-02&limit=-1", "from=2026-01-02&limit=", "from=2026-01-02&limit=+5",
		"from=2026-01-02&limit=5.0", "from=2026-01-02&limit=99999999999999999999", "from=2026-01-02&limit=1&limit=2",
		"from=2026-01-02&cursor=", "from=2026-01-02&cursor=%00", "from=2026-01-02&cursor=%ff", "from=2026-01-02&cursor=" + strings.Repeat("a", maxCursor+1),
		"from=2026-01-02&flag=1", "from=2026-01-02&flag=TRUE", "from=2026-01-02&flag=",
		"from=2026-01-02&redirect=//evil.example", "from=2026-01-02&login_hint=a%0d%0ab",
		"from=2026-01-02&limit=%zz", "from=2026-01-02;limit=5",
	} {
		_, err := parseQuery(query, params)
		require.Equal(t, fault.Malformed, fault.KindOf(err), query)
	}
}

func listCall(query map[string]any) *call {
	return &call{route: &route{id: "list"}, query: query}
}

func TestPaginateServesEachItemOnce(t *testing.T) {
	t.Parallel()
	for _, compare := range []func(a, b string) int{strings.Compare, func(a, b string) int { return cmp.Compare(b, a) }} {
		var items []string
		for i := range 23 {
			items = append(items, strconv.Itoa(100+i*7%23))
		}
		want := slices.SortedFunc(slices.Values(items), compare)
		var got []string
		query := map[string]any{"limit": 5}
		for pages := 0; ; pages++ {
			require.Less(t, pages, 10)
			p, err := paginate(listCall(query), slices.Clone(items), func(s string) string { return s }, compare)
			require.NoError(t, err)
			got = append(got, p.Items...)
			if p.NextCursor == nil {
				break
			}
			query["cursor"] = *p.NextCursor
			// The item that the cursor stands for may go meanwhile.
			items = slices.DeleteFunc(items, func(s string) bool { return s == p.Items[len(p.Items)-1] })
		}
		require.Equal(t, want, got)
	}
}

func TestPaginateInOrder(t *testing.T) {
	t.Parallel()
	key := func(s string) string { return s }
	p, err := paginateInOrder(listCall(map[string]any{"limit": 2}), []string{"c", "a", "b"}, key)
	require.NoError(t, err)
	require.Equal(t, []string{"c", "a"}, p.Items)
	next := map[string]any{"limit": 2, "cursor": *p.NextCursor}
	p, err = paginateInOrder(listCall(next), []string{"c", "a", "b"}, key)
	require.NoError(t, err)
	require.Equal(t, Page[string]{Items: []string{"b"}}, p)
	_, err = paginateInOrder(listCall(next), []string{"c", "b"}, key)
	require.Equal(t, fault.Malformed, fault.KindOf(err))
}

func TestEmptyPageIsNoNull(t *testing.T) {
	t.Parallel()
	p, err := paginate(listCall(map[string]any{"limit": 2}), nil, func(s string) string { return s }, strings.Compare)
	require.NoError(t, err)
	require.NotNil(t, p.Items)
	require.NotNil(t, page[string](nil, "").Items)
}

func FuzzCursor(f *testing.F) {
	f.Add("listTasks", "0198")
	f.Add("", "")
	f.Add("list", "a\x00b")
	f.Fuzz(func(t *testing.T, list, key string) {
		cursor := encodeCursor(list, key)
		got, err := decodeCursor(list, cursor)
		if err == nil && got != key {
			t.Fatalf("%q came back as %q", key, got)
		}
		if _, err := decodeCursor(list+"x", cursor); err == nil {
			t.Fatal("a cursor of another list passed")
		}
		// Any text: an error or a key that makes the same cursor again.
		if got, err := decodeCursor(list, key); err == nil && encodeCursor(list, got) != key {
			t.Fatalf("%q is read as %q", key, got)
		}
	})
}
