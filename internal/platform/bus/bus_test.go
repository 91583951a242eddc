package bus_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(8) // they wait for elections and for servers that come later
	m.Run()
}

func as(t *testing.T, s *embednats.Server, user string) jetstream.JetStream {
	t.Helper()
	js, err := bus.JetStream(natstest.Connect(t, s, user))
	require.NoError(t, err)
	return js
}

// An operator begins, pauses and ends a replay, which its service drains; requeues through REPLAY; and takes a dead letter out.
func TestOperatorsReplayAndServicesDrain(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t, natstest.WithTCP())
	ops, owner := as(t, s, "ops"), as(t, s, "provision")
	for _, consumer := range bus.Consumers() {
		t.Run(consumer.Name, func(t *testing.T) {
			service := as(t, s, consumer.Name)
			_, err := ops.Publish(t.Context(), "evt.probe", nil)
			require.NoError(t, err)
			order := bus.ReplayOrder{ID: "x", Until: 100, StartedAt: time.Now(), StartedBy: "test"}
			_, err = ops.CreateConsumer(t.Context(), bus.Events, consumer.ReplayConfig(order, 1, []string{"evt.probe", "evt.other"}, 1))
			require.NoError(t, err)
			name := bus.ReplayConsumer(consumer.Name)
			_, err = ops.PauseConsumer(t.Context(), bus.Events, name, time.Now().Add(time.Hour))
			require.NoError(t, err)
			_, err = ops.ResumeConsumer(t.Context(), bus.Events, name)
			require.NoError(t, err)
			drain := func(stream, name string) {
				bound, err := service.Consumer(t.Context(), stream, name)
				require.NoError(t, err)
				msg, err := bound.Next(jetstream.FetchMaxWait(patience))
				require.NoError(t, err)
				require.NoError(t, msg.DoubleAck(t.Context()))
			}
			drain(bus.Events, name)
			bound, err := ops.Consumer(t.Context(), bus.Events, name)
			require.NoError(t, err)
			got, err := bus.ParseReplayOrder(bound.CachedInfo().Config.Metadata)
			require.NoError(t, err)
			require.Equal(t, order.Until, got.Until)
			require.NoError(t, ops.DeleteConsumer(t.Context(), bus.Events, name))

			_, err = ops.Publish(t.Context(), bus.ReplaySubject(consumer.Name, "evt.probe"), nil)
			require.NoError(t, err)
			drain(bus.Replay, consumer.Name)

			ack, err := service.Publish(t.Context(), "dead."+consumer.Name+".evt.probe", nil)
			require.NoError(t, err)
			dead, err := ops.Stream(t.Context(), bus.Dead)
			require.NoError(t, err)
			require.NoError(t, dead.DeleteMsg(t.Context(), ack.Sequence))
		})
	}
	queue, err := owner.Stream(t.Context(), bus.Replay)
	require.NoError(t, err)
	require.Zero(t, queue.CachedInfo().State.Msgs)

	// Another consumer's name in the body is no way around.
	for _, config := range []string{`"name":"syncer"`, `"durable_name":"syncer"`, `"name":"syncer","durable_name":"syncer"`} {
		_, err := ops.Conn().Request("$JS.API.CONSUMER.CREATE.EVENTS.mine",
			[]byte(`{"stream_name":"EVENTS","config":{`+config+`,"ack_policy":"explicit","filter_subject":"evt.none"}}`), patience)
		require.NoError(t, err)
	}
	bound, err := owner.Consumer(t.Context(), bus.Events, bus.Syncer)
	require.NoError(t, err)
	require.Equal(t, "evt.sync.requested.v1.>", bound.CachedInfo().Config.FilterSubject+strings.Join(bound.CachedInfo().Config.FilterSubjects, ","))
}

func TestReplayOrderIsReadInFullOrRefused(t *testing.T) {
	t.Parallel()
	full := bus.ReplayOrder{
		ID: "x", Until: 7, FromTime: time.Now().UTC(), UserID: "u", Rate: 0.5, StartedAt: time.Now().UTC(), StartedBy: "operator",
	}
	got, err := bus.ParseReplayOrder(full.Metadata())
	require.NoError(t, err)
	require.Equal(t, full, got)
	least := bus.ReplayOrder{ID: "x", Until: 1, StartedAt: time.Now().UTC()}
	got, err = bus.ParseReplayOrder(least.Metadata())
	require.NoError(t, err)
	require.Equal(t, least, got)
	for key, value := range map[string]string{
		"fdc-replay-id": "", "fdc-until": "0", "fdc-rate": "-1", "fdc-from-time": "yesterday", "fdc-started-at": "", "fdc-moon": "full",
	} {
		metadata := full.Metadata()
		metadata[key] = value
		_, err := bus.ParseReplayOrder(metadata)
		require.ErrorContains(t, err, "metadata", key)
	}
	metadata := full.Metadata()
	metadata["_nats.level"] = "1"
	_, err = bus.ParseReplayOrder(metadata)
	require.NoError(t, err, "the server adds its own")
}

