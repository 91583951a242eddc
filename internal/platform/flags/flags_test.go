package flags_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/flags"
	"fdc/internal/platform/outbox"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(6) // they wait for reads that come each second
	m.Run()
}

var operator = events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}

func bucket(t *testing.T, s *embednats.Server, user string) jetstream.KeyValue {
	t.Helper()
	js, err := bus.JetStream(natstest.Connect(t, s, user))
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), bus.Flags)
	require.NoError(t, err)
	return kv
}

// follow runs flags as a service does, with its rights, until the test is over.
func follow(t *testing.T, s *embednats.Server, locked ...string) *flags.Flags {
	t.Helper()
	f := flags.New(bucket(t, s, "api"), zerolog.Nop(), locked...)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	<-f.Ready()
	return f
}

func turns(t *testing.T, f *flags.Flags, name string, on bool) {
	t.Helper()
	require.Eventually(t, func() bool { return f.Enabled(name) == on }, patience, time.Millisecond, "%s is not %v", name, on)
}

// told gives the facts since the last call.
func told(t *testing.T, db *pgtest.DB) []events.Event {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), `WITH gone AS (DELETE FROM outbox RETURNING id, body) SELECT body FROM gone ORDER BY id`)
	require.NoError(t, err)
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(t, err)
	var list []events.Event
	for _, body := range bodies {
		ev, err := events.Decode(body)
		require.NoError(t, err)
		list = append(list, ev)
	}
	return list
}

func TestEveryServiceSeesAChange(t *testing.T) {
	t.Parallel()
	s, db := natstest.Provisioned(t), pgtest.New(t)
	store := flags.NewStore(bucket(t, s, "ops"), outbox.New(db.Pool, nil))
	one, two, locked := follow(t, s), follow(t, s), follow(t, s, flags.SyncAsync)
	for _, name := range flags.Names() {
		require.True(t, one.Enabled(name), name)
	}
	require.False(t, locked.Enabled(flags.SyncAsync))
	require.True(t, locked.Enabled(flags.AICache))
	require.False(t, one.Enabled("frobnicate"))
	require.True(t, (*flags.Flags)(nil).Enabled(flags.AICache))

	set, err := store.Set(t.Context(), operator, flags.SyncAsync, false, "a test", time.Hour)
	require.NoError(t, err)
	turns(t, one, flags.SyncAsync, false)
	turns(t, two, flags.SyncAsync, false)
	require.True(t, one.Enabled(flags.AICache))
	facts := told(t, db)
	require.Len(t, facts, 1)
	require.Equal(t, events.FlagChanged{Name: flags.SyncAsync, Value: events.FlagOff, Reason: "a test", ExpiresAt: set.ExpiresAt}, facts[0].Data)
	require.Equal(t, events.OperatorActor, facts[0].ActorID)
	require.Equal(t, flags.SyncAsync, facts[0].Subject)
	found, ok, err := store.Get(t.Context(), flags.SyncAsync)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, set, found)

	_, err = store.Set(t.Context(), operator, flags.SyncAsync, true, "another test", 0)
	require.NoError(t, err)
	turns(t, one, flags.SyncAsync, true)
	_, err = store.Set(t.Context(), operator, flags.AICache, false, "what comes last", 0)
	require.NoError(t, err)
	turns(t, locked, flags.AICache, false)
	require.False(t, locked.Enabled(flags.SyncAsync), "no flag opens a lock")

	for range 2 {
		_, err = store.Clear(t.Context(), operator, flags.AICache)
		require.NoError(t, err)
	}
	turns(t, one, flags.AICache, true)
	turns(t, locked, flags.AICache, true)
	facts = told(t, db)
	require.Len(t, facts, 3, "what is clear already tells nothing")
	require.Equal(t, events.FlagChanged{Name: flags.AICache, Value: events.FlagCleared}, facts[2].Data)
	_, err = store.Set(t.Context(), operator, flags.AICache, false, "after a clear", 0)
	require.NoError(t, err)
	turns(t, two, flags.AICache, false)
}

