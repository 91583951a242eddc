package service_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/worker"
	"fdc/internal/service"
)

// One request's events are found wherever they are, each once: published and in the audit log, published only, not yet published, in the
// audit log only, and set aside before they got there. Another request's are not, however much its id looks like ours.
func TestExplain(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db, broker := pgtest.New(t), natstest.Provisioned(t)
	provision, err := bus.JetStream(natstest.Connect(t, broker, "provision"))
	require.NoError(t, err)
	archiver, err := bus.JetStream(natstest.Connect(t, broker, bus.AuditArchiver))
	require.NoError(t, err)
	ops, err := bus.JetStream(natstest.Connect(t, broker, "ops"))
	require.NoError(t, err)
	_, err = audit.EnsurePartitions(ctx, db.Pool, time.Now(), 0)
	require.NoError(t, err)
	db.Told(t)

	const request = "request-1"
	user, workspace, version := events.NewID(), events.NewID(), int64(0)
	began := time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond)
	event := func(request string, data events.Payload) events.Event {
		version++
		ev := events.New(events.Meta{Source: "/fdc/api", ActorID: user, RequestID: request}, "", data)
		ev.Time = began.Add(time.Duration(version) * time.Second)
		return ev
	}
	fact := func(request string) events.Event {
		return event(request, events.TaskDeleted{TaskID: events.NewID(), WorkspaceID: workspace, Version: version + 1})
	}
	publish := func(js jetstream.JetStream, ev events.Event) uint64 {
		body, err := events.Encode(ev)
		require.NoError(t, err)
		ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: ev.NATSSubject(), Data: body}, jetstream.WithMsgID(ev.ID))
		require.NoError(t, err)
		return ack.Sequence
	}
	record := func(evs ...events.Event) {
		for _, ev := range evs {
			changes, err := json.Marshal(ev.Data)
			require.NoError(t, err)
			_, err = db.Pool.Exec(ctx, `INSERT INTO audit_logs (event_id, occurred_at, actor_id, action, target_type, target_id, request_id, result, changes)
				VALUES ($1, $2, $3, $4, 'task', $5, $6, 'ok', $7)`, ev.ID, ev.Time, ev.ActorID, ev.Action(), ev.Subject, ev.RequestID, changes)
			require.NoError(t, err)
		}
	}
	bury := func(ev events.Event) uint64 {
		body, err := events.Encode(ev)
		require.NoError(t, err)
		ack, err := provision.PublishMsg(ctx, &nats.Msg{
			Subject: "dead.audit-archiver." + ev.NATSSubject(), Data: body,
			Header: nats.Header{worker.HeaderConsumer: {bus.AuditArchiver}, worker.HeaderReason: {"too odd"}, worker.HeaderAttempts: {"8"}, worker.HeaderSequence: {"9"}},
		})
		require.NoError(t, err)
		return ack.Sequence
	}

	oldest := fact(request) // the stream has forgotten it
	record(oldest)
	job := events.NewID()
	asked := event(request, events.SyncRequested{JobID: job, UserID: user, Version: 1, Type: events.SyncFull, Mode: events.SyncIncremental, Trigger: events.TriggerUser})
	known, lookalike := fact(request), fact(request+"0")
	sequences := map[string]uint64{asked.ID: publish(provision, asked), known.ID: publish(provision, known)}
	publish(provision, lookalike)
	record(asked, known, lookalike)
	consumer, err := archiver.Consumer(ctx, bus.Events, bus.AuditArchiver)
	require.NoError(t, err)
	batch, err := consumer.Fetch(3)
	require.NoError(t, err)
	for msg := range batch.Messages() {
		require.NoError(t, msg.DoubleAck(ctx))
	}
	fresh := fact(request) // the audit log doesn't have it yet
	sequences[fresh.ID] = publish(provision, fresh)
	publish(provision, fact("request-2"))
	refused := fact(request) // the audit-archiver has set it aside, and the stream has forgotten it
	letter := bury(refused)
	bury(fact("request-2"))
	unpublished := fact(request)
	require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		if err := outbox.Append(ctx, tx, fact("request-2")); err != nil {
			return err
		}
		return outbox.Append(ctx, tx, unpublished)
	}))
	_, err = db.Pool.Exec(ctx, `INSERT INTO users (id, email, google_id) VALUES ($1, 'a@example.com', 'g-a')`, user)
	require.NoError(t, err)
	_, err = db.Pool.Exec(ctx, `INSERT INTO sync_jobs (id, user_id, type, mode, status, error, request_id, created_at, started_at, completed_at)
		VALUES ($1, $2, 'full', 'incremental', 'failed', '{"code":"timeout","message":"","retryable":true}', $3, $4, $4, $4)`,
		job, user, request, asked.Time.Add(500*time.Millisecond))
	require.NoError(t, err)

	effects, err := service.Explain(ctx, ops, db.Pool, request)
	require.NoError(t, err)
	type line struct {
		kind, source, action, subject string
		sequence                      uint64
	}
	var got []line
	for i, e := range effects {
		got = append(got, line{e.Kind, e.Source, e.Action, e.Subject, e.Sequence})
		require.True(t, i == 0 || !e.Time.Before(effects[i-1].Time), "not in the order of time")
	}
	require.Equal(t, []line{
		{service.EffectEvent, "audit_logs", "task.deleted", oldest.Subject, 0},
		{service.EffectEvent, bus.Events, "sync.requested", job, sequences[asked.ID]},
		{service.EffectJob, "sync_jobs", "sync failed", job, 0},
		{service.EffectEvent, bus.Events, "task.deleted", known.Subject, sequences[known.ID]},
		{service.EffectEvent, bus.Events, "task.deleted", fresh.Subject, sequences[fresh.ID]},
		{service.EffectEvent, bus.Dead, "task.deleted", refused.Subject, 0},
		{service.EffectEvent, "outbox", "task.deleted", unpublished.Subject, 0},
		{service.EffectDeadLetter, bus.Dead, "task.deleted", refused.Subject, letter},
	}, got)
	require.Contains(t, string(effects[2].Data), `"timeout"`)
	require.JSONEq(t, `{"consumer":"audit-archiver","reason":"too odd","attempts":"8","sequence":"9"}`, string(effects[7].Data))

	effects, err = service.Explain(ctx, ops, db.Pool, "nobody's")
	require.NoError(t, err)
	require.Empty(t, effects)

	// However large the log grows, a request is found by its index.
	_, err = db.Pool.Exec(ctx, `INSERT INTO audit_logs (event_id, occurred_at, actor_id, action, target_type, target_id, request_id, result, changes)
		SELECT gen_random_uuid(), now(), 'system', 'x', 'x', '', 'r' || n, 'ok', '{}' FROM generate_series(1, 20000) n`)
	require.NoError(t, err)
	_, err = db.Pool.Exec(ctx, `ANALYZE audit_logs`)
	require.NoError(t, err)
	rows, err := db.Pool.Query(ctx, `EXPLAIN SELECT * FROM audit_logs WHERE request_id = $1 AND request_id <> '' ORDER BY occurred_at, event_id`, request)
	require.NoError(t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotContains(t, plan, "Seq Scan")
	require.Contains(t, plan[len(plan)-1], "request_id = ")
}
