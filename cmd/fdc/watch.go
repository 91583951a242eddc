package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"fdc/internal/platform/bus"
	"fdc/internal/service"
)

const (
	watchEvery = time.Second
	// watchPatience is how long one look may take; the screen says so meanwhile.
	watchPatience = 5 * time.Second
)

// What turns a terminal into a screen of our own, and back to what was on it before.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
)

// watched is one look at the system, as --watch --json prints it.
type watched struct {
	Time time.Time `json:"time"`
	service.Status
	Rates map[string]float64 `json:"rates"` // messages a second that came into each stream since the look before
}

// look compares a status with the one before, which may be nil.
func look(at time.Time, s service.Status, before *watched) watched {
	w := watched{Time: at.UTC(), Status: s, Rates: map[string]float64{}}
	for _, stream := range s.Streams {
		w.Rates[stream.Name] = 0
		if before == nil {
			continue
		}
		i := slices.IndexFunc(before.Streams, func(o service.StreamStatus) bool { return o.Name == stream.Name })
		// A stream that was made anew counts from 1 again.
		if seconds := at.Sub(before.Time).Seconds(); i >= 0 && seconds > 0 && stream.LastSeq >= before.Streams[i].LastSeq {
			w.Rates[stream.Name] = float64(stream.LastSeq-before.Streams[i].LastSeq) / seconds
		}
	}
	return w
}

// watchStatus shows the status each second until ctx ends, which is no error. It outlives outages of what it looks at.
func (c *cli) watchStatus(ctx context.Context, source *statusSource) error {
	screen := terminal(c.stdout)
	if c.json {
		screen = nil
	}
	if screen != nil {
		// Nothing but the screen is changed: Ctrl-C stays a signal, and any end goes through here.
		if err := c.printf("%s", enterScreen); err != nil {
			return err
		}
		defer c.printf("%s", leaveScreen) //nolint:errcheck // the terminal is gone then
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last *watched
	for {
		lookCtx, cancel := context.WithTimeout(ctx, watchPatience)
		s, err := source.read(lookCtx)
		cancel()
		if ctx.Err() != nil {
			return nil // that is how it ends
		}
		if err == nil {
			now := look(time.Now(), s, last)
			last = &now
		}
		if err := c.showWatched(screen, last, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// showWatched prints the last look, and what keeps us from a newer one.
func (c *cli) showWatched(screen *os.File, last *watched, problem error) error {
	switch {
	case screen != nil:
		width, height, err := term.GetSize(int(screen.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		return c.printf("%s", c.frame(width, height, last, problem))
	case c.json && problem == nil:
		line, err := json.Marshal(last)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return c.printf("%s\n", line)
	case problem != nil:
		_, err := fmt.Fprintf(c.stderr, "%s no status: %v\n", time.Now().UTC().Format(time.RFC3339), problem)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return nil
	}
	return errors.Join(c.printf("%s\n", last.Time.Format(time.RFC3339)), c.printStatus(last.Status))
}

// frame is what draws the screen anew: every line ends with the clearing of its rest, so that nothing flickers.
func (c *cli) frame(width, height int, last *watched, problem error) string {
	var lines []string
	if problem != nil {
		lines = append(lines, c.paint(red, clip("NO NEWER STATUS: "+problem.Error(), width)), "")
	}
	if last != nil {
		for _, line := range watchLines(last) {
			lines = append(lines, clip(line, width))
		}
	}
	if len(lines) > height {
		more := fmt.Sprintf("… %d more lines", len(lines)-height+1)
		lines = append(lines[:max(height-1, 0)], clip(more, width))
	}
	// No line break after the last one: it would scroll.
	return toTop + strings.Join(lines, clearLine+"\r\n") + clearLine + clearRest
}

// clip cuts a line at the width of the terminal.
func clip(line string, width int) string {
	line = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) { // of an error's text
			return ' '
		}
		return r
	}, line)
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(width, 0)])
}

// watchLines fit 80 × 24 with what the system declares.
func watchLines(w *watched) []string {
	lines := []string{
		fmt.Sprintf("%-22s %s   Ctrl-C ends", "FDC", w.Time.Format("2006-01-02 15:04:05Z")),
		"",
		fmt.Sprintf("%-22s %12s %12s %12s", "STREAM", "messages", "bytes", "in/s"),
	}
	dead := uint64(0)
	for _, s := range w.Streams {
		lines = append(lines, fmt.Sprintf("%-22s %12d %12d %12.1f", s.Name, s.Messages, s.Bytes, w.Rates[s.Name]))
		if s.Name == bus.Dead {
			dead = s.Messages
		}
	}
	lines = append(lines, "", fmt.Sprintf("%-22s %12s %12s %12s", "CONSUMER", "pending", "ack pending", "redelivered"))
	for _, s := range w.Consumers {
		lines = append(lines, fmt.Sprintf("%-22s %12d %12d %12d", s.Name, s.Pending, s.AckPending, s.Redelivered))
	}
	lines = append(lines, "", fmt.Sprintf("%-22s %12s %12s", "BUCKET", "keys", "bytes"))
	for _, s := range w.Buckets {
		lines = append(lines, fmt.Sprintf("%-22s %12d %12d", s.Name, s.Keys, s.Bytes))
	}
	lines = append(lines, "",
		fmt.Sprintf("OUTBOX        %d pending, the oldest for %.1f s", w.Outbox.Pending, w.Outbox.OldestAgeSeconds),
		fmt.Sprintf("DEAD LETTERS  %d", dead),
		fmt.Sprintf("SYNC JOBS     %d pending, %d processing; in 24 hours %d completed, %d failed", w.SyncJobs.Pending, w.SyncJobs.Processing,
			w.SyncJobs.Completed, w.SyncJobs.Failed))
	if n := len(w.Partitions); n > 0 {
		lines = append(lines, fmt.Sprintf("AUDIT MONTHS  %s to %s, %d in all", w.Partitions[0].Month, w.Partitions[n-1].Month, n))
	}
	if w.Replica != nil {
		lines = append(lines, fmt.Sprintf("REPLICA       %.1f s behind", w.Replica.LagSeconds))
	}
	return lines
}
