package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/replay"
	"fdc/internal/service"
)

// replayOptions are the flags of fdc replay.
type replayOptions struct {
	words     replay.Words
	selection replay.Selection
	consumer  bus.Consumer
	to, file  string
	rate      float64

	shadow, yes, resume, abandon bool
}

func (c *cli) replay() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use: "replay --to CONSUMER", Short: "Feed stored events to one consumer again",
		Long: "replay has the events that are selected handled again by one consumer (" + consumerNames() + "): by its service as it\n" +
			"runs, beside the live events, with the same retries and dead letters. Nobody else sees them. Without --yes it prints what it would do.\n" +
			"It waits until all is handled. Ctrl-C pauses the replay; when the command is killed instead, the service goes on. --resume goes on with\n" +
			"either, --abandon ends it. --file takes the events from a file of fdc events export. --shadow changes nothing and says what a replay would\n" +
			"change.",
		Example: "  fdc replay --to audit-archiver --since 7d\n  fdc replay --to cache-invalidator --type 'workspace.*' --rate 100 --yes\n" +
			"  fdc replay --to audit-archiver --file month.ndjson --shadow\n  fdc replay --to audit-archiver --resume",
		Args: func(cmd *cobra.Command, args []string) error { return o.check(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case o.resume || o.abandon:
				return c.replayGoOn(cmd.Context(), &o)
			case o.shadow:
				return c.replayShadow(cmd.Context(), &o)
			case o.yes:
				return c.replayRun(cmd.Context(), &o)
			}
			return c.replayPlan(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.to, "to", "", "the `consumer`")
	filterFlags(cmd, &o.words)
	f.Float64Var(&o.rate, "rate", 0, "events a second, of each copy of the service; as fast as it goes without")
	f.StringVar(&o.file, "file", "", "take the events from this `file`, as fdc events export writes it")
	f.BoolVar(&o.shadow, "shadow", false, "change nothing; say what a replay would change")
	f.BoolVar(&o.resume, "resume", false, "go on with the replay to this consumer")
	f.BoolVar(&o.abandon, "abandon", false, "end the replay to this consumer where it is")
	f.BoolVar(&o.yes, "yes", false, "do it")
	return cmd
}

func (o *replayOptions) check(cmd *cobra.Command, args []string) (err error) {
	var ok bool
	if o.consumer, ok = bus.ConsumerNamed(o.to); len(args) > 0 || o.to == "" {
		return usage("replay wants --to CONSUMER, one of %s, and no arguments", consumerNames())
	} else if !ok {
		return usage("there is no consumer %.64q; there are %s", o.to, consumerNames())
	}
	changed := cmd.Flags().Changed
	if o.resume || o.abandon {
		for _, other := range []string{"since", "until", "from-seq", "to-seq", "type", "user", "workspace", "rate", "file", "shadow"} {
			if changed(other) {
				return usage("--resume and --abandon are about the replay as it was begun; leave --%s out", other)
			}
		}
		if o.resume && o.abandon {
			return usage("want one of --resume and --abandon")
		}
	}
	switch {
	case changed("rate") && !(o.rate > 0 && o.rate <= 1e6):
		return usage("--rate: want events a second, a number above 0")
	case changed("file") && o.file == "":
		return usage("--file is empty")
	case o.shadow && changed("rate"):
		return usage("--shadow feeds nothing to the consumer; leave --rate out")
	}
	o.selection, err = selectionOf(cmd, o.words)
	return err
}

// replays is how the command works with NATS, with a progress bar.
func (t *busTools) replays(c *cli, phase string) (r *replay.Replays, end func()) {
	progress := c.bar()
	return &replay.Replays{
		NC: t.nc, JS: t.js, Tell: func(done, total int64) { progress.tell(phase, done, total) },
		Waiting: func(err error) {
			progress.end()
			fmt.Fprintf(c.stderr, "waiting for NATS: %v\n", err) //nolint:errcheck // it is no part of the result
		},
	}, progress.end
}

// plan counts what is selected, in the stream or in the file, which it checks.
func (o *replayOptions) plan(ctx context.Context, c *cli, t *busTools) (*replay.Plan, error) {
	if o.file == "" {
		r, end := t.replays(c, "counting")
		defer end()
		return r.Plan(ctx, o.consumer, o.selection)
	}
	f, err := os.Open(o.file)
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	progress := c.bar()
	defer progress.end()
	plan, err := replay.PlanFile(f, o.consumer, o.selection, func(lines, total int64) { progress.tell("checking", lines, total) })
	if err != nil {
		return plan, fmt.Errorf("%s: %w", o.file, err)
	}
	return plan, nil
}