// A service that starts first waits, says for what, and goes on when it is there.
func TestBindWaits(t *testing.T) {
	t.Parallel()
	s := natstest.New(t, natstest.WithTCP())
	js := as(t, s, bus.CacheInvalidator)
	waiting := make(chan string, 100)
	bound := make(chan error, 1)
	go func() {
		_, err := bus.BindConsumer(t.Context(), js, bus.CacheInvalidator, func(what string) { waiting <- what })
		if err == nil {
			_, err = bus.BindBucket(t.Context(), js, bus.Sessions, func(what string) { waiting <- what })
		}
		bound <- err
	}()
	require.Contains(t, <-waiting, "consumer cache-invalidator")
	provision := as(t, s, "provision")
	require.NoError(t, bus.Provision(t.Context(), provision, 1))
	require.NoError(t, <-bound)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := bus.BindStream(ctx, js, "NOTHING", nil)
	require.ErrorIs(t, err, context.Canceled)
}

// A cache whose settings can't be changed in place is made anew; nothing else ever is.
func TestProvisionMakesCachesAnew(t *testing.T) {
	t.Parallel()
	js := as(t, natstest.New(t), "provision")
	for _, config := range append(bus.Streams(1), bus.Buckets(1)...) {
		if config.Name == "KV_"+bus.Sessions {
			config.PersistMode = jetstream.DefaultPersistMode
		}
		_, err := js.CreateStream(t.Context(), config)
		require.NoError(t, err)
	}
	flags, err := js.KeyValue(t.Context(), bus.Flags)
	require.NoError(t, err)
	_, err = flags.Put(t.Context(), "sync_async", []byte("x"))
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	made, err := js.Stream(t.Context(), "KV_"+bus.Sessions)
	require.NoError(t, err)
	require.Equal(t, jetstream.AsyncPersistMode, made.CachedInfo().Config.PersistMode)
	_, err = flags.Get(t.Context(), "sync_async")
	require.NoError(t, err)
}

// Three replicas on a cluster of three, and the stream answers when one of them is gone.
func TestThreeReplicas(t *testing.T) {
	t.Parallel()
	servers := cluster(t, 3)
	nc, err := nats.Connect(servers[0].ClientURL()+","+servers[1].ClientURL()+","+servers[2].ClientURL(), nats.MaxReconnects(-1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return bus.Provision(t.Context(), js, 3) == nil }, patience, 100*time.Millisecond)
	require.NoError(t, bus.Provision(t.Context(), natstest.JetStream(t, nc), 3), "a second time")
	for _, config := range append(bus.Streams(3), bus.Buckets(3)...) {
		stream, err := js.Stream(t.Context(), config.Name)
		require.NoError(t, err)
		require.Equal(t, 3, stream.CachedInfo().Config.Replicas, config.Name)
	}
	for _, declared := range bus.Consumers() {
		consumer, err := js.Consumer(t.Context(), bus.Events, declared.Name)
		require.NoError(t, err)
		require.Equal(t, 3, consumer.CachedInfo().Config.Replicas, declared.Name)
		consumer, err = js.Consumer(t.Context(), bus.Replay, declared.Name)
		require.NoError(t, err)
		require.Equal(t, 3, consumer.CachedInfo().Config.Replicas, declared.Name)
	}
	servers[2].Shutdown()
	require.Eventually(t, func() bool {
		_, err := js.Publish(t.Context(), "evt.probe", nil)
		return err == nil
	}, patience, 100*time.Millisecond, "two of three take no message")
}

func cluster(t *testing.T, size int) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range size {
		port := testenv.FreePort(t)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: testenv.Loopback(port)})
		ports = append(ports, port)
	}
	var servers []*server.Server
	for n, port := range ports {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", n), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 30, JetStreamMaxMemory: 1 << 30,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}, Routes: routes,
		})
		require.NoError(t, err)
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for _, s := range servers {
		require.True(t, s.ReadyForConnections(patience))
	}
	return servers
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	fine := bus.Config{URL: "nats://127.0.0.1:4222, tls://b:4222", Replicas: 3}
	require.NoError(t, fine.Validate())
	for want, c := range map[string]bus.Config{
		"NATS_URL":      {URL: "127.0.0.1:4222", Replicas: 1},
		"NATS_CREDS":    {URL: fine.URL, Replicas: 1, Creds: "/nowhere/creds"},
		"NATS_REPLICAS": {URL: fine.URL, Replicas: 2},
	} {
		require.ErrorContains(t, c.Validate(), want)
	}
}

// A connection that is made before its server exists works once it does.
func TestConnectBeforeTheServer(t *testing.T) {
	t.Parallel()
	s := natstest.New(t, natstest.WithTCP())
	s.Stop()
	nc, err := bus.Connect(bus.Config{URL: s.URL("ops")}, "ops", zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	require.Error(t, nc.Publish("evt.x", nil), "nothing is kept for a server that is away")
	require.NoError(t, s.Restart(t.Context()))
	require.Eventually(t, nc.IsConnected, patience, 5*time.Millisecond)
}
