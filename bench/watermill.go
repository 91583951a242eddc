package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"fdc/events"
)

// watermillTopic is where the forwarder finds what transactions have left.
const watermillTopic = "outbox"

// watermillOutbox is the same outbox made of Watermill's parts: its SQL publisher inside the transaction, its forwarder
// with the SQL subscriber, and its JetStream publisher onto the same stream with the same message ids.
type watermillOutbox struct {
	world   *world
	schema  wsql.SchemaAdapter
	offsets wsql.OffsetsAdapter
}

func newWatermillOutbox(w *world) (*watermillOutbox, error) {
	bytea := func(string) string { return "BYTEA" }
	m := &watermillOutbox{
		world: w,
		// Rows deleted when they are through, the body as bytes, in batches of 100: the fastest of what was tried.
		schema:  wsql.PostgreSQLQueueSchema{SubscribeBatchSize: 100, GeneratePayloadType: bytea},
		offsets: wsql.PostgreSQLQueueOffsetsAdapter{DeleteOnAck: true},
	}
	subscriber, err := m.subscriber()
	if err != nil {
		return nil, err
	}
	if err := subscriber.SubscribeInitialize(watermillTopic); err != nil {
		return nil, fmt.Errorf("make Watermill's tables: %w", err)
	}
	return m, nil
}

func (m *watermillOutbox) subscriber() (*wsql.Subscriber, error) {
	subscriber, err := wsql.NewSubscriber(wsql.BeginnerFromPgx(m.world.pool), wsql.SubscriberConfig{
		SchemaAdapter: m.schema, OffsetsAdapter: m.offsets, PollInterval: time.Millisecond,
	}, watermill.NopLogger{})
	if err != nil {
		return nil, fmt.Errorf("make Watermill's subscriber: %w", err)
	}
	return subscriber, nil
}

// publish leaves the events in the transaction's hands.
func (m *watermillOutbox) publish(ctx context.Context, tx pgx.Tx, list ...events.Event) error {
	inner, err := wsql.NewPublisher(wsql.TxFromPgx(tx), wsql.PublisherConfig{SchemaAdapter: m.schema}, watermill.NopLogger{})
	if err != nil {
		return fmt.Errorf("make Watermill's publisher: %w", err)
	}
	publisher := forwarder.NewPublisher(inner, forwarder.PublisherConfig{ForwarderTopic: watermillTopic})
	for _, event := range list {
		body, err := events.Encode(event)
		if err != nil {
			return fmt.Errorf("publish with Watermill: %w", err)
		}
		msg := message.NewMessageWithContext(ctx, event.ID, body)
		msg.Metadata.Set("Content-Type", "application/cloudevents+json")
		if err := publisher.Publish(event.NATSSubject(), msg); err != nil {
			return fmt.Errorf("publish with Watermill: %w", err)
		}
	}
	return nil
}

// fill leaves a backlog.
func (m *watermillOutbox) fill(ctx context.Context, facts []events.Event) error {
	return pgx.BeginFunc(ctx, m.world.pool, func(tx pgx.Tx) error { return m.publish(ctx, tx, facts...) })
}

// start forwards until the returned function ends it.
func (m *watermillOutbox) start(ctx context.Context) (stop func() error, _ error) {
	subscriber, err := m.subscriber()
	if err != nil {
		return nil, err
	}
	nc, err := m.world.connect("api")
	if err != nil {
		return nil, err
	}
	publisher, err := wmnats.NewPublisherWithNatsConn(nc, wmnats.PublisherPublishConfig{
		Marshaler: &wmnats.NATSMarshaler{}, SubjectCalculator: wmnats.DefaultSubjectCalculator,
		JetStream: wmnats.JetStreamConfig{TrackMsgId: true},
	}, watermill.NopLogger{})
	if err != nil {
		return nil, fmt.Errorf("make Watermill's JetStream publisher: %w", err)
	}
	f, err := forwarder.NewForwarder(subscriber, publisher, watermill.NopLogger{}, forwarder.Config{ForwarderTopic: watermillTopic})
	if err != nil {
		return nil, fmt.Errorf("make Watermill's forwarder: %w", err)
	}
	stopRun := background(ctx, f.Run)
	select {
	case <-f.Running():
	case <-ctx.Done():
	}
	return func() error { return errors.Join(f.Close(), stopRun()) }, nil
}
