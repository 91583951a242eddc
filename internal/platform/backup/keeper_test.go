package backup

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/faultproxy"
	"fdc/internal/platform/bus"
)

// What is in the streams before a keeper and what comes after is copied, whatever its headers; what leaves them goes, and what is taken
// out of the table comes back.
func TestTheBackupHoldsWhatTheStreamsHold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 250 { // more than a batch
		r.publish(t)
	}
	k := r.keeper(t)
	run(t, k)
	r.settles(t)
	for range 5 {
		r.publish(t)
	}
	kv, err := r.owner.KeyValue(t.Context(), bus.Flags)
	require.NoError(t, err)
	require.NoError(t, kv.Delete(t.Context(), "f1"))
	require.NoError(t, kv.Purge(t.Context(), "f2"))
	_, err = r.owner.PublishMsg(t.Context(), &nats.Msg{Subject: "dead.syncer.evt.x", Header: nats.Header{"Odd": {"\xff", "a\x00b", ""}}})
	require.NoError(t, err)
	r.settles(t)
	flags, _ := r.held(t, "KV_flags")
	require.Len(t, flags, 3, "one of each")

	dead, err := r.owner.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	for _, sequence := range []uint64{1, 2, 100, 256} { // the first, one amid, and the last
		require.NoError(t, dead.DeleteMsg(t.Context(), sequence))
	}
	r.settles(t)
	_, err = r.db.Pool.Exec(t.Context(), `DELETE FROM stream_backup WHERE stream = 'CHECKPOINTS' AND sequence < 100 OR stream = 'KV_flags'`)
	require.NoError(t, err)
	r.settles(t)
	require.NoError(t, dead.Purge(t.Context()))
	r.settles(t)
	require.Equal(t, 1, counted(k.leader))
	require.Zero(t, counted(k.pending.WithLabelValues(bus.Checkpoints)))
	require.Equal(t, 255, counted(k.sequence.WithLabelValues(bus.Checkpoints)))
}

// A keeper dies again and again while messages are published: between reading and writing, by the end of its session, by a restart of
// NATS. Nothing is missing in the end.
func TestAKilledKeeperLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.unheard = time.Second
	done := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for tick := time.Tick(20 * time.Millisecond); ; {
			select {
			case <-done:
				return
			case <-tick:
				r.publish(t)
			}
		}
	})
	finish := sync.OnceFunc(func() { close(done); load.Wait() })
	defer finish()
	for round := range 9 {
		k := r.keeper(t)
		reached := make(chan struct{}, 1)
		die := make(chan struct{})
		left := 1 + rand.N(20)
		var mu sync.Mutex
		k.beforeWrite = func(string) {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				reached <- struct{}{}
				<-die // the batch is read, and not written yet
			}
		}
		stop := run(t, k)
		<-reached
		switch round % 3 {
		case 0:
			go stop()
			close(die)
			stop()
		case 1:
			_, err := r.db.Pool.Exec(t.Context(), `
				SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fdc-stream-backup' AND datname = current_database()`)
			require.NoError(t, err)
			close(die)
			require.Eventually(t, func() bool { return counted(k.failures) > 0 && counted(k.leader) == 1 }, patience, 5*time.Millisecond, "it goes on")
			stop()
		case 2:
			r.restart(t)
			close(die)
			require.Eventually(t, func() bool { return counted(k.failures) > 0 && counted(k.leader) == 1 }, patience, 5*time.Millisecond, "it goes on")
			stop()
		}
	}
	finish()
	run(t, r.keeper(t))
	r.settles(t)
	held, _ := r.held(t, bus.Checkpoints)
	t.Logf("%d checkpoints", len(held))
	require.Greater(t, len(held), 9)
}

