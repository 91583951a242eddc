package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
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

// operatorMeta is the circumstance of what an operator does with this command: who, and an id that `fdc explain` finds it by.
func (c *cli) operatorMeta() events.Meta {
	name := c.as
	if name == "" {
		name = systemName()
	}
	return events.Meta{Source: "/fdc/cli", ActorID: events.NamedOperator(name), RequestID: c.id}
}

// systemName names the user of the operating system and the host: alice@host. In a container without such a user it is their number.
func systemName() string {
	name := "uid-" + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil && host != "" {
		name += "@" + host
	}
	return name
}

// checkName says what is wrong with --as. What the operating system says is cleaned; a person can be told.
func checkName(as string) error {
	if as != "" && events.NamedOperator(as) != events.OperatorActor+":"+as {
		return usage("--as wants up to 128 ASCII letters, digits and any of ._@+-")
	}
	return nil
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
