package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/postgres"
)

// operatorMeta is the circumstance of what an operator does with this command.
func operatorMeta() events.Meta {
	return events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}
}

// operatorPatience bounds a command that asks and answers.
const operatorPatience = 10 * time.Second

// group is a command that only holds others: alone, or with a word that none of them is, it is wrong usage.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage("%s wants a sub-command; see %s --help", cmd.CommandPath(), cmd.CommandPath())
		},
	}
	g.AddCommand(commands...)
	return g
}

func usage(format string, args ...any) error {
	return &daemon.UsageError{Err: fmt.Errorf(format, args...)}
}

// connectBus connects as the user ops and waits for the server's answer.
func connectBus(ctx context.Context, config operatorConfig) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := bus.Connect(config.Bus, "ops", zerolog.Nop())
	if err != nil {
		return nil, nil, err
	}
	js, err := bus.JetStream(nc)
	if err == nil {
		if err = bus.Reachable(ctx, nc, js); err != nil {
			err = &unreachableError{"NATS", err}
		}
	}
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}

// openDatabase opens the pool of an operator's command and waits for the server's answer.
func openDatabase(ctx context.Context, config operatorConfig, application string) (*pgxpool.Pool, error) {
	pool, err := postgres.Open(ctx, config.Database, application)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, &unreachableError{"PostgreSQL", err}
	}
	return pool, nil
}

// planned says, behind a plan, how it is carried out.
func (c *cli) planned() error {
	if _, err := fmt.Fprintln(c.stderr, "nothing has changed; add --yes to do it"); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
