package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"fdc/internal/replay"
)

func (c *cli) events() *cobra.Command {
	return group("events", "Read the stream of events: follow it, look one up, export it, fill it",
		c.eventsTail(), c.eventsGet(), c.eventsExport(), c.eventsImport())
}

// filterFlags are the flags that select events.
func filterFlags(cmd *cobra.Command, w *replay.Words) {
	f := cmd.Flags()
	f.StringVar(&w.Since, "since", "", "from this moment on: RFC 3339, a date, or how long ago, such as 2h or 7d")
	f.StringVar(&w.Until, "until", "", "up to this moment, which itself is not included")
	f.StringVar(&w.FromSeq, "from-seq", "", "the first `sequence`")
	f.StringVar(&w.ToSeq, "to-seq", "", "the last `sequence`")
	f.StringArrayVar(&w.Types, "type", nil, "only this `type`, such as task.created or task.*; may be repeated")
	f.StringVar(&w.User, "user", "", "only events that concern this user, by `id`")
	f.StringVar(&w.Workspace, "workspace", "", "only events of this workspace, by `id`")
}

// selectionOf reads the flags. An empty one was meant to say something.
func selectionOf(cmd *cobra.Command, w replay.Words) (replay.Selection, error) {
	for _, name := range []string{"since", "until", "from-seq", "to-seq", "user", "workspace"} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed && f.Value.String() == "" {
			return replay.Selection{}, usage("--%s is empty", name)
		}
	}
	s, err := replay.Parse(w, time.Now())
	if err != nil {
		return s, usage("%w", err)
	}
	return s, nil
}

// busTools are what commands work with that need NATS only.
type busTools struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// reader reads the selection, and tells on stderr when NATS is away.
func (t *busTools) reader(c *cli, s replay.Selection) *replay.Reader {
	return &replay.Reader{NC: t.nc, JS: t.js, Selection: s, Waiting: func(err error) {
		fmt.Fprintf(c.stderr, "waiting for NATS: %v\n", err) //nolint:errcheck // it is no part of the result
	}}
}

// withBus runs fn with NATS, as the user ops.
func (c *cli) withBus(ctx context.Context, fn func(context.Context, *busTools) error) error {
	config, err := c.operator()
	if err != nil {
		return err
	}
	nc, js, err := connectBus(ctx, config)
	if err != nil {
		return err
	}
	defer nc.Close()
	err = fn(ctx, &busTools{nc: nc, js: js})
	// The server says so aside; what was asked for only times out.
	if denied := nc.LastError(); err != nil && errors.Is(denied, nats.ErrPermissionViolation) {
		return fmt.Errorf("this NATS user may not do that; want ops (NATS_URL, NATS_USER, NATS_PASSWORD): %w", denied)
	}
	return err
}

func (c *cli) eventsTail() *cobra.Command {
	var w replay.Words
	var s replay.Selection
	cmd := &cobra.Command{
		Use: "tail", Short: "Print events as they come",
		Long: "tail prints an event a line, as they come, until Ctrl-C; with --since or --from-seq first what has been since then. It goes on\n" +
			"where it was when NATS was away.",
		Example: "  fdc events tail --type 'sync.*'\n  fdc events tail --since 1h --workspace 0198a000-0000-7000-8000-000000000001",
		Args:    filterArgs("events tail", &w, &s),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withBus(cmd.Context(), func(ctx context.Context, t *busTools) error {
				lines := replay.NewLineWriter(c.stdout)
				reader := t.reader(c, s)
				reader.Follow = true
				return reader.Run(ctx, func(e replay.Stored) error {
					return errors.Join(lines.Write(e), lines.Flush())
				})
			})
		},
	}
	filterFlags(cmd, &w)
	return cmd
}

// filterArgs checks a command that takes filters and no arguments.
func filterArgs(name string, w *replay.Words, s *replay.Selection) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) (err error) {
		if len(args) > 0 {
			return usage("%s takes no arguments", name)
		}
		*s, err = selectionOf(cmd, *w)
		return err
	}
}

