package main

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/service"
)

// BenchmarkStatus is what an operator waits for: fdc status, from nothing but addresses, of a system with
// FDC_STATUS_BENCH_EVENTS events and FDC_STATUS_BENCH_CONSUMERS consumers on EVENTS, as 1000000 and 1000.
func BenchmarkStatus(b *testing.B) {
	amount, consumers := testenv.Size(b, "FDC_STATUS_BENCH_EVENTS", 20_000), testenv.Size(b, "FDC_STATUS_BENCH_CONSUMERS", 50)
	db, broker := pgtest.Empty(b), natstest.New(b, natstest.WithTCP())
	require.NoError(b, service.RunMigrate(b.Context(), service.MigrateConfig{
		Database: postgres.Config{URL: db.URL, MaxConns: 4, ConnectTimeout: 10 * time.Second, QueryTimeout: 30 * time.Second},
		Bus:      bus.Config{URL: broker.URL("provision"), Replicas: 1},
	}, zerolog.Nop()))
	js, err := bus.JetStream(natstest.Connect(b, broker, "provision"))
	require.NoError(b, err)
	fill(b, js, amount)
	var group errgroup.Group
	group.SetLimit(16)
	for i := range consumers - len(bus.Consumers()) { // the server allows no more than 1,000 in all
		group.Go(func() error {
			// Some are behind, some want little: all that the server keeps count of.
			_, err := js.CreateConsumer(b.Context(), bus.Events, jetstream.ConsumerConfig{
				Durable: fmt.Sprintf("bench-%d", i), AckPolicy: jetstream.AckExplicitPolicy,
				FilterSubject: []string{"evt.>", "evt.task.>", fmt.Sprintf("evt.*.*.v1.%s", scope(i))}[i%3],
			})
			return err
		})
	}
	require.NoError(b, group.Wait())

	environ := map[string]string{"NATS_URL": broker.URL("ops"), "DATABASE_URL": db.URL}
	for b.Loop() {
		require.NoError(b, execute(b.Context(), environ, []string{"status", "--json"}, io.Discard, io.Discard))
	}
	b.ReportMetric(float64(amount), "events")
	b.ReportMetric(float64(consumers), "consumers")
}

// scope is one of a thousand workspaces.
func scope(i int) string { return fmt.Sprintf("00000000-0000-7000-8000-%012d", i%1000) }

// fill publishes task events of a thousand workspaces in atomic batches, as the relay does.
func fill(b *testing.B, js jetstream.JetStream, amount int) {
	b.Helper()
	const batch = 1000
	var group errgroup.Group
	group.SetLimit(2)
	for first := 0; first < amount; first += batch {
		group.Go(func() error {
			return publishBatch(b.Context(), js, first, min(first+batch, amount))
		})
	}
	require.NoError(b, group.Wait())
}

func publishBatch(ctx context.Context, js jetstream.JetStream, first, end int) error {
	var msgs []*nats.Msg
	for i := first; i < end; i++ {
		ev := events.New(events.Meta{Source: "/fdc/bench", ActorID: events.SystemActor}, "",
			events.TaskDeleted{TaskID: events.NewID(), WorkspaceID: scope(i), Version: 1})
		body, err := events.Encode(ev)
		if err != nil {
			return err
		}
		msgs = append(msgs, &nats.Msg{Subject: ev.NATSSubject(), Data: body, Header: nats.Header{jetstream.MsgIDHeader: {ev.ID}}})
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // or it is 5 s, which is little on a busy machine
	defer cancel()
	_, err := jetstreamext.PublishMsgBatch(ctx, js, msgs)
	return err
}
