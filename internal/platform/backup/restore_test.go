package backup

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/platform/bus"
)

// contents are what the messages of a stream say, in order: subject, own headers, body. Their sequences count for checkpoints alone.
func (r *rig) contents(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, name := range streams {
		held, _ := r.held(t, name)
		stream, err := r.owner.Stream(t.Context(), name)
		require.NoError(t, err)
		all[name] = []string{}
		for _, sequence := range slices.Sorted(maps.Keys(held)) {
			msg, err := stream.GetMsg(t.Context(), sequence)
			require.NoError(t, err)
			for key := range msg.Header {
				if strings.HasPrefix(key, "Nats-Expected-") {
					delete(msg.Header, key)
				}
			}
			if name == bus.Checkpoints {
				msg.Subject += " " + string(rune('0'+sequence%10))
			}
			all[name] = append(all[name], line(msg.Subject, printable(asPublished(msg.Header)), msg.Data, msg.Time))
		}
		for i, s := range all[name] { // the time is that of the restore
			all[name][i] = s[:strings.LastIndex(s, `" `)]
		}
	}
	return all
}

// filled publishes, with a flag that was cleared and one that was purged, lets a keeper copy all of it, and ends the keeper.
func (r *rig) filled(t *testing.T, n int) map[string][]string {
	t.Helper()
	for range n {
		r.publish(t)
	}
	kv, err := r.owner.KeyValue(t.Context(), bus.Flags)
	require.NoError(t, err)
	require.NoError(t, kv.Delete(t.Context(), "f1"))
	require.NoError(t, kv.Purge(t.Context(), "f2"))
	dead, err := r.owner.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	require.NoError(t, dead.DeleteMsg(t.Context(), 2))
	stop := run(t, r.keeper(t))
	r.settles(t)
	stop()
	return r.contents(t)
}

// All comes back in order, once, and its rows go along. Twice is like once, and without a loss nothing is done.
func TestRestore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.restore(t) // a first migration
	want := r.filled(t, 120)
	r.restore(t)
	require.Equal(t, want, r.contents(t), "nothing was lost")

	r.lose(t, streams...)
	for _, list := range r.contents(t) {
		require.Empty(t, list)
	}
	var log bytes.Buffer
	require.NoError(t, r.restorer(t, zerolog.New(&log)).run(t.Context()))
	require.Equal(t, want, r.contents(t))
	require.Zero(t, r.lost(t))
	require.Contains(t, log.String(), `"stream":"DEAD"`)
	require.Contains(t, log.String(), `"published":119`)
	require.True(t, r.complete(t), "there is a copy before a keeper runs")
	r.restore(t)
	require.Equal(t, want, r.contents(t))
	run(t, r.keeper(t))
	r.publish(t)
	require.True(t, eventually(t, func() bool { return r.complete(t) }))

	kv, err := r.owner.KeyValue(t.Context(), bus.Flags)
	require.NoError(t, err)
	_, err = kv.Get(t.Context(), "f2")
	require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
	entry, err := kv.Get(t.Context(), "f0")
	require.NoError(t, err)
	require.Contains(t, string(entry.Value()), "value ")
}

// complete reports whether each message has a row, and no other row is there. Those that were moved keep their old time.
func (r *rig) complete(t *testing.T) bool {
	t.Helper()
	for _, name := range streams {
		held, created := r.held(t, name)
		if !slices.Equal(slices.Sorted(maps.Keys(held)), slices.Sorted(maps.Keys(r.rows(t, name, created)))) {
			return false
		}
	}
	return true
}

var errCrash = errors.New("a crash")

// A restore crashes after each of its steps, and is done again: at once, when DEAD has forgotten the ids, or after another loss.
func TestARestoreThatIsInterruptedDoublesNothing(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*testing.T, *rig){
		"at once":            func(*testing.T, *rig) {},
		"long after":         func(t *testing.T, r *rig) { t.Helper(); r.restart(t) }, // by then DEAD has forgotten the ids
		"after another loss": func(t *testing.T, r *rig) { t.Helper(); r.lose(t, streams...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			want := r.filled(t, 4)
			for steps, done := 1, false; !done; steps++ {
				r.lose(t, streams...)
				done = r.crashAfter(t, steps)
				again(t, r)
				r.restore(t)
				require.Equal(t, want, r.contents(t), "after %d steps", steps)
				require.Zero(t, r.lost(t))
			}
		})
	}
}

