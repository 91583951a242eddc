package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"fdc/internal/platform/postgres"
	"fdc/internal/service"
)

// explainPatience is for a long tail of EVENTS that the audit log doesn't have yet.
const explainPatience = time.Minute

func (c *cli) explain() *cobra.Command {
	return &cobra.Command{
		Use: "explain REQUEST_ID", Short: "Show everything that one request caused, in the order of time",
		Long: "explain follows the id that an answer carries as X-Request-Id (an id that a client sent is not it): the events of the request, also those of the sync that it asked\n" +
			"for, how that sync stands, and dead letters. It looks into the outbox, the stream EVENTS and the audit log; months in the archive\n" +
			"have to be restored first.",
		Example: "  fdc explain 01979a3c-8f0e-7c3b-9a51-0d6f0f1f2a3b\n  fdc explain $(curl -sS -o /dev/null -D - $FDC/api/workspaces -b $jar | sed -n 's/^X-Request-Id: //p' | tr -d '\\r') --json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usage("explain wants one REQUEST_ID, as in the header X-Request-Id")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), explainPatience)
			defer cancel()
			var effects []service.Effect
			err := c.withBackends(ctx, "fdc-explain", func(js jetstream.JetStream, pool postgres.Querier) (err error) {
				effects, err = service.Explain(ctx, js, pool, args[0])
				return err
			})
			switch {
			case err != nil:
				return err
			case len(effects) == 0:
				return fmt.Errorf("nothing is known of request %.256q: it changed nothing, was never made, or its month is in the archive", args[0])
			case c.json:
				return c.printJSON(map[string]any{"items": effects})
			}
			return c.printEffects(effects)
		},
	}
}

// withBackends runs fn with NATS and PostgreSQL, once both answer.
func (c *cli) withBackends(ctx context.Context, application string, fn func(jetstream.JetStream, postgres.Querier) error) error {
	config, err := c.operator()
	if err != nil {
		return err
	}
	nc, js, err := connectBus(ctx, config)
	if err != nil {
		return err
	}
	defer nc.Close()
	pool, err := openDatabase(ctx, config, application)
	if err != nil {
		return err
	}
	defer pool.Close()
	return fn(js, pool)
}

func (c *cli) printEffects(effects []service.Effect) error {
	began := effects[0].Time
	if err := c.printf("%s\n", began.UTC().Format("2006-01-02 15:04:05.000Z")); err != nil {
		return err
	}
	for _, e := range effects {
		what := e.Action
		switch e.Kind {
		case service.EffectJob:
			what = c.paint(yellow, what)
		case service.EffectDeadLetter:
			what = c.paint(red, "dead letter of "+what)
		}
		place := e.Source
		if e.Sequence > 0 {
			place = fmt.Sprintf("%s %d", e.Source, e.Sequence)
		}
		err := c.printf("%10s  %s %s %s\n%12s%s\n", "+"+e.Time.Sub(began).Round(time.Millisecond).String(), what, e.Subject, c.paint(dim, "("+place+by(e.ActorID)+")"), "", e.Data)
		if err != nil {
			return err
		}
	}
	return nil
}

// by says who did it, if it is known.
func by(actor string) string {
	if actor == "" {
		return ""
	}
	return ", by " + actor
}
