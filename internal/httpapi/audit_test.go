package httpapi_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/platform/worker"
)

// logged writes events into the audit log as the audit-archiver does.
func (w *world) logged(list ...events.Event) {
	w.t.Helper()
	batch := make([]*worker.Delivery, len(list))
	for i := range list {
		batch[i] = &worker.Delivery{Event: list[i], Attempt: 1}
	}
	writer := audit.NewWriter(w.db.Pool, zerolog.New(zerolog.NewTestWriter(w.t)), prometheus.NewRegistry())
	require.NoError(w.t, writer.HandleBatch(w.t.Context(), batch))
}

// taskMade are n events of a workspace, a second apart from a time on.
func taskMade(n int, at time.Time, actor, workspaceID, agent string) []events.Event {
	list := make([]events.Event, n)
	for i := range list {
		list[i] = events.New(events.Meta{Source: "/fdc/api", ActorID: actor, IP: "192.0.2.7", UserAgent: agent, RequestID: "r-1"}, "",
			events.TaskCreated{TaskID: events.NewID(), WorkspaceID: workspaceID, Version: 1})
		list[i].Time = at.Add(time.Duration(i) * time.Second)
	}
	return list
}

func TestAuditLog(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	home, at := alice.home(), time.Date(2026, time.February, 27, 23, 59, 0, 0, time.UTC)
	list := taskMade(120, at, alice.id(), home, "=cmd()")
	w.logged(append(list, taskMade(30, at, bob.id(), bob.home(), "curl")...)...)
	path := "/api/workspaces/" + home + "/audit-logs"

	var got []string
	for cursor := ""; ; {
		page := alice.get(path + "?limit=50" + cursor)
		require.Equal(t, http.StatusOK, page.status, page.text)
		items, ok := page.field("items").([]any)
		require.True(t, ok)
		for i := range items {
			got = append(got, page.str("items", i, "eventId"))
			require.Equal(t, home, page.str("items", i, "workspaceId"))
		}
		if page.field("nextCursor") == nil {
			break
		}
		cursor = "&cursor=" + url.QueryEscape(page.str("nextCursor"))
	}
	require.Len(t, got, 120)
	for i := range list {
		require.Equal(t, list[i].ID, got[len(got)-1-i], "newest first")
	}
	require.Len(t, w.facts("audit.viewed"), 1, "whoever reads on is told of once")
	require.Equal(t, home, w.facts("audit.viewed")[0].workspace)

	one := alice.get(path + "?limit=1")
	require.Equal(t, "task", one.str("items", 0, "target", "type"))
	require.Equal(t, "task.created", one.str("items", 0, "action"))
	require.Equal(t, "ok", one.str("items", 0, "result"))
	require.InDelta(t, 1, one.field("items", 0, "changes", "version"), 0)
	count := func(query string) int {
		t.Helper()
		items, ok := alice.get(path + "?limit=200&" + query).field("items").([]any)
		require.True(t, ok)
		return len(items)
	}
	require.Equal(t, 120, count("from=2026-02-27&to=2026-03-01"))
	require.Equal(t, 60, count("from=2026-02-28"), "inclusive")
	require.Equal(t, 60, count("to=2026-02-28"), "exclusive")
	require.Equal(t, 120, count("actor="+alice.id()))
	require.Zero(t, count("actor="+bob.id()))
	require.Zero(t, count("action=task.deleted"))
	require.Zero(t, count("from=0001-01-01&to=0001-02-01"))

	for query, status := range map[string]int{
		"cursor=x": 400, "cursor=" + strings.Repeat("A", 40): 400, "limit=0": 400, "from=yesterday": 400, "to=2026-13-01": 400, "from=2026-01-01&from=2026-01-02": 400,
	} {
		require.Equal(t, status, alice.get(path+"?"+query).status, query)
	}

	require.Equal(t, http.StatusNotFound, bob.get(path).status)
	alice.takeIn(bob, home)
	require.Equal(t, http.StatusForbidden, bob.get(path).status)
	alice.send(http.MethodPut, "/api/workspaces/"+home+"/members/"+bob.id(), object{"role": "ADMIN"})
	require.Equal(t, http.StatusOK, bob.get(path).status)
	require.Equal(t, http.StatusUnauthorized, w.visitor().get(path).status)
}

func TestAuditExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.signIn("alice")
	home, at := alice.home(), time.Date(2026, time.February, 27, 23, 0, 0, 0, time.UTC)
	const n = 4500 // more than two of the pages that it is read in
	list := taskMade(n, at, alice.id(), home, "=cmd()")
	w.logged(list...)
	path := "/api/workspaces/" + home + "/audit-logs"

	lines := alice.get(path+"?limit=2", "Accept", "text/html;q=0.1, application/x-ndjson")
	require.Equal(t, http.StatusOK, lines.status)
	require.Equal(t, "application/x-ndjson", lines.header.Get("Content-Type"))
	rows := strings.Split(strings.TrimSuffix(lines.text, "\n"), "\n")
	require.Len(t, rows, n)
	var last struct{ EventID string }
	require.NoError(t, json.Unmarshal([]byte(rows[n-1]), &last))
	require.Equal(t, list[0].ID, last.EventID)

	table, err := csv.NewReader(strings.NewReader(alice.get(path+"?to=2026-02-28", "Accept", "text/csv").text)).ReadAll()
	require.NoError(t, err)
	require.Len(t, table, 3601)
	require.Equal(t, []string{"eventId", "occurredAt", "action"}, table[0][:3])
	require.Equal(t, list[3599].ID, table[1][0])
	require.Equal(t, "'=cmd()", table[1][9], "no formula")
	empty := alice.get(path+"?action=none", "Accept", "text/csv")
	require.Equal(t, http.StatusOK, empty.status)
	require.Equal(t, 1, strings.Count(empty.text, "\n"), "the header")

	require.Len(t, w.facts("audit.viewed"), 3)
	exported := w.facts("audit.exported")
	require.Len(t, exported, 3)
	require.Equal(t, object{"rows": float64(n), "format": "ndjson"}, exported[0].data)
	require.Equal(t, alice.id(), exported[0].actor)

	_, err = w.db.Pool.Exec(t.Context(), `ALTER TABLE audit_logs DETACH PARTITION audit_logs_2026_02`)
	require.NoError(t, err)
	gone := alice.get(path, "Accept", "text/csv")
	require.Equal(t, http.StatusConflict, gone.status)
	require.Equal(t, "audit-months-archived", gone.code())
	require.Equal(t, []any{"2026-02"}, gone.field("months"))
	require.Equal(t, http.StatusOK, alice.get(path+"?from=2026-03-01", "Accept", "text/csv").status)
	require.Equal(t, "[2026-02]", fmt.Sprint(alice.get(path).field("archivedMonths")))
}