// crashAfter restores until so many steps are done, and reports whether that was all of it.
func (r *rig) crashAfter(t *testing.T, steps int) (done bool) {
	t.Helper()
	dead, err := r.owner.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	config := dead.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond // the least there is
	_, err = r.owner.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	crashing := r.restorer(t, zerolog.Nop())
	crashing.afterStep = func(string) error {
		if steps--; steps == 0 {
			return errCrash
		}
		return nil
	}
	if err = crashing.run(t.Context()); err == nil {
		return true
	}
	require.ErrorIs(t, err, errCrash)
	_ = crashing.conn.Close(t.Context()) // as the end of the process does
	return false
}

// Several restore at the same time, while a keeper runs.
func TestRestoresBesideEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := r.filled(t, 30)
	run(t, r.keeper(t))
	r.lose(t, streams...)
	var all sync.WaitGroup
	for range 4 {
		restorer := r.restorer(t, zerolog.Nop())
		all.Go(func() {
			if err := restorer.run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, want, r.contents(t))
	require.Zero(t, r.lost(t))
	require.True(t, eventually(t, func() bool { return r.complete(t) }))
}

// What has happened since the loss stays as it is.
func TestARestoreGivesWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.filled(t, 6)
	r.lose(t, streams...)
	kv, err := r.owner.KeyValue(t.Context(), bus.Flags)
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "f0", []byte("set meanwhile"))
	require.NoError(t, err)
	_, err = r.owner.PublishMsg(t.Context(), &nats.Msg{Subject: "dead.syncer.evt.x", Data: []byte("has died again"), Header: nats.Header{jetstream.MsgIDHeader: {"syncer:3"}}})
	require.NoError(t, err)
	_, err = r.owner.Publish(t.Context(), bus.CheckpointSubject, []byte("of another chain"))
	require.NoError(t, err)

	for range 2 {
		var log bytes.Buffer
		require.NoError(t, r.restorer(t, zerolog.New(&log)).run(t.Context()))
		require.Contains(t, log.String(), "somebody has signed another checkpoint 1")
	}
	entry, err := kv.Get(t.Context(), "f0")
	require.NoError(t, err)
	require.Equal(t, "set meanwhile", string(entry.Value()))
	found := r.contents(t)
	require.Len(t, found[bus.Checkpoints], 1)
	require.Equal(t, 6, r.lost(t), "the lost chain stays")
	require.Len(t, found[bus.Dead], 5, "as before: one has died again, one had been taken out")
	require.Equal(t, 1, strings.Count(strings.Join(found[bus.Dead], "\n"), "syncer:3"))
	require.Len(t, found["KV_flags"], 3)

	// A gap in the lost chain: what comes before it is restored.
	_, err = r.db.Pool.Exec(t.Context(), `DELETE FROM stream_backup WHERE stream = 'CHECKPOINTS' AND sequence = 4`)
	require.NoError(t, err)
	r.lose(t, bus.Checkpoints)
	var log bytes.Buffer
	require.NoError(t, r.restorer(t, zerolog.New(&log)).run(t.Context()))
	require.Contains(t, log.String(), "lacks what comes before checkpoint 5")
	require.Len(t, r.contents(t)[bus.Checkpoints], 3)
	require.Equal(t, 2, r.lost(t))
}

// Rows leave with the transaction, those of a lost stream by their message id.
func TestForget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.filled(t, 5)
	_, lost := r.held(t, bus.Dead)
	r.lose(t, bus.Dead)
	stop := run(t, r.keeper(t))
	for range 3 {
		r.publish(t)
	}
	r.settles(t)
	stop()
	_, created := r.held(t, bus.Dead)
	forget := func(end error) {
		err := pgx.BeginFunc(t.Context(), r.db.Pool, func(tx pgx.Tx) error {
			require.NoError(t, Forget(t.Context(), tx, bus.Dead, created, []uint64{1}, []string{"syncer:4"}))
			return end
		})
		require.ErrorIs(t, err, end)
	}
	forget(errCrash)
	require.Len(t, r.rows(t, bus.Dead, lost), 4)
	require.Len(t, r.rows(t, bus.Dead, created), 3)
	forget(nil)
	require.Len(t, r.rows(t, bus.Dead, lost), 3)
	require.Equal(t, []uint64{2, 3}, slices.Sorted(maps.Keys(r.rows(t, bus.Dead, created))))

	is, err := Lost(t.Context(), r.db.Pool, bus.Dead, created)
	require.NoError(t, err)
	require.True(t, is)
	_, err = r.db.Pool.Exec(t.Context(), `DELETE FROM stream_backup WHERE created = $1`, lost)
	require.NoError(t, err)
	is, err = Lost(t.Context(), r.db.Pool, bus.Dead, created)
	require.NoError(t, err)
	require.False(t, is)
}
