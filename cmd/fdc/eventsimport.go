package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/replay"
)

func (c *cli) eventsImport() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Fill an empty stream of events from an export",
		Long: "import publishes the events of a file of fdc events export into the stream EVENTS, in their order, under their own subjects and ids. The\n" +
			"stream has to be empty, or to hold the beginning of the file from an import that was interrupted: that is gone on with. Stop the api\n" +
			"services meanwhile, so that nobody else publishes. Consumers that are as new as the stream then get all of it by themselves; feed others\n" +
			"with fdc replay --to audit-archiver. Without --yes it checks the file and prints what it would do.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usage("events import wants one FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withReplay(cmd.Context(), func(ctx context.Context, t *busTools, pool *pgxpool.Pool) error {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("import: %w", err)
				}
				defer f.Close() //nolint:errcheck // it was only read
				r, end := t.replays(c, "checking")
				plan, err := r.PlanImport(ctx, f)
				end()
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				if !yes {
					return errors.Join(c.printImport(plan, "TO BE IMPORTED"), c.planned())
				}
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					return fmt.Errorf("import: %w", err)
				}
				r, end = t.replays(c, "importing")
				err = r.Import(ctx, f, plan)
				end()
				if err != nil {
					return fmt.Errorf("%w; what is there stays, and the same command goes on behind it", err)
				}
				if plan.Count > 0 {
					err = c.recordReplay(ctx, pool, replay.State{
						Consumer: bus.Events, ID: events.NewID(), Count: plan.Count, First: plan.FirstSequence, Last: plan.LastSequence, StartedAt: time.Now(),
					})
				}
				return errors.Join(err, c.printImport(plan, "IMPORTED"))
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (c *cli) printImport(plan replay.ImportPlan, title string) error {
	if c.json {
		return c.printJSON(plan)
	}
	var rows [][]any
	for _, action := range slices.Sorted(maps.Keys(plan.ByType)) {
		rows = append(rows, []any{action, plan.ByType[action]})
	}
	rows = append(rows, []any{"all", plan.Count}, []any{"there already", plan.Present})
	return c.table(title, []any{"type", "events"}, rows)
}
