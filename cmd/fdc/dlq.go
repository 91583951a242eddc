package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/replay"
)

func (c *cli) dlq() *cobra.Command {
	return group("dlq", "List, show, requeue and discard the events that consumers gave up on",
		c.dlqList(), c.dlqShow(), c.dlqRequeue(), c.dlqDiscard())
}

// letterItem is a dead letter as operators see it.
type letterItem struct {
	Sequence uint64    `json:"sequence"` // in DEAD
	Consumer string    `json:"consumer"`
	Subject  string    `json:"subject"` // of the event
	Reason   string    `json:"reason"`
	Attempts int       `json:"attempts"`
	Time     time.Time `json:"time"` // at which it was set aside
}

func letterItemOf(l replay.Letter) letterItem {
	return letterItem{
		Sequence: l.Sequence, Consumer: l.Consumer, Subject: l.Subject, Reason: l.Reason, Attempts: l.Attempts, Time: l.Time,
	}
}

// letterFlags select dead letters.
type letterFlags struct {
	all      bool
	consumer string
	words    replay.Words
}

// letterFilters are the names of the flags that select.
var letterFilters = []string{"consumer", "type", "since", "until"}

func (f *letterFlags) filters(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.consumer, "consumer", "", "only letters of this `consumer`")
	cmd.Flags().StringArrayVar(&f.words.Types, "type", nil, "only events of this `type`, such as task.created or task.*; may be repeated")
	cmd.Flags().StringVar(&f.words.Since, "since", "", "set aside from this moment on: RFC 3339, a date, or how long ago, such as 2h or 7d")
	cmd.Flags().StringVar(&f.words.Until, "until", "", "set aside before this moment")
}

// filter reads the flags. An empty one was meant to say something.
func (f *letterFlags) filter(cmd *cobra.Command) (replay.LetterFilter, error) {
	if cmd.Flags().Changed("consumer") && (f.consumer == "" || strings.ContainsAny(f.consumer, ".*> \t\r\n")) {
		return replay.LetterFilter{}, usage("--consumer: %.64q is no name of a consumer; there are %s", f.consumer, consumerNames())
	}
	selection, err := selectionOf(cmd, f.words)
	if err != nil {
		return replay.LetterFilter{}, err
	}
	filter := replay.LetterFilter{Consumer: f.consumer, Since: selection.Since, Until: selection.Until}
	if len(selection.Types) > 0 {
		filter.Subjects = selection.Subjects()
	}
	return filter, nil
}

// filtered reports whether any filter is given.
func filtered(cmd *cobra.Command) bool {
	return slices.ContainsFunc(letterFilters, cmd.Flags().Changed)
}

func consumerNames() string {
	var names []string
	for _, consumer := range bus.Consumers() {
		names = append(names, consumer.Name)
	}
	return strings.Join(names, ", ")
}

func (c *cli) dlqList() *cobra.Command {
	var flags letterFlags
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters, the oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := flags.filter(cmd)
			if err != nil {
				return err
			}
			return c.withLetters(cmd.Context(), false, func(ctx context.Context, dead *replay.DeadLetters) error {
				letters, err := listLetters(ctx, dead, filter)
				switch {
				case err != nil:
					return err
				case c.json:
					return c.printJSON(map[string]any{"items": letterItems(letters)})
				}
				return c.printLetters("DEAD LETTERS", letters, len(letters))
			})
		},
	}
	flags.filters(cmd)
	return cmd
}

func (c *cli) dlqRequeue() *cobra.Command {
	var reason string
	cmd := c.letterCommand("requeue", "requeued", func(ctx context.Context, dead *replay.DeadLetters, letters []replay.Letter, progress func(int)) (int, error) {
		return dead.Requeue(ctx, c.operatorMeta(), letters, reason, progress)
	}, func() error { return checkReason(reason) })
	cmd.Short = "Give dead letters to their consumer again"
	cmd.Long = "requeue gives dead letters to the consumer that gave up on them, and to no other, and takes them out of DEAD. One that fails again\n" +
		"comes back as a new letter. Without --yes it prints what it would requeue. Interrupted at any moment, it loses nothing: do the same again."
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}

func (c *cli) dlqDiscard() *cobra.Command {
	var reason string
	cmd := c.letterCommand("discard", "discarded", func(ctx context.Context, dead *replay.DeadLetters, letters []replay.Letter, progress func(int)) (int, error) {
		return dead.Discard(ctx, c.operatorMeta(), letters, reason, progress)
	}, func() error {
		if reason == "" {
			return usage("dlq discard wants --reason, for the audit log")
		}
		return checkReason(reason)
	})
	cmd.Use += " --reason TEXT"
	cmd.Short = "Take dead letters out for good"
	cmd.Long = "discard takes dead letters out of DEAD; their consumer never handles them. Without --yes it prints what it would discard."
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}

func checkReason(reason string) error {
	if reason == "" {
		return nil
	}
	if err := replay.CheckReason(reason); err != nil {
		return usage("--reason: %w", err)
	}
	return nil
}

