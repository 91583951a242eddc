package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/audit/archive"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
)

// Statuses of a finding.
const (
	OK      = "ok"
	Warning = "warning" // works, but not for long, or not as it should
	Error   = "error"   // somebody notices, or will tonight
)

// Finding is what one check has to say.
type Finding struct {
	Check   string `json:"check"`
	Status  string `json:"status"`
	Message string `json:"message"` // a sentence
	Fix     string `json:"fix"`     // what to do; empty when all is well
}

// Config says where the system is. What is empty is not examined, and said to be so.
type Config struct {
	Database postgres.Config
	Bus      bus.Config             // as an operator
	Users    map[string]seal.Secret // passwords of further users of nats.conf
	Google   string                 // GOOGLE_ENDPOINT; empty for Google's own servers
	Keys     seal.Secret            // MASTER_ENCRYPTION_KEYS

	// ArchiveURL is where old months of the audit log go, OpenArchive what opens it.
	ArchiveURL  string
	OpenArchive func(context.Context, jetstream.JetStream) (archive.Storage, error)

	Patience time.Duration    // of each check; 5 s when zero
	Late     time.Duration    // how old an event gets before its consumer is late; 30 s when zero
	Now      func() time.Time // time.Now when nil
}

const (
	defaultPatience = 5 * time.Second
	defaultLate     = 30 * time.Second
	// grace is how much later a check that doesn't heed its context is given up.
	grace = 500 * time.Millisecond
)

// check is one question. Its error is a finding too.
type check struct {
	name string
	ask  func(context.Context) ([]Finding, error)
}

// Examine asks everything and returns at least one finding of every check that could be made, always in the same order.
func Examine(ctx context.Context, c Config) []Finding {
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Late == 0 {
		c.Late = defaultLate
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	parts := []func(context.Context) []Finding{c.examineNATS, c.examinePostgres, c.examineReplica, c.examineGoogle}
	found := make([][]Finding, len(parts))
	var running sync.WaitGroup
	for i, part := range parts {
		running.Go(func() { found[i] = part(ctx) })
	}
	running.Wait()
	var all []Finding
	for _, part := range found {
		all = append(all, part...)
	}
	return all
}

// run makes checks side by side and returns their findings in the order of the checks.
func (c Config) run(ctx context.Context, checks ...check) []Finding {
	answers := make([]chan []Finding, len(checks))
	ctx, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	for i, one := range checks {
		answers[i] = make(chan []Finding, 1) // who comes too late still finds room, and ends
		go func() { answers[i] <- one.findings(ctx, c.Patience) }()
	}
	late := time.After(c.Patience + grace)
	var all []Finding
	gaveUp := false
	for i, one := range checks {
		if gaveUp {
			select {
			case found := <-answers[i]:
				all = append(all, found...)
			default:
				all = append(all, hung(one.name, c.Patience))
			}
			continue
		}
		select {
		case found := <-answers[i]:
			all = append(all, found...)
		case <-late:
			gaveUp = true
			all = append(all, hung(one.name, c.Patience))
		}
	}
	return all
}

func (k check) findings(ctx context.Context, patience time.Duration) []Finding {
	found, err := k.ask(ctx)
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		found = append(found, hung(k.name, patience))
	default:
		found = append(found, Finding{Status: Error, Message: sentence(err), Fix: "see what it complains of, then run fdc doctor again"})
	}
	for i := range found {
		if found[i].Check == "" {
			found[i].Check = k.name
		}
	}
	return found
}

func hung(name string, patience time.Duration) Finding {
	return Finding{
		Check: name, Status: Error, Message: fmt.Sprintf("No answer within %s.", patience),
		Fix: "see whether the server behind it is overloaded, paused or cut off by a firewall",
	}
}

func sentence(err error) string { return "It can't be examined: " + err.Error() + "." }

func ok(format string, args ...any) []Finding {
	return []Finding{{Status: OK, Message: fmt.Sprintf(format, args...)}}
}

func warning(fix, format string, args ...any) Finding {
	return Finding{Status: Warning, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func failure(fix, format string, args ...any) Finding {
	return Finding{Status: Error, Message: fmt.Sprintf(format, args...), Fix: fix}
}

// graded is an error from one bound on, a warning from a lower one on, and ok below both.
func graded(value, warnAt, failAt float64, fix, format string, args ...any) Finding {
	f := Finding{Status: OK, Message: fmt.Sprintf(format, args...)}
	switch {
	case value >= failAt:
		f.Status, f.Fix = Error, fix
	case value >= warnAt:
		f.Status, f.Fix = Warning, fix
	}
	return f
}

// clock compares a server's time, asked for between two moments, with ours. The answer was made at one of the moments between.
func clock(server, before, after time.Time, whose string) []Finding {
	off := server.Sub(before.Add(after.Sub(before) / 2))
	unsure := after.Sub(before) / 2
	apart := max(off.Abs()-unsure, 0)
	f := graded(apart.Seconds(), clockWarning.Seconds(), clockFailure.Seconds(),
		"let every machine follow a time server (chrony, systemd-timesyncd); sessions, leases and audit months go by these clocks",
		"The clock of %s is %s %s this machine's (give or take %s).", whose, off.Abs().Round(time.Millisecond), side(off), unsure.Round(time.Millisecond))
	return []Finding{f}
}

func side(off time.Duration) string {
	if off < 0 {
		return "behind"
	}
	return "ahead of"
}

// How far clocks may be apart.
const (
	clockWarning = time.Second
	clockFailure = 30 * time.Second
)