func (c *cli) replayPlan(ctx context.Context, o *replayOptions) error {
	return c.withBus(ctx, func(ctx context.Context, t *busTools) error {
		plan, err := o.plan(ctx, c, t)
		if err == nil {
			err = plan.Empty()
		}
		if err != nil {
			return err
		}
		if c.json {
			err = c.printJSON(plan)
		} else {
			err = c.printReplayPlan(plan, o.rate)
		}
		return errors.Join(err, c.planned())
	})
}

func (c *cli) printReplayPlan(plan *replay.Plan, rate float64) error {
	var rows [][]any
	for _, action := range slices.Sorted(maps.Keys(plan.ByType)) {
		rows = append(rows, []any{action, plan.ByType[action]})
	}
	rows = append(rows, []any{"all", plan.Count})
	if err := c.table("TO BE REPLAYED TO "+plan.Consumer, []any{"type", "events"}, rows); err != nil {
		return err
	}
	basis := "if the service handles 5,000 a second"
	if rate > 0 {
		basis = "at the rate asked for, with one copy of the service"
	}
	return c.printf("sequences %d to %d; about %s, %s\n", plan.FirstSequence, plan.LastSequence, plan.Takes(rate), basis)
}

// withReplay runs fn with NATS and the database, which is to record what is done: without it nothing is begun.
func (c *cli) withReplay(ctx context.Context, fn func(context.Context, *busTools, *pgxpool.Pool) error) error {
	config, err := c.operator()
	if err != nil {
		return err
	}
	pool, err := openDatabase(ctx, config, "fdc-replay")
	if err != nil {
		return err
	}
	defer pool.Close()
	return c.withBus(ctx, func(ctx context.Context, t *busTools) error { return fn(ctx, t, pool) })
}

func (c *cli) replayRun(ctx context.Context, o *replayOptions) error {
	return c.withReplay(ctx, func(ctx context.Context, t *busTools, pool *pgxpool.Pool) error {
		r, end := t.replays(c, "replaying")
		defer end()
		if err := r.Free(ctx, o.to); err != nil && o.file == "" {
			return err
		}
		if err := r.Attended(ctx, o.to); err != nil {
			return err
		}
		plan, err := o.plan(ctx, c, t)
		if err == nil {
			err = plan.Empty()
		}
		if err != nil {
			return err
		}
		if o.file != "" {
			return c.replayFile(ctx, o, r, pool, plan)
		}
		order := bus.ReplayOrder{ID: events.NewID(), Rate: o.rate, StartedAt: time.Now(), StartedBy: c.operatorMeta().ActorID}
		state, err := r.Begin(ctx, o.consumer, o.selection, plan, order)
		if err != nil {
			return err
		}
		return c.follow(ctx, r, end, pool, state)
	})
}

// replayFile feeds a file. What of it is queued when the command ends early is handled all the same.
func (c *cli) replayFile(ctx context.Context, o *replayOptions, r *replay.Replays, pool *pgxpool.Pool, plan *replay.Plan) error {
	f, err := os.Open(o.file)
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	began, id := time.Now(), events.NewID()
	if err := r.FeedFile(ctx, f, o.consumer, o.selection, plan, id, o.rate, c.away(o.to)); err != nil {
		return err
	}
	done := replay.State{
		Consumer: o.to, ID: id, Count: plan.Count, First: plan.FirstSequence, Last: plan.LastSequence, StartedAt: began,
	}
	if err := c.recordReplay(ctx, pool, done); err != nil {
		return err
	}
	return c.printReplayed(done, nil)
}

func (c *cli) away(consumer string) func() {
	return func() {
		//nolint:errcheck // it is no part of the result
		fmt.Fprintf(c.stderr, "The service %s does not seem to run: nobody asks for the events. Waiting for it; Ctrl-C stops.\n", consumer)
	}
}

func (c *cli) replayGoOn(ctx context.Context, o *replayOptions) error {
	return c.withReplay(ctx, func(ctx context.Context, t *busTools, pool *pgxpool.Pool) error {
		r, end := t.replays(c, "replaying")
		defer end()
		state, err := r.State(ctx, o.to)
		switch {
		case errors.Is(err, replay.ErrNone):
			return fmt.Errorf("there is no replay to %s", o.to)
		case o.abandon && o.yes: // also one that can't be read
			if err := r.Remove(ctx, o.to); err != nil {
				return err
			}
			return c.printPlan(map[string]any{"consumer": o.to, "done": state.Done, "count": state.Count, "abandoned": true},
				"the replay to %s is ended; %d of %d events were handled\n", o.to, state.Done, state.Count)
		case err != nil:
			return err
		case o.abandon:
			if err := c.printPlan(map[string]any{"consumer": o.to, "done": state.Done, "count": state.Count, "abandoned": false},
				"the replay to %s would end with %d of %d events handled\n", o.to, state.Done, state.Count); err != nil {
				return err
			}
			return c.planned()
		}
		if err := r.Continue(ctx, state); err != nil {
			return err
		}
		return c.follow(ctx, r, end, pool, state)
	})
}