// letterCommand is a command that changes the selected letters.
func (c *cli) letterCommand(
	name, did string, change func(context.Context, *replay.DeadLetters, []replay.Letter, func(int)) (int, error), check func() error,
) *cobra.Command {
	var (
		flags     letterFlags
		yes       bool
		sequences []uint64
		filter    replay.LetterFilter
	)
	cmd := &cobra.Command{
		Use: name + " SEQ…|--all",
		Args: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case len(args) > 0 && (flags.all || filtered(cmd)):
				return usage("dlq %s wants either sequences, or --all and filters", name)
			case len(args) == 0 && !flags.all && !filtered(cmd):
				return usage("dlq %s wants sequences of DEAD, as dlq list shows them, or --all", name)
			}
			if sequences, err = letterSequences(args); err != nil {
				return err
			}
			if filter, err = flags.filter(cmd); err != nil {
				return err
			}
			return check()
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withLetters(cmd.Context(), true, func(ctx context.Context, dead *replay.DeadLetters) error {
				letters, err := selectLetters(ctx, dead, sequences, filter)
				if err != nil {
					return err
				}
				if name == "requeue" {
					if letters, err = c.requeueable(letters, len(sequences) > 0); err != nil {
						return err
					}
				}
				if !yes {
					if err := c.printChange(did, letters, len(letters), false); err != nil {
						return err
					}
					return c.planned()
				}
				bar := c.bar()
				done, err := change(ctx, dead, letters, func(done int) { bar.tell(name, int64(done), int64(len(letters))) })
				bar.end()
				if err != nil {
					return fmt.Errorf("%d of %d %s: %w", done, len(letters), did, err)
				}
				return c.printChange(did, letters, done, true)
			})
		},
	}
	flags.filters(cmd)
	cmd.Flags().BoolVar(&flags.all, "all", false, "all letters, or all that the filters leave")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func letterSequences(args []string) ([]uint64, error) {
	var sequences []uint64
	for _, arg := range args {
		sequence, err := strconv.ParseUint(arg, 10, 63)
		if err != nil || sequence == 0 {
			return nil, usage("%.64q is no sequence of DEAD; dlq list shows them", arg)
		}
		sequences = append(sequences, sequence)
	}
	return sequences, nil
}

func selectLetters(ctx context.Context, dead *replay.DeadLetters, sequences []uint64, filter replay.LetterFilter) ([]replay.Letter, error) {
	if len(sequences) > 0 {
		letters, err := dead.Get(ctx, sequences)
		if errors.Is(err, replay.ErrNoLetter) {
			return nil, fmt.Errorf("%w; fdc dlq list shows which there are", err)
		}
		return letters, err
	}
	return listLetters(ctx, dead, filter)
}

// listLetters lists, and takes a consumer that neither exists nor has left letters for a slip.
func listLetters(ctx context.Context, dead *replay.DeadLetters, filter replay.LetterFilter) ([]replay.Letter, error) {
	letters, err := dead.List(ctx, filter)
	if _, known := bus.ConsumerNamed(filter.Consumer); err == nil && len(letters) == 0 && filter.Consumer != "" && !known {
		return nil, usage("there is no consumer %.64q; there are %s", filter.Consumer, consumerNames())
	}
	return letters, err
}

// requeueable leaves out letters of consumers that are no more, unless somebody named them.
func (c *cli) requeueable(letters []replay.Letter, named bool) ([]replay.Letter, error) {
	var fit []replay.Letter
	for _, l := range letters {
		err := l.Requeueable()
		switch {
		case err == nil:
			fit = append(fit, l)
		case named:
			return nil, err
		}
	}
	if n := len(letters) - len(fit); n > 0 {
		fmt.Fprintf(c.stderr, "%d letters of consumers that are no more are left out\n", n) //nolint:errcheck // it is no part of the result
	}
	return fit, nil
}

func letterItems(letters []replay.Letter) []letterItem {
	items := make([]letterItem, 0, len(letters))
	for _, l := range letters {
		items = append(items, letterItemOf(l))
	}
	return items
}

// shownLetters is how many letters of a change are printed one by one.
const shownLetters = 20

// printChange shows the plan, or what was done.
func (c *cli) printChange(did string, letters []replay.Letter, count int, done bool) error {
	if c.json {
		return c.printJSON(map[string]any{did: done, "count": count, "items": letterItems(letters)})
	}
	title := fmt.Sprintf("%d %s", count, strings.ToUpper(did))
	if !done {
		title = fmt.Sprintf("%d TO BE %s", count, strings.ToUpper(did))
	}
	return c.printLetters(title, letters, shownLetters)
}

func (c *cli) printLetters(title string, letters []replay.Letter, most int) error {
	if len(letters) == 0 {
		return c.printf("no dead letters\n")
	}
	var rows [][]any
	for _, l := range letters[:min(len(letters), most)] {
		rows = append(rows, []any{l.Sequence, l.Consumer, l.Subject, l.Attempts, shortTime(l.Time), l.Reason})
	}
	if err := c.table(title, []any{"sequence", "consumer", "subject", "attempts", "since", "reason"}, rows); err != nil || len(letters) <= most {
		return err
	}
	return c.printf("  … and %d more\n", len(letters)-most)
}

// letterPatience bounds the reading of letters, of which there may be many.
const letterPatience = time.Minute

// withLetters runs fn with the dead letters, and for a change with the database that is told of it.
func (c *cli) withLetters(ctx context.Context, change bool, fn func(context.Context, *replay.DeadLetters) error) error {
	return c.withBus(ctx, func(ctx context.Context, t *busTools) error {
		var ob *outbox.Outbox
		if change {
			config, err := c.operator()
			if err != nil {
				return err
			}
			pool, err := openDatabase(ctx, config, "fdc-dlq")
			if err != nil {
				return err
			}
			defer pool.Close()
			ob = outbox.New(pool, nil)
		} else {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, letterPatience)
			defer cancel()
		}
		return fn(ctx, replay.NewDeadLetters(t.js, ob))
	})
}