func (c *cli) eventsGet() *cobra.Command {
	var sequence uint64
	return &cobra.Command{
		Use: "get SEQ", Short: "Print the event with a sequence",
		Args: func(_ *cobra.Command, args []string) (err error) {
			if len(args) != 1 {
				return usage("events get wants one SEQ")
			}
			if sequence, err = strconv.ParseUint(args[0], 10, 63); err != nil || sequence == 0 {
				return usage("%.32q is no sequence; they are numbers from 1 on", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), operatorPatience)
			defer cancel()
			return c.withBus(ctx, func(ctx context.Context, t *busTools) error {
				stored, err := replay.Get(ctx, t.js, sequence)
				if err != nil {
					return err
				}
				lines := replay.NewLineWriter(c.stdout)
				return errors.Join(lines.Write(stored), lines.Flush())
			})
		},
	}
}

func (c *cli) eventsExport() *cobra.Command {
	var w replay.Words
	var s replay.Selection
	var file string
	var resume bool
	cmd := &cobra.Command{
		Use: "export", Short: "Write the events that the stream holds to standard output or a file",
		Long: "export prints an event a line: its sequence, its subject, when the stream took it, and the event as it is. It ends with the last event that\n" +
			"was there when it began. With --out the file appears when all is written; what an interrupted export has written so far stays beside it,\n" +
			"as FILE.part, and --resume goes on behind it. Without --out, go on with --from-seq.",
		Example: "  fdc events export --since 7d --type 'task.*' --out tasks.ndjson\n  fdc events export --out all.ndjson --resume",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case resume && file == "":
				return usage("--resume goes on with a file: name it with --out; without one, go on with --from-seq")
			case file == "" && cmd.Flags().Changed("out"):
				return usage("--out is empty")
			}
			return filterArgs("events export", &w, &s)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withBus(cmd.Context(), func(ctx context.Context, t *busTools) error {
				if file == "" {
					return c.export(ctx, t, s, c.stdout)
				}
				return c.exportFile(ctx, t, s, file, resume)
			})
		},
	}
	filterFlags(cmd, &w)
	cmd.Flags().StringVar(&file, "out", "", outHelp)
	cmd.Flags().BoolVar(&resume, "resume", false, "go on with an export to --out that was interrupted")
	return cmd
}

// export writes the selection to w. How far it came is told on stderr, so that the next one can go on.
func (c *cli) export(ctx context.Context, t *busTools, s replay.Selection, w io.Writer) error {
	progress := c.bar()
	if w == c.stdout && isTerminal(c.stdout) {
		progress = &bar{} // the events themselves show how far it is
	}
	lines := replay.NewLineWriter(w)
	reader := t.reader(c, s)
	reader.Progress = func(done, total int64) { progress.tell("exporting", done, total) }
	err := errors.Join(reader.Run(ctx, lines.Write), lines.Flush())
	progress.end()
	said := fmt.Sprintf("%d events exported", lines.Lines)
	if lines.Lines > 0 {
		said += fmt.Sprintf(", sequences %d to %d", lines.First, lines.Last)
	}
	if err != nil && w == c.stdout && reader.Position() > 0 {
		said += fmt.Sprintf("; go on with --from-seq %d", reader.Position()+1)
	}
	fmt.Fprintln(c.stderr, said) //nolint:errcheck // it is no part of the result
	return err
}

// exportFile writes the selection to a file that is whole or not there.
func (c *cli) exportFile(ctx context.Context, t *busTools, s replay.Selection, name string, resume bool) error {
	out := outFile{name: name, keep: true, resume: resume}
	return out.write(func(f *os.File) error {
		if resume {
			last, err := replay.Truncate(f)
			if err != nil {
				return fmt.Errorf("--resume: %s: %w", out.part(), err)
			}
			s.FromSeq = max(s.FromSeq, last+1)
		}
		if s.ToSeq != 0 && s.FromSeq > s.ToSeq {
			return nil // it is all there
		}
		err := c.export(ctx, t, s, f)
		if err != nil && f.Name() == out.part() {
			return fmt.Errorf("%w; what is written so far is in %s: go on with --resume", err, out.part())
		}
		return err
	})
}

// isTerminal reports whether somebody looks at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
