package service

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/audit"
	"fdc/internal/gsync"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Status is the state of the whole system at one moment, as `fdc status --json` prints it.
type Status struct {
	Streams    []StreamStatus    `json:"streams"`
	Consumers  []ConsumerStatus  `json:"consumers"`
	Buckets    []BucketStatus    `json:"buckets"`
	Outbox     outbox.Stats      `json:"outbox"`
	SyncJobs   gsync.Stats       `json:"syncJobs"`
	Partitions []audit.Partition `json:"partitions"`
	Replica    *ReplicaStatus    `json:"replica"` // null without DATABASE_REPLICA_URL
}

// StreamStatus is one stream that is no bucket.
type StreamStatus struct {
	Name     string `json:"name"`
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	FirstSeq uint64 `json:"firstSeq"`
	LastSeq  uint64 `json:"lastSeq"`
}

// ConsumerStatus is one durable consumer.
type ConsumerStatus struct {
	Stream      string `json:"stream"`
	Name        string `json:"name"`
	Pending     uint64 `json:"pending"`
	AckPending  int    `json:"ackPending"`
	Redelivered int    `json:"redelivered"`
}

// BucketStatus is one key-value bucket.
type BucketStatus struct {
	Name  string `json:"name"`
	Keys  uint64 `json:"keys"`
	Bytes uint64 `json:"bytes"`
}

// ReplicaStatus is how far the read replica is behind.
type ReplicaStatus struct {
	LagSeconds float64 `json:"lagSeconds"`
}

// ReadStatus asks NATS and Postgres. replica may be nil.
func ReadStatus(ctx context.Context, js jetstream.JetStream, primary, replica postgres.Querier) (Status, error) {
	s := Status{Streams: []StreamStatus{}, Consumers: []ConsumerStatus{}, Buckets: []BucketStatus{}}
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		state := info.State
		if bucket, ok := strings.CutPrefix(info.Config.Name, "KV_"); ok {
			s.Buckets = append(s.Buckets, BucketStatus{Name: bucket, Keys: state.Msgs, Bytes: state.Bytes})
			continue
		}
		s.Streams = append(s.Streams, StreamStatus{
			Name: info.Config.Name, Messages: state.Msgs, Bytes: state.Bytes, FirstSeq: state.FirstSeq, LastSeq: state.LastSeq,
		})
	}
	if err := streams.Err(); err != nil {
		return s, fmt.Errorf("list streams: %w", err)
	}
	// The declared consumers only: open sockets have ephemeral ones without number.
	for _, declared := range bus.Consumers() {
		consumer, err := js.Consumer(ctx, bus.Events, declared.Name)
		if err != nil {
			return s, fmt.Errorf("ask for consumer %s: %w", declared.Name, err)
		}
		info := consumer.CachedInfo()
		s.Consumers = append(s.Consumers, ConsumerStatus{
			Stream: bus.Events, Name: declared.Name, Pending: info.NumPending, AckPending: info.NumAckPending, Redelivered: info.NumRedelivered,
		})
	}
	slices.SortFunc(s.Streams, func(a, b StreamStatus) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Buckets, func(a, b BucketStatus) int { return strings.Compare(a.Name, b.Name) })

	var err error
	if s.Outbox, err = outbox.ReadStats(ctx, primary); err != nil {
		return s, err
	}
	if s.SyncJobs, err = gsync.ReadStats(ctx, primary); err != nil {
		return s, err
	}
	if s.Partitions, err = audit.Partitions(ctx, primary); err != nil {
		return s, err
	}
	if replica != nil {
		s.Replica = new(ReplicaStatus)
		rows, err := replica.Query(ctx, `SELECT coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float8`)
		if err == nil {
			s.Replica.LagSeconds, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[float64])
		}
		if err != nil {
			return s, fmt.Errorf("ask the replica for its lag: %w", err)
		}
	}
	return s, nil
}
