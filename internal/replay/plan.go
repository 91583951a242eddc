package replay

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// Plan is what a replay would feed to a consumer.
type Plan struct {
	Consumer      string           `json:"consumer"`
	Count         int64            `json:"count"`
	FirstSequence uint64           `json:"firstSequence"` // in EVENTS; 0 for an empty plan
	LastSequence  uint64           `json:"lastSequence"`
	ByType        map[string]int64 `json:"byType"` // by action
}

// NewPlan is a plan that holds nothing yet.
func NewPlan(consumer string) *Plan { return &Plan{Consumer: consumer, ByType: map[string]int64{}} }

// add counts an event.
func (p *Plan) add(sequence uint64, action string) {
	if p.Count == 0 {
		p.FirstSequence = sequence
	}
	p.Count++
	p.LastSequence = max(p.LastSequence, sequence)
	p.ByType[action]++
}

// Empty is the error of a plan without events; nil for any other.
func (p *Plan) Empty() error {
	if p.Count > 0 {
		return nil
	}
	return fault.New(fault.NotFound, "nothing-selected", "Nothing is selected that %s takes; there is nothing to replay.", p.Consumer)
}

// action is the type in a subject, whatever that is.
func action(subject string) string {
	_, rest, _ := strings.Cut(subject, ".")
	aggregate, rest, _ := strings.Cut(rest, ".")
	fact, _, _ := strings.Cut(rest, ".")
	return aggregate + "." + fact
}

// Replays selects events for consumers and runs replays, as the user ops.
type Replays struct {
	NC      *nats.Conn
	JS      jetstream.JetStream
	Waiting func(error)             // told once per outage; may be nil
	Tell    func(done, total int64) // told, at times, how far it is; may be nil

	settle, idleAfter time.Duration // instead of the constants, where not zero
}

// idle is how long a consumer may pull nothing before its service is said to be unavailable.
func (r *Replays) idle() time.Duration { return cmp.Or(r.idleAfter, idleAfter) }

// reader reads what of the selection the consumer takes.
func (r *Replays) reader(c bus.Consumer, s Selection) *Reader {
	return &Reader{
		NC: r.NC, JS: r.JS, Selection: s, Subjects: Intersect(s.Subjects(), c.Filters), Waiting: r.Waiting, Progress: r.Tell,
	}
}

// Plan counts what of the selection the consumer takes.
func (r *Replays) Plan(ctx context.Context, c bus.Consumer, s Selection) (*Plan, error) {
	plan := NewPlan(c.Name)
	reader := r.reader(c, s)
	if len(reader.Subjects) == 0 {
		return plan, nil
	}
	reader.HeadersOnly = s.UserID == ""
	last, name := "", "" // most events come in runs of a subject
	err := reader.Run(ctx, func(e Stored) error {
		if e.Subject != last {
			last, name = e.Subject, action(e.Subject)
		}
		plan.add(e.Sequence, name)
		return nil
	})
	return plan, err
}

// assumedRate is what a service is expected to handle, for want of a measurement: events a second.
const assumedRate = 5000

// Takes is about how long the plan takes, at a rate or, without one, at an assumed one.
func (p *Plan) Takes(rate float64) time.Duration {
	if rate <= 0 {
		rate = assumedRate
	}
	return time.Duration(float64(p.Count) / rate * float64(time.Second)).Round(time.Second)
}
