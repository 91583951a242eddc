package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/service"
)

// natsCLI is the official client, which .ci/run installs under bin/.
func natsCLI(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "nats"))
	require.NoError(t, err)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	path, err = exec.LookPath("nats")
	if err != nil && os.Getenv("FDC_TEST_NATSCLI") == "" {
		t.Skip("no nats client: GOBIN=$PWD/bin go install github.com/nats-io/natscli/nats@v0.5.1")
	}
	require.NoError(t, err, "FDC_TEST_NATSCLI=1 wants the nats client: GOBIN=$PWD/bin go install github.com/nats-io/natscli/nats@v0.5.1")
	return path
}

// Whatever fdc status says of streams, consumers and buckets, the official nats client says too.
func TestTheNATSClientAgrees(t *testing.T) {
	t.Parallel()
	cli, ctx := natsCLI(t), t.Context()
	db, broker := pgtest.Empty(t), natstest.New(t, natstest.WithTCP())
	require.NoError(t, service.RunMigrate(ctx, service.MigrateConfig{
		Database: postgres.Config{URL: db.URL, MaxConns: 4, ConnectTimeout: 10 * time.Second, QueryTimeout: 30 * time.Second},
		Bus:      bus.Config{URL: broker.URL("provision"), Replicas: 1},
	}, zerolog.Nop()))
	js, err := bus.JetStream(natstest.Connect(t, broker, "provision"))
	require.NoError(t, err)

	// No two figures are alike by chance: gaps, unanswered and repeated deliveries, keys that were written twice and deleted.
	for i := range 20 {
		_, err := js.Publish(ctx, "evt.sync.requested.v1."+strconv.Itoa(i), bytes.Repeat([]byte{'x'}, i))
		require.NoError(t, err)
	}
	events, err := js.Stream(ctx, bus.Events)
	require.NoError(t, err)
	for _, seq := range []uint64{1, 2, 7} {
		require.NoError(t, events.DeleteMsg(ctx, seq))
	}
	for range 3 {
		_, err = js.Publish(ctx, "dead.syncer.evt.x", []byte("x"))
		require.NoError(t, err)
	}
	consumer, err := js.Consumer(ctx, bus.Events, bus.Syncer)
	require.NoError(t, err)
	batch, err := consumer.Fetch(6)
	require.NoError(t, err)
	var fetched []jetstream.Msg
	for msg := range batch.Messages() {
		fetched = append(fetched, msg)
	}
	require.Len(t, fetched, 6)
	require.NoError(t, fetched[0].DoubleAck(ctx))
	require.NoError(t, fetched[1].Nak())
	require.NoError(t, fetched[2].Nak())
	for again := false; !again; { // one is delivered twice, and not answered
		msg, err := consumer.Next()
		require.NoError(t, err)
		meta, err := msg.Metadata()
		require.NoError(t, err)
		again = meta.NumDelivered > 1
	}
	for i := range 5 { // a server that heard of the Naks late has delivered all others
		_, err := js.Publish(ctx, "evt.sync.requested.v1.later"+strconv.Itoa(i), nil)
		require.NoError(t, err)
	}
	for bucket, keys := range map[string][]string{bus.Sessions: {"a", "b", "c", "a"}, bus.Flags: {"x"}} {
		for _, key := range keys {
			_, err := js.Publish(ctx, "$KV."+bucket+"."+key, []byte(key))
			require.NoError(t, err)
		}
	}

	ask := func(into any, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, cli, append([]string{"--server", broker.URL("ops")}, args...)...) //nolint:gosec // the client
		cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
		out, err := cmd.Output()
		require.NoError(t, err, "%v", args)
		require.NoError(t, json.Unmarshal(out, into), "%v: %s", args, out)
	}
	var printed bytes.Buffer
	environ := map[string]string{"NATS_URL": broker.URL("ops"), "DATABASE_URL": db.URL}
	require.NoError(t, execute(ctx, environ, []string{"status", "--json"}, &printed, &printed))
	var status service.Status
	require.NoError(t, json.Unmarshal(printed.Bytes(), &status))

	var names, shown []string
	ask(&names, "stream", "ls", "--all", "--json")
	for _, s := range status.Streams {
		shown = append(shown, s.Name)
		var info jetstream.StreamInfo
		ask(&info, "stream", "info", s.Name, "--json")
		require.Equal(t, service.StreamStatus{
			Name: s.Name, Messages: info.State.Msgs, Bytes: info.State.Bytes, FirstSeq: info.State.FirstSeq, LastSeq: info.State.LastSeq,
		}, s)
	}
	for _, b := range status.Buckets {
		shown = append(shown, "KV_"+b.Name)
		var info jetstream.StreamInfo
		ask(&info, "stream", "info", "KV_"+b.Name, "--json")
		require.Equal(t, service.BucketStatus{Name: b.Name, Keys: info.State.Msgs, Bytes: info.State.Bytes}, b)
		cmd := exec.CommandContext(ctx, cli, "--server", broker.URL("ops"), "kv", "info", b.Name) //nolint:gosec // the client
		cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
		out, err := cmd.Output()
		require.NoError(t, err)
		values := regexp.MustCompile(`Values(?: Stored)?: ([\d,]+)`).FindStringSubmatch(string(out))
		require.NotNil(t, values, "%s", out)
		require.Equal(t, strconv.FormatUint(b.Keys, 10), strings.ReplaceAll(values[1], ",", ""))
	}
	require.ElementsMatch(t, names, shown)

	var consumers []string
	ask(&consumers, "consumer", "ls", bus.Events, "--json")
	shown = nil
	for _, c := range status.Consumers {
		shown = append(shown, c.Name)
		var info jetstream.ConsumerInfo
		ask(&info, "consumer", "info", c.Stream, c.Name, "--json")
		require.Equal(t, service.ConsumerStatus{
			Stream: bus.Events, Name: c.Name, Pending: info.NumPending, AckPending: info.NumAckPending, Redelivered: info.NumRedelivered,
		}, c)
	}
	require.ElementsMatch(t, consumers, shown)
	for _, c := range status.Consumers {
		if c.Name == bus.Syncer {
			require.NotZero(t, c.Pending)
			require.NotZero(t, c.AckPending)
			require.NotZero(t, c.Redelivered)
		}
	}
}
