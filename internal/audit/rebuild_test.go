package audit

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// A month is brought in line with the stream: the plan says what differs, and doing it leaves nothing of that.
func TestRebuild(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	js, err := bus.JetStream(natstest.Connect(t, natstest.Provisioned(t), "ops"))
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(t.Context())) })
	month := time.Now().UTC().Format("2006-01")
	rebuild := func(write bool) Rebuilt {
		t.Helper()
		r, err := Rebuild(t.Context(), conn, js, byTest, month, write, nil)
		require.NoError(t, err)
		return r
	}
	require.Equal(t, Rebuilt{Month: month, Examples: []string{}}, rebuild(true), "an empty stream")

	var list []events.Event
	for i := range rebuildChunk + 500 {
		ev := taskEvent(time.Time{})
		if i%500 == 0 { // of another month
			ev.Time = ev.Time.AddDate(0, -2, 0)
		}
		body, err := events.Encode(ev)
		require.NoError(t, err)
		_, err = js.PublishAsync(ev.NATSSubject(), body, jetstream.WithStallWait(patience))
		require.NoError(t, err)
		list = append(list, ev)
	}
	<-js.PublishAsyncComplete()
	_, err = js.Publish(t.Context(), "evt.nonsense", []byte("{"))
	require.NoError(t, err)
	stray := taskEvent(time.Time{})
	require.NoError(t, newWriter(t, db.Pool).HandleBatch(t.Context(), deliveries(append(list, stray)...)))
	good := func() string {
		t.Helper()
		var sum string
		require.NoError(t, db.Pool.QueryRow(t.Context(), `SELECT md5(string_agg(a::text, '' ORDER BY occurred_at, event_id)) FROM audit_logs a`).Scan(&sum))
		return sum
	}
	whole := good()
	r := rebuild(false)
	require.EqualValues(t, rebuildChunk+500-5, r.Events)
	require.EqualValues(t, 2, r.FirstSequence)
	require.Zero(t, r.Missing+r.Different)
	require.EqualValues(t, 1, r.Unexplained)

	for _, sql := range []string{
		`DELETE FROM audit_logs WHERE event_id = '` + list[7].ID + `'`,
		`UPDATE audit_logs SET changes = '{}' WHERE event_id = '` + list[8].ID + `'`,
		`UPDATE audit_logs SET user_id = NULL, actor_id = 'x' WHERE event_id = '` + list[9].ID + `'`,
	} {
		_, err = db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	broken := good()
	r = rebuild(false)
	require.EqualValues(t, 1, r.Missing)
	require.EqualValues(t, 2, r.Different)
	require.ElementsMatch(t, []string{list[7].ID, list[8].ID, list[9].ID}, r.Examples)
	require.Equal(t, broken, good(), "a plan changes nothing")
	require.EqualValues(t, 3, rebuild(true).Written)
	require.Equal(t, whole, good())
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.ops.replayed.%'`))
	r = rebuild(true)
	require.Zero(t, r.Written)
	require.EqualValues(t, 1, r.Unexplained)

	for name, kind := range map[string]fault.Kind{"2019-12": fault.Invalid, "x": fault.Invalid, "2999-01": fault.Invalid} {
		_, err := Rebuild(t.Context(), conn, js, byTest, name, true, nil)
		require.Equal(t, kind, fault.KindOf(err), name)
	}
}
