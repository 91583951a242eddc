// Bench measures FDC beside what others use for the same work, on the same servers, and prints the ratios as a table.
// README.md says what each line means.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// settings say how much to measure.
type settings struct {
	Case    string  `json:"case"`
	Seconds float64 `json:"seconds"`
	Runs    int     `json:"runs"`
	Quick   bool    `json:"quick"`
}

// length is how long one measurement takes that isn't bounded by its work.
func (s settings) length() time.Duration { return time.Duration(s.Seconds * float64(time.Second)) }

// amount is how many of something to process: so many, or few when only the code is to be exercised.
func (s settings) amount(full, quick int) int {
	if s.Quick {
		return quick
	}
	return full
}

// suite is one case: it measures once and gives a sample for each of its lines.
type suite struct {
	name    string
	doc     string
	slow    bool // only when asked for by name, and once
	measure func(ctx context.Context, b *bench) ([]sample, error)
}

func suites() []suite {
	return []suite{
		{name: "http-gin", doc: "bare Gin beside bare net/http", measure: httpGin},
		{name: "http-session", doc: "who is signed in", measure: httpSession},
		{name: "http-document", doc: "read a 20 KB document", measure: httpDocument},
		{name: "http-304", doc: "read it again", measure: httpNotModified},
		{name: "http-put", doc: "save a 20 KB document", measure: httpPut},
		{name: "limiter", doc: "charge a request to a rate limit", measure: limiter},
		{name: "mix", doc: "a hundred users at once, and what the database has to read for them", measure: mix},
		{name: "revocation", doc: "from a logout on one API to the refusal on another", measure: revocation},
		{name: "flags", doc: "from `fdc flags set` to its effect", measure: flagEffect},
		{name: "outbox-latency", doc: "from commit to the consumer", measure: outboxLatency},
		{name: "outbox-drain", doc: "a backlog into the stream", measure: outboxDrain},
		{name: "jobs", doc: "no-op jobs", measure: jobs},
		{name: "sync-start", doc: "from a request for a sync to its start", measure: syncStart},
		{name: "sync-jobs", doc: "jobs of the sync queue that find nothing to do", measure: syncJobs},
		{name: "sync-full", doc: "the first sync of a calendar and a list", measure: syncFull},
		{name: "sync-idle", doc: "what a sync costs that finds nothing new", measure: syncIdle},
		{name: "sync-fair", doc: "who asks for a sync while a thousand others are due", measure: syncFair},
		{name: "sync-many", doc: "many users' syncs on one syncer", measure: syncMany},
		{name: "audit-write", doc: "events into the audit log, beside bare COPY", measure: auditWrite},
		{name: "audit-stream", doc: "a backlog in the stream into the audit log", measure: auditStream},
		{name: "audit-latency", doc: "from commit to the row of the audit log", measure: auditLatency},
		{name: "audit-page", doc: "pages and an export of five million rows, once", measure: auditPage},
		{name: "audit-partitions", doc: "writing with 60 partitions and with one", measure: auditPartitions},
		{name: "push-fanout", doc: "one event to many sockets", measure: pushFanout},
		{name: "push-memory", doc: "what an idle socket costs", measure: pushMemory},
		{name: "push-latency", doc: "from commit to the sockets", measure: pushLatency},
		{name: "push-resume", doc: "many clients that come back at once", measure: pushResume},
		{name: "push-stalled", doc: "one event to many sockets beside clients that don't read", measure: pushStalled},
		{name: "memory", doc: "the relay's memory with a long backlog", slow: true, measure: outboxMemory},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		// The benchmark starts itself again for what needs a process of its own.
		switch args[0] {
		case loadCommand:
			return runLoad(ctx, stdin, stdout)
		case relayCommand:
			return runRelay(ctx, stdin, stdout)
		case pushServerCommand:
			return runPushServer(ctx, stdin, stdout)
		case pushClientsCommand:
			return runPushClients(ctx, stdin, stdout)
		}
	}
	var s settings
	var asJSON bool
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.Case, "case", "", "only the cases whose name matches this regular expression")
	flags.Float64Var(&s.Seconds, "seconds", 3, "length of a measurement that isn't bounded by its work")
	flags.IntVar(&s.Runs, "runs", 5, "how often to measure; the table shows medians")
	flags.BoolVar(&s.Quick, "quick", false, "one short run: shows that everything works, not how fast")
	flags.BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	flags.Usage = func() {
		_, _ = io.WriteString(stderr, usage()) // nobody is there to tell
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.Quick {
		s.Runs, s.Seconds = 1, 0.5
	}
	if s.Runs < 1 || s.Seconds <= 0 {
		return errors.New("--runs and --seconds must be positive")
	}
	chosen, err := choose(s)
	if err != nil {
		return err
	}
	report, err := measureAll(ctx, s, chosen, stderr)
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	return report.print(stdout)
}

func usage() string {
	var text strings.Builder
	text.WriteString("Usage: go -C bench run . [flags]\n\nCases:\n")
	for _, c := range suites() {
		fmt.Fprintf(&text, "  %-16s %s", c.name, c.doc)
		if c.slow {
			text.WriteString(" (only with --case " + c.name + ")")
		}
		text.WriteByte('\n')
	}
	text.WriteString("\nFlags:\n")
	return text.String()
}

func choose(s settings) ([]suite, error) {
	pattern, err := regexp.Compile(s.Case)
	if err != nil {
		return nil, fmt.Errorf("--case: %w", err)
	}
	var chosen []suite
	for _, c := range suites() {
		if pattern.MatchString(c.name) && (!c.slow || s.Case != "" && !s.Quick) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("--case: no case matches %q", s.Case)
	}
	return chosen, nil
}

// bench is what a case measures with.
type bench struct {
	*servers
	settings
	run  int // counts from 0
	tell func(format string, args ...any)
}

// inTurns measures all sides, in each run another one first, so that none always finds the warmer machine.
func (b *bench) inTurns(sides ...func() error) error {
	for i := range sides {
		runtime.GC() // what one side left is not the other's to collect
		if err := sides[(b.run+i)%len(sides)](); err != nil {
			return err
		}
	}
	return nil
}

func measureAll(ctx context.Context, s settings, chosen []suite, progress io.Writer) (*report, error) {
	tell := func(format string, args ...any) {
		_, _ = fmt.Fprintf(progress, format+"\n", args...) // no part of the result
	}
	runtime.GOMAXPROCS(2) // what a small node has; the generator's process has as many
	tell("starting servers")
	servers, err := startServers(ctx, tell)
	if err != nil {
		return nil, err
	}
	report := &report{Machine: servers.machine, Settings: s}
	for _, c := range chosen {
		runs := s.Runs
		if c.slow {
			runs = 1
		}
		for run := range runs {
			tell("%s, run %d of %d", c.name, run+1, runs)
			samples, err := c.measure(ctx, &bench{servers: servers, settings: s, run: run, tell: tell})
			if err != nil {
				return nil, errors.Join(fmt.Errorf("case %s: %w", c.name, err), servers.stop(ctx))
			}
			report.add(samples)
		}
	}
	return report, servers.stop(ctx)
}
