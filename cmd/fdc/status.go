package main

import (
	"context"
	"errors"
	"maps"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"fdc/internal/devstack"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/postgres"
	"fdc/internal/service"
)

func (c *cli) status() *cobra.Command {
	watch := false
	cmd := &cobra.Command{
		Use: "status", Short: "Show streams, consumers, buckets, the outbox and the audit partitions", Args: cobra.NoArgs,
		Long: "status shows what is where and what waits. With --watch it goes on, each second, with rates: as a screen of its own on a terminal,\n" +
			"until Ctrl-C; as text, or with --json as one JSON object a line, everywhere else.",
		Example: "  fdc status\n  fdc status --json | jq .outbox\n  fdc status --watch\n  fdc status --watch --json | jq -c '[.time, .rates.EVENTS]'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), operatorPatience)
			defer cancel()
			source, err := c.openStatus(ctx)
			if err != nil {
				return err
			}
			defer source.close()
			if watch {
				return c.watchStatus(cmd.Context(), source)
			}
			s, err := source.read(ctx)
			switch {
			case err != nil:
				return err
			case c.json:
				return c.printJSON(s)
			}
			return c.printStatus(s)
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on, each second, until Ctrl-C")
	return cmd
}

// operatorConfig is what an operator's command connects with.
type operatorConfig struct {
	Database postgres.Config
	Bus      bus.Config
}

// operator reads the environment, or finds a running fdc dev when that says nothing of NATS and the database.
func (c *cli) operator() (operatorConfig, error) {
	environ := maps.Clone(c.environ)
	if c.onDev() {
		found, err := devstack.ReadAddresses(c.data)
		if err != nil {
			return operatorConfig{}, errors.Join(err, errors.New("start fdc dev, name its --data, or set NATS_URL and DATABASE_URL"))
		}
		environ["NATS_URL"], environ["DATABASE_URL"] = found.NATS, found.Postgres
	}
	return daemon.ParseEnv[operatorConfig](environ)
}

// onDev reports whether the environment names no other system than a running fdc dev.
func (c *cli) onDev() bool {
	return c.environ["NATS_URL"] == "" && c.environ["DATABASE_URL"] == "" && c.environ["DATABASE_URL_FILE"] == ""
}

// statusSource is what a status is read from.
type statusSource struct {
	nc            *nats.Conn
	js            jetstream.JetStream
	pool, replica *pgxpool.Pool // replica is nil without one
}

// openStatus connects, and waits until NATS and PostgreSQL answer.
func (c *cli) openStatus(ctx context.Context) (source *statusSource, err error) {
	config, err := c.operator()
	if err != nil {
		return nil, err
	}
	s := &statusSource{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.nc, s.js, err = connectBus(ctx, config); err != nil {
		return nil, err
	}
	if s.pool, err = openDatabase(ctx, config, "fdc-status"); err != nil {
		return nil, err
	}
	if config.Database.ReplicaURL != "" {
		if s.replica, err = pgxpool.New(ctx, config.Database.ReplicaURL); err != nil {
			return nil, &unreachableError{"the replica", err}
		}
	}
	return s, nil
}

func (s *statusSource) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	for _, pool := range []*pgxpool.Pool{s.pool, s.replica} {
		if pool != nil {
			pool.Close()
		}
	}
}

func (s *statusSource) read(ctx context.Context) (service.Status, error) {
	if s.replica == nil {
		return service.ReadStatus(ctx, s.js, s.pool, nil) // not a nil pool in an interface
	}
	return service.ReadStatus(ctx, s.js, s.pool, s.replica)
}

// unreachableError says what did not answer.
type unreachableError struct {
	what string
	err  error
}

func (e *unreachableError) Error() string {
	return e.what + " does not answer: " + e.err.Error() + "; is fdc dev, or the server, running?"
}
func (e *unreachableError) Unwrap() error { return e.err }

func (c *cli) printStatus(s service.Status) error {
	var streams, consumers, buckets, partitions [][]any
	for _, v := range s.Streams {
		streams = append(streams, []any{v.Name, v.Messages, v.Bytes, v.FirstSeq, v.LastSeq})
	}
	for _, v := range s.Consumers {
		consumers = append(consumers, []any{v.Stream, v.Name, v.Pending, v.AckPending, v.Redelivered})
	}
	for _, v := range s.Buckets {
		buckets = append(buckets, []any{v.Name, v.Keys, v.Bytes})
	}
	for _, v := range s.Partitions {
		partitions = append(partitions, []any{v.Month, v.State, v.Rows, v.Bytes})
	}
	err := errors.Join(
		c.table("STREAMS", []any{"name", "messages", "bytes", "first", "last"}, streams),
		c.table("CONSUMERS", []any{"stream", "name", "pending", "ack pending", "redelivered"}, consumers),
		c.table("BUCKETS", []any{"name", "keys", "bytes"}, buckets),
		c.table("AUDIT PARTITIONS", []any{"month", "state", "rows", "bytes"}, partitions),
	)
	if err != nil {
		return err
	}
	if s.Replica != nil {
		if err := c.printf("REPLICA\n  %.1f s behind\n\n", s.Replica.LagSeconds); err != nil {
			return err
		}
	}
	return errors.Join(
		c.printf("SYNC JOBS\n  %d pending, %d processing; in the last 24 hours %d completed, %d failed, %d cancelled\n\n",
			s.SyncJobs.Pending, s.SyncJobs.Processing, s.SyncJobs.Completed, s.SyncJobs.Failed, s.SyncJobs.Cancelled),
		c.printf("OUTBOX\n  %d pending, the oldest for %.1f s\n", s.Outbox.Pending, s.Outbox.OldestAgeSeconds),
	)
}
