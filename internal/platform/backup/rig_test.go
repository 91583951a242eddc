package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(12) // they wait for timeouts of both sides
	m.Run()
}

// rig is both sides, and what only their owner may do with them.
type rig struct {
	server *embednats.Server
	db     *pgtest.DB
	owner  jetstream.JetStream

	unheard time.Duration // after which a request or its answer is lost

	mu        sync.Mutex
	published int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{server: natstest.Provisioned(t, natstest.WithTCP()), db: pgtest.New(t), unheard: patience}
	r.owner = natstest.JetStream(t, natstest.Connect(t, r.server, "provision"))
	return r
}

// restart returns when the owner's connection is one to the server that was started. IsConnected may still be said of the one before.
func (r *rig) restart(t *testing.T) {
	t.Helper()
	before := r.owner.Conn().Stats().Reconnects
	require.NoError(t, r.server.Restart(t.Context()))
	require.Eventually(t, func() bool { return r.owner.Conn().Stats().Reconnects > before }, patience, 5*time.Millisecond)
}

// keeper makes one with the rights of the audit-archiver. It compares often.
func (r *rig) keeper(t *testing.T) *Keeper {
	t.Helper()
	js, err := bus.JetStream(natstest.Connect(t, r.server, bus.AuditArchiver))
	require.NoError(t, err)
	return r.keeperOf(t, r.db.URL, js)
}

func (r *rig) keeperOf(t *testing.T, database string, js jetstream.JetStream) *Keeper {
	t.Helper()
	k := NewKeeper(postgres.Config{URL: database, ConnectTimeout: patience}, js, zerolog.New(zerolog.NewTestWriter(t)), prometheus.NewRegistry())
	k.compareEvery = 50 * time.Millisecond
	return k
}

// run starts a keeper, and returns how to end it; the end of the test does, too.
func run(t *testing.T, k *Keeper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// publish puts one more message into each stream: the value of a flag, a letter, a checkpoint. Of what the server has not
// acknowledged it tries again, so that some letters are there twice.
func (r *rig) publish(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	r.published++
	n := r.published
	r.mu.Unlock()
	for _, m := range []*nats.Msg{
		{Subject: fmt.Sprintf("$KV.flags.f%d", n%3), Data: fmt.Appendf(nil, "value %d", n)},
		{Subject: "dead.syncer.evt.x", Data: fmt.Appendf(nil, "letter %d", n), Header: nats.Header{
			jetstream.MsgIDHeader: {fmt.Sprintf("syncer:%d", n)}, "Fdc-Dead-Reason": {"it is odd"}, "Many": {"one", "two"},
		}},
		{Subject: bus.CheckpointSubject, Data: fmt.Appendf(nil, "checkpoint %d", n), Header: nats.Header{"Fdc-Signature": {"ours"}}},
	} {
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), r.unheard)
			defer cancel()
			_, err := r.owner.PublishMsg(ctx, m)
			return err == nil
		}, patience, 20*time.Millisecond)
	}
}

// stored is what a stream holds, or its backup.
type stored map[uint64]string

func line(subject string, headers map[string][]string, body []byte, at time.Time) string {
	encoded, err := json.Marshal(headers)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %q %s", subject, encoded, body, at.UTC().Truncate(time.Microsecond))
}

func (r *rig) held(t *testing.T, name string) (stored, time.Time) {
	t.Helper()
	stream, err := r.owner.Stream(t.Context(), name)
	require.NoError(t, err)
	info := stream.CachedInfo()
	found := stored{}
	for sequence := info.State.FirstSeq; sequence <= info.State.LastSeq && info.State.Msgs > 0; sequence++ {
		msg, err := stream.GetMsg(t.Context(), sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		require.NoError(t, err)
		found[sequence] = line(msg.Subject, printable(asPublished(msg.Header)), msg.Data, msg.Time)
	}
	return found, bus.Incarnation(info.Created)
}

// asPublished leaves out what a direct read adds.
func asPublished(h nats.Header) nats.Header {
	for _, key := range []string{"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"} {
		delete(h, key)
	}
	return h
}

// rows are those of an incarnation.
func (r *rig) rows(t *testing.T, name string, created time.Time) stored {
	t.Helper()
	rows, err := r.db.Pool.Query(t.Context(), `SELECT sequence, subject, headers, body, published_at FROM stream_backup WHERE stream = $1 AND created = $2`, name, created)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	require.NoError(t, err)
	found := stored{}
	for _, m := range list {
		found[uint64(m.Sequence)] = line(m.Subject, m.Headers, m.Body, m.PublishedAt) //nolint:gosec // positive
	}
	return found
}

// settles waits until the backup holds what the streams hold, and nothing else of their present incarnations.
func (r *rig) settles(t *testing.T) {
	t.Helper()
	for _, name := range streams {
		want, created := r.held(t, name)
		var got stored
		if !eventually(t, func() bool { got = r.rows(t, name, created); return fmt.Sprint(got) == fmt.Sprint(want) }) {
			require.Equal(t, want, got, name)
		}
	}
}

func eventually(t *testing.T, holds func() bool) bool {
	t.Helper()
	timeout := time.After(patience)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-timeout:
			return false
		case <-look.C:
		}
	}
	return true
}

// lose makes the streams anew, empty, as a loss and a migration do.
func (r *rig) lose(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		require.NoError(t, r.owner.DeleteStream(t.Context(), name))
	}
	for _, config := range append(bus.Streams(1), bus.Buckets(1)...) {
		if slices.Contains(names, config.Name) {
			_, err := r.owner.CreateStream(t.Context(), config)
			require.NoError(t, err)
		}
	}
}

// lost counts the rows of other incarnations than the present ones.
func (r *rig) lost(t *testing.T) (n int) {
	t.Helper()
	for _, name := range streams {
		stream, err := r.owner.Stream(t.Context(), name)
		require.NoError(t, err)
		var more int
		require.NoError(t, r.db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM stream_backup WHERE stream = $1 AND created <> $2`,
			name, bus.Incarnation(stream.CachedInfo().Created)).Scan(&more))
		n += more
	}
	return n
}

func (r *rig) restorer(t *testing.T, log zerolog.Logger) *restorer {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may have been closed
	return &restorer{conn: conn, js: r.owner, log: log}
}

func (r *rig) restore(t *testing.T) {
	t.Helper()
	require.NoError(t, r.restorer(t, zerolog.Nop()).run(t.Context()))
}

func counted(c prometheus.Collector) int { return int(testutil.ToFloat64(c)) }
