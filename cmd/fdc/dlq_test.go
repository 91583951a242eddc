package main

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/service"
)

type letterList struct {
	Requeued  bool         `json:"requeued"`
	Discarded bool         `json:"discarded"`
	Count     int          `json:"count"`
	Items     []letterItem `json:"items"`
}

// letters waits until dlq list shows n letters, and fdc status counts as many.
func (d *dev) letters(t *testing.T, n int, filters ...string) []letterItem {
	t.Helper()
	var list letterList
	require.Eventually(t, func() bool {
		list = letterList{}
		d.json(t, &list, append([]string{"dlq", "list"}, filters...)...)
		return len(list.Items) == n
	}, patience, 50*time.Millisecond, "want %d letters", n)
	return list.Items
}

// poisoned publishes events that the audit log refuses as long as the trigger is there.
func (d *dev) poisoned(t *testing.T, n int) []events.Event {
	t.Helper()
	nc, err := nats.Connect(d.NATS)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	list := make([]events.Event, n)
	for i := range list {
		id := events.NewID()
		list[i] = events.New(events.Meta{Source: "/fdc/test", ActorID: events.SystemActor, RequestID: "poison"}, id,
			events.TaskCreated{TaskID: id, WorkspaceID: id, Version: 1, Origin: "user"})
		body, err := events.Encode(list[i])
		require.NoError(t, err)
		_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: list[i].NATSSubject(), Data: body, Header: nats.Header{jetstream.MsgIDHeader: {list[i].ID}}})
		require.NoError(t, err)
	}
	return list
}

// A row that can't be written is the archiver's poison, until the table is mended.
const (
	poisonOn = `
		CREATE OR REPLACE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.request_id = 'poison' THEN RAISE EXCEPTION 'no such row, please' USING ERRCODE = '22000'; END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER poison BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION poison()`
	poisonOff = `DROP TRIGGER poison ON audit_logs`
)