// follow waits for the end of a replay and records it. Ctrl-C pauses it.
func (c *cli) follow(ctx context.Context, r *replay.Replays, end func(), pool *pgxpool.Pool, state replay.State) error {
	done, err := r.Follow(ctx, state, c.away(state.Consumer))
	end()
	lastCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), operatorPatience)
	defer cancel()
	switch {
	case ctx.Err() != nil:
		if err := r.Pause(lastCtx, state.Consumer); err != nil {
			return fmt.Errorf("%w; it goes on: see fdc replay --to %s --resume", err, state.Consumer)
		}
		return fmt.Errorf("the replay to %[1]s is paused, %[2]d of %[3]d events are handled; go on with fdc replay --to %[1]s --resume, or end it "+
			"with --abandon --yes", state.Consumer, done.Done, done.Count)
	case err != nil:
		return err
	}
	dead, err := r.DeadLetters(lastCtx, done)
	if err != nil {
		return err
	}
	// Whoever is killed between the two finds the replay done, and records it again: as the same event.
	if err := c.recordReplay(lastCtx, pool, done); err != nil {
		return fmt.Errorf("all is handled, but not recorded: %w; try again with fdc replay --to %s --resume", err, done.Consumer)
	}
	if err := r.Remove(lastCtx, done.Consumer); err != nil {
		return err
	}
	return c.printReplayed(done, &dead)
}

// recordReplay leaves ops.replayed, once for each id.
func (c *cli) recordReplay(ctx context.Context, pool *pgxpool.Pool, s replay.State) error {
	fact := events.New(c.operatorMeta(), "", events.OpsReplayed{
		Consumer: s.Consumer, Count: s.Count, FirstSequence: int64(s.First), LastSequence: int64(s.Last), //nolint:gosec // sequences of a stream
	})
	fact.ID = s.ID
	err := outbox.New(pool, nil).Tx(ctx, func(tx pgx.Tx) error { return outbox.Append(ctx, tx, fact) })
	if postgres.IsState(err, postgres.UniqueViolation) {
		return nil // by whoever was killed behind it
	}
	return err
}

func (c *cli) printReplayed(s replay.State, dead *int64) error {
	took := time.Since(s.StartedAt)
	if c.json {
		out := map[string]any{
			"consumer": s.Consumer, "count": s.Count, "firstSequence": s.First, "lastSequence": s.Last, "seconds": took.Seconds(),
		}
		if dead != nil {
			out["deadLetters"] = *dead
		}
		return c.printJSON(out)
	}
	line := fmt.Sprintf("%s has handled %d events again, in %s", s.Consumer, s.Count, took.Round(100*time.Millisecond))
	switch {
	case dead == nil:
	case *dead > 0:
		line += fmt.Sprintf("; %d of them became dead letters: fdc dlq list --consumer %s", *dead, s.Consumer)
	default:
		line += "; none became a dead letter"
	}
	return c.printf("%s\n", line)
}

func (c *cli) replayShadow(ctx context.Context, o *replayOptions) error {
	return c.withReplay(ctx, func(ctx context.Context, t *busTools, pool *pgxpool.Pool) error {
		shadow, err := service.Shadow(ctx, o.to, pool, t.js)
		if err != nil {
			return err
		}
		r, end := t.replays(c, "comparing")
		var report replay.ShadowReport
		if o.file == "" {
			report, err = r.Shadow(ctx, o.consumer, o.selection, shadow)
		} else {
			var f *os.File
			if f, err = os.Open(o.file); err != nil {
				return fmt.Errorf("--file: %w", err)
			}
			defer f.Close() //nolint:errcheck // it was only read
			if report, err = replay.ShadowFile(ctx, f, o.consumer, o.selection, shadow); err != nil {
				err = fmt.Errorf("%s: %w", o.file, err)
			}
		}
		end()
		switch {
		case err != nil:
			return err
		case report.Count == 0:
			return replay.NewPlan(o.to).Empty()
		case c.json:
			return c.printJSON(report)
		}
		return c.printShadow(report)
	})
}

func (c *cli) printShadow(report replay.ShadowReport) error {
	if err := c.printf("Of %d events to %s, %d would change nothing and %d something. Nothing was changed.\n",
		report.Count, report.Consumer, report.Same, report.WouldChange); err != nil {
		return err
	}
	for _, e := range report.Examples {
		if err := c.printf("  %d %s: %s\n", e.Sequence, e.Type, e.What); err != nil {
			return err
		}
	}
	return nil
}