func TestARestartOfNATSBlindsNobody(t *testing.T) {
	t.Parallel()
	s, db := natstest.Provisioned(t, natstest.WithTCP()), pgtest.New(t)
	store := flags.NewStore(bucket(t, s, "ops"), outbox.New(db.Pool, nil))
	f := follow(t, s)
	_, err := store.Set(t.Context(), operator, flags.AICache, false, "before", 0)
	require.NoError(t, err)
	turns(t, f, flags.AICache, false)
	require.NoError(t, s.Restart(t.Context()))
	require.False(t, f.Enabled(flags.AICache), "the last value holds")
	require.Eventually(t, func() bool {
		_, err := store.Set(t.Context(), operator, flags.SyncAsync, false, "after", 0)
		return err == nil
	}, patience, 50*time.Millisecond)
	back := time.Now()
	turns(t, f, flags.SyncAsync, false)
	require.Less(t, time.Since(back), 15*time.Second, "only the watch, blind for 18 s, saw it")
	require.False(t, f.Enabled(flags.AICache), "it survived the restart")
}

func TestWhatIsRefusedChangesNothing(t *testing.T) {
	t.Parallel()
	s, db := natstest.Provisioned(t), pgtest.New(t)
	kv := bucket(t, s, "ops")
	store := flags.NewStore(kv, outbox.New(db.Pool, nil))
	set := func(name, reason string, lasting time.Duration) {
		t.Helper()
		_, err := store.Set(t.Context(), operator, name, false, reason, lasting)
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
	}
	set("frobnicate", "x", 0)
	set(flags.AICache, "", 0)
	set(flags.AICache, " ", 0)
	set(flags.AICache, "two\nlines", 0)
	set(flags.AICache, "x", -time.Second)
	_, err := store.Clear(t.Context(), operator, "frobnicate")
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.Empty(t, told(t, db))

	// Without the event there is no change.
	gone := pgtest.New(t)
	gone.Pool.Close()
	_, err = flags.NewStore(kv, outbox.New(gone.Pool, nil)).Set(t.Context(), operator, flags.AICache, false, "untold", 0)
	require.Error(t, err)
	_, found, err := store.Get(t.Context(), flags.AICache)
	require.NoError(t, err)
	require.False(t, found)

	// What nobody can read is the default, and can be replaced.
	f := follow(t, s)
	_, err = kv.Put(t.Context(), flags.AICache, []byte(`{"value":"off"`))
	require.NoError(t, err)
	_, found, err = store.Get(t.Context(), flags.AICache)
	require.NoError(t, err)
	require.False(t, found)
	require.True(t, f.Enabled(flags.AICache))
	_, err = store.Set(t.Context(), operator, flags.AICache, false, "readable", 0)
	require.NoError(t, err)
	turns(t, f, flags.AICache, false)
}

// The time of a flag runs out while nobody can be asked.
func TestTimeClearsAFlag(t *testing.T) {
	t.Parallel()
	s, db := natstest.Provisioned(t), pgtest.New(t)
	store := flags.NewStore(bucket(t, s, "ops"), outbox.New(db.Pool, nil))
	f := follow(t, s)
	var v flags.Value
	require.Eventually(t, func() bool {
		if !time.Now().Before(v.ExpiresAt) { // the first time, and when the machine was too slow to see it
			var err error
			v, err = store.Set(t.Context(), operator, flags.AICache, false, "for a while", 2*time.Second)
			require.NoError(t, err)
		}
		return !f.Enabled(flags.AICache)
	}, patience, time.Millisecond)
	s.Stop()
	turns(t, f, flags.AICache, true)
	require.False(t, time.Now().Before(v.ExpiresAt), "too early")

	require.False(t, v.On(v.ExpiresAt.Add(-time.Nanosecond)))
	require.True(t, v.On(v.ExpiresAt))
	v.ExpiresAt = time.Time{}
	require.False(t, v.On(time.Now().AddDate(1, 0, 0)))
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"value":"off","reason":"x","actor":"operator","setAt":"2026-01-02T03:04:05Z","expiresAt":"2026-01-02T04:04:05Z"}`))
	f.Add([]byte(`{"value":"on","reason":"x","actor":"operator","setAt":"2026-01-02T03:04:05+23:59","newer":1}`))
	f.Add([]byte(`{"value":"maybe"}`))
	f.Add([]byte(`{"value":"off"`))
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := flags.Decode(body)
		if err != nil {
			return
		}
		again, err := v.Encode()
		require.NoError(t, err, "%+v", v)
		twice, err := flags.Decode(again)
		require.NoError(t, err)
		require.Equal(t, v, twice)
	})
}

func BenchmarkEnabled(b *testing.B) {
	f := flags.New(nil, zerolog.Nop())
	for b.Loop() {
		f.Enabled(flags.SyncAsync)
	}
}