func (d *dev) testDLQ(t *testing.T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.Postgres)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	execute := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	written := func(ev events.Event) (rows int) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM audit_logs WHERE event_id = $1`, ev.ID).Scan(&rows))
		return rows
	}
	d.letters(t, 0)
	execute(poisonOn)
	poison := d.poisoned(t, 1)[0]
	letter := d.letters(t, 1)[0]
	sequence := strconv.FormatUint(letter.Sequence, 10)
	require.Equal(t, bus.AuditArchiver, letter.Consumer)
	require.Equal(t, poison.NATSSubject(), letter.Subject)
	require.Contains(t, letter.Reason, "no such row, please")

	// A plan changes nothing. Requeued too early, the event fails again and its letter says what was done.
	var plan, done letterList
	d.json(t, &plan, "dlq", "requeue", sequence)
	require.Equal(t, letterList{Count: 1, Items: []letterItem{letter}}, plan)
	out, hint := d.run(t, daemon.ExitOK, "dlq", "discard", "--all", "--reason", "x")
	require.Contains(t, out, "1 TO BE DISCARDED")
	require.Contains(t, hint, "--yes")
	require.Equal(t, letter, d.letters(t, 1)[0])
	d.json(t, &done, "dlq", "requeue", sequence, "--reason", "in good hope", "--yes")
	require.Equal(t, letterList{Requeued: true, Count: 1, Items: []letterItem{letter}}, done)
	d.audited(t, "ops.dead_letter_requeued", bus.AuditArchiver, 1)
	again := d.letters(t, 1, "--consumer", bus.AuditArchiver, "--type", "task.*", "--since", "1h")[0]
	require.Greater(t, again.Sequence, letter.Sequence)
	sequence = strconv.FormatUint(again.Sequence, 10)
	var shown letterDetail
	d.json(t, &shown, "dlq", "show", sequence)
	require.Equal(t, again, shown.letterItem)
	require.Equal(t, poison.ID, shown.EventID)
	require.NotNil(t, shown.OriginalTime)
	require.Contains(t, string(shown.Event), poison.ID)
	require.Len(t, shown.History, 1)
	require.Equal(t, "in good hope", shown.History[0].Reason)
	require.Equal(t, letter.Sequence, shown.History[0].Sequence)
	out, _ = d.run(t, daemon.ExitOK, "dlq", "show", sequence)
	require.Contains(t, out, "in good hope")
	require.Contains(t, out, `"id": "`+poison.ID)

	// After the fix it is handled once; of many, too, whenever the command is killed.
	many := d.poisoned(t, 60)
	d.letters(t, 61)
	require.Zero(t, written(poison))
	execute(poisonOff)
	d.run(t, daemon.ExitOK, "dlq", "requeue", sequence, "--yes")
	require.Eventually(t, func() bool { return written(poison) == 1 }, patience, 20*time.Millisecond)
	for range 4 {
		cmd := command(t, "dlq", "requeue", "--all", "--yes", "--data", d.Data)
		require.NoError(t, cmd.Start())
		time.AfterFunc(rand.N(300*time.Millisecond), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed or not
	}
	d.run(t, daemon.ExitOK, "dlq", "requeue", "--all", "--yes")
	d.letters(t, 0)
	for _, ev := range many {
		require.Eventually(t, func() bool { return written(ev) == 1 }, patience, 20*time.Millisecond)
	}
	var status service.Status
	d.json(t, &status, "status")
	for _, stream := range status.Streams {
		if stream.Name == bus.Dead || stream.Name == bus.Replay {
			require.Zero(t, stream.Messages, stream.Name)
		}
	}

	// What can't be read at all is discarded.
	nc, err := nats.Connect(d.NATS)
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.Publish("evt.workspace.data_updated.v1."+events.NewID(), []byte("\x1b[31m{")))
	d.letters(t, 2)
	d.letters(t, 1, "--consumer", bus.CacheInvalidator)
	out, _ = d.run(t, daemon.ExitOK, "dlq", "show", strconv.FormatUint(d.letters(t, 2)[0].Sequence, 10))
	require.NotContains(t, out, "\x1b", "a body steers the terminal")
	d.json(t, &status, "status")
	for _, stream := range status.Streams {
		if stream.Name == bus.Dead {
			require.EqualValues(t, 2, stream.Messages)
		}
	}
	d.run(t, daemon.ExitOK, "dlq", "discard", "--consumer", bus.CacheInvalidator, "--reason", "garbage", "--yes")
	d.letters(t, 1)
	d.run(t, daemon.ExitOK, "dlq", "discard", "--all", "--reason", "garbage", "--yes")
	d.letters(t, 0)
	d.audited(t, "ops.dead_letter_discarded", bus.CacheInvalidator, 1)
	d.audited(t, "ops.dead_letter_discarded", bus.AuditArchiver, 1)
	out, _ = d.run(t, daemon.ExitOK, "dlq", "requeue", "--all", "--yes")
	require.Contains(t, out, "no dead letters")

	for _, args := range [][]string{{"show", "99999"}, {"requeue", "99999", "--yes"}, {"discard", "1", "--reason", "x"}} {
		_, problem := d.run(t, daemon.ExitFailed, append([]string{"dlq"}, args...)...)
		require.Contains(t, problem, "no such dead letter")
	}
	for _, args := range [][]string{
		{},
		{"frobnicate"},
		{"list", "1"},
		{"list", "--consumer", "nobody"},
		{"list", "--consumer", ""},
		{"list", "--consumer", "*"},
		{"list", "--type", "task.frobnicated"},
		{"list", "--since", "soon"},
		{"list", "--since", "1h", "--until", "2h"},
		{"show"},
		{"show", "0"},
		{"show", "1", "2"},
		{"requeue", "--yes"},
		{"requeue", "x", "--yes"},
		{"requeue", "1", "--all", "--yes"},
		{"requeue", "1", "--consumer", bus.AuditArchiver, "--yes"},
		{"requeue", "--all", "--consumer", "nobody", "--yes"},
		{"discard", "1", "--yes"},
		{"discard", "--reason", "x", "--yes"},
		{"discard", "1", "--reason", "two\nlines", "--yes"},
	} {
		d.run(t, daemon.ExitUsage, append([]string{"dlq"}, args...)...)
	}
}

// Without the database, without the right, and without anything that runs, the command says so in one line and changes nothing.
func TestDLQSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	server := natstest.Provisioned(t, natstest.WithTCP())
	db := pgtest.New(t)
	owner, err := bus.JetStream(natstest.Connect(t, server, "provision"))
	require.NoError(t, err)
	_, err = owner.Publish(t.Context(), "dead.audit-archiver.evt.x", []byte("{"))
	require.NoError(t, err)
	t.Run("without", func(t *testing.T) { //nolint:paralleltest // what they leave is counted below
		for name, test := range map[string]struct {
			environ map[string]string
			want    string
		}{
			"no database": {map[string]string{
				"NATS_URL": server.URL("ops"), "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "DATABASE_CONNECT_TIMEOUT": "1s",
			}, "PostgreSQL does not answer"},
			"no right": {map[string]string{
				"NATS_URL": server.URL(bus.Syncer), "NATS_USER": bus.Syncer, "DATABASE_URL": db.URL,
			}, "want ops"},
			"nothing runs": {map[string]string{}, "start fdc dev"},
			"no NATS":      {map[string]string{"NATS_URL": "nats://127.0.0.1:1", "DATABASE_URL": db.URL}, "NATS does not answer"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var out, problems bytes.Buffer
				err := execute(t.Context(), test.environ, []string{"dlq", "requeue", "--all", "--yes", "--data", t.TempDir()}, &out, &problems)
				require.ErrorContains(t, err, test.want)
				require.Equal(t, daemon.ExitFailed, daemon.Exit("fdc", &problems, err))
				require.Empty(t, out.String())
			})
		}
	})
	dead, err := owner.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	require.EqualValues(t, 1, dead.CachedInfo().State.Msgs)
}