// One keeper works; when it is gone, another does.
func TestOneKeeperAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	keepers, stops := map[*Keeper]func(){}, 0
	for range 3 {
		k := r.keeper(t)
		keepers[k] = run(t, k)
	}
	for stops < 3 {
		var leaders []*Keeper
		require.Eventually(t, func() bool {
			leaders = nil
			for k := range keepers {
				if counted(k.leader) == 1 {
					leaders = append(leaders, k)
				}
			}
			return len(leaders) == 1
		}, patience, 5*time.Millisecond)
		r.publish(t)
		r.settles(t)
		var sessions int
		require.NoError(t, r.db.Pool.QueryRow(t.Context(), `
			SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = $1
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, lockKey).Scan(&sessions))
		require.Equal(t, 1, sessions)
		keepers[leaders[0]]()
		delete(keepers, leaders[0])
		stops++
	}
}

// Either side is cut off, or silent, for a while: what is published meanwhile is copied afterwards.
func TestAKeeperOutlivesOutages(t *testing.T) {
	t.Parallel()
	pause, cut, deafen := (*faultproxy.Proxy).Pause, (*faultproxy.Proxy).Cut, (*faultproxy.Proxy).Deafen
	for name, fault := range map[string]struct{ broker, database func(*faultproxy.Proxy) }{
		"NATS is silent": {broker: pause}, "NATS is cut off": {broker: cut}, "NATS hears nothing": {broker: deafen},
		"Postgres is cut off": {database: cut}, "Postgres is silent": {database: pause},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			broker, database := faultproxy.New(t, r.server.URL(bus.AuditArchiver)), faultproxy.New(t, r.db.URL)
			nc, err := bus.Connect(bus.Config{URL: broker.URL}, bus.AuditArchiver, zerolog.Nop())
			require.NoError(t, err)
			t.Cleanup(nc.Close)
			js, err := bus.JetStream(nc)
			require.NoError(t, err)
			k := r.keeperOf(t, database.URL, js)
			k.sessionTimeout = 2 * time.Second
			run(t, k)
			r.publish(t)
			r.settles(t)
			before := counted(k.failures)
			if fault.broker != nil {
				fault.broker(broker)
			} else {
				fault.database(database)
			}
			r.publish(t)
			require.Eventually(t, func() bool { return counted(k.failures) > before }, patience, 5*time.Millisecond, "it notices")
			r.publish(t)
			broker.Heal()
			database.Heal()
			r.settles(t)
		})
	}
}

// Streams vanish and are made anew under a running keeper, with fewer messages than the old ones had: the new ones are copied from their
// first message on, and the rows of the old ones stay.
func TestAStreamThatIsMadeAnewIsCopiedAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	k := r.keeper(t)
	run(t, k)
	for range 10 {
		r.publish(t)
	}
	r.settles(t)
	old := map[string]stored{}
	created := map[string]time.Time{}
	for _, name := range streams {
		old[name], created[name] = r.held(t, name)
	}
	r.lose(t, streams...)
	for range 3 {
		r.publish(t)
	}
	r.settles(t)
	for _, name := range streams {
		require.Equal(t, old[name], r.rows(t, name, created[name]), name)
		now, _ := r.held(t, name)
		require.Contains(t, now, uint64(1), name)
	}

	// Absent for a while: the others are copied.
	require.NoError(t, r.owner.DeleteStream(t.Context(), bus.Dead))
	_, err := r.owner.Publish(t.Context(), bus.CheckpointSubject, []byte("without DEAD"))
	require.NoError(t, err)
	want, at := r.held(t, bus.Checkpoints)
	require.True(t, eventually(t, func() bool { return len(r.rows(t, bus.Checkpoints, at)) == len(want) }))
	require.NoError(t, bus.Provision(t.Context(), r.owner, 1))
	r.publish(t)
	r.settles(t)
}

func TestHolds(t *testing.T) {
	t.Parallel()
	state := jetstream.StreamState{Msgs: 3, FirstSeq: 4, LastSeq: 8, Deleted: []uint64{5, 7}}
	for upTo, want := range map[uint64]uint64{0: 0, 3: 0, 4: 1, 5: 1, 6: 2, 7: 2, 8: 3, 100: 3} {
		require.Equal(t, want, holds(state, upTo), upTo)
	}
	require.Zero(t, holds(jetstream.StreamState{FirstSeq: 9, LastSeq: 8}, 9))
}
