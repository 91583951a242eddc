package service

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/audit"
	"fdc/internal/gsync"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// Kinds of an Effect.
const (
	EffectEvent      = "event"
	EffectJob        = "syncJob"
	EffectDeadLetter = "deadLetter"
)

// Where an Effect is on record, beside the streams.
const (
	inOutbox   = "outbox" // committed, not yet published
	inAuditLog = "audit_logs"
	inSyncJobs = "sync_jobs"
)

// Effect is something that a request caused.
type Effect struct {
	Time     time.Time       `json:"time"`
	Kind     string          `json:"kind"`
	Source   string          `json:"source"`   // EVENTS, DEAD, audit_logs, outbox or sync_jobs
	Sequence uint64          `json:"sequence"` // in EVENTS or DEAD; 0 elsewhere
	EventID  string          `json:"eventId"`  // of a dead letter, the event's; empty of a job
	Action   string          `json:"action"`   // such as task.created; of a job how it stands: sync completed
	Subject  string          `json:"subject"`  // the id of what it is about
	ActorID  string          `json:"actorId"`
	Data     json.RawMessage `json:"data"` // the event's payload, the job, or why the event is a dead letter
}

// envelope is what Explain reads of an event. It takes types that this binary doesn't know.
type envelope struct {
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Subject   string          `json:"subject"`
	Time      time.Time       `json:"time"`
	ActorID   string          `json:"actorid"`
	RequestID string          `json:"requestid"`
	Data      json.RawMessage `json:"data"`
}

func (e envelope) effect(source string, sequence uint64) Effect {
	action := strings.TrimPrefix(e.Type, "fdc.")
	if i := strings.LastIndex(action, ".v"); i > 0 {
		action = action[:i]
	}
	return Effect{
		Time: e.Time, Kind: EffectEvent, Source: source, Sequence: sequence, EventID: e.ID, Action: action, Subject: e.Subject, ActorID: e.ActorID, Data: e.Data,
	}
}

// explanation gathers effects; each event once, from the place that says most of it.
type explanation struct {
	request string
	events  map[string]Effect
	others  []Effect
}

// Explain lists what a request caused, in the order of time: its events, from the outbox, the stream and the audit log, the sync jobs it
// asked for, and the dead letters of its events. It reads the audit log by its index, and of EVENTS what the audit log doesn't have yet and
// the time around the request.
func Explain(ctx context.Context, js jetstream.JetStream, db postgres.Querier, requestID string) ([]Effect, error) {
	x := &explanation{request: requestID, events: map[string]Effect{}}
	for _, read := range []func(context.Context, jetstream.JetStream, postgres.Querier) error{x.readOutbox, x.readTail, x.readLog, x.readSequences, x.readJobs, x.readDead} {
		if err := read(ctx, js, db); err != nil {
			return nil, err
		}
	}
	list := x.others
	for _, effect := range x.events {
		list = append(list, effect)
	}
	slices.SortFunc(list, func(a, b Effect) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Sequence, b.Sequence), strings.Compare(a.Kind+a.EventID+a.Subject, b.Kind+b.EventID+b.Subject))
	})
	return list, nil
}

// take keeps an event of the request. The text is looked for first: most events are another request's.
func (x *explanation) take(body []byte, source string, sequence uint64) {
	var e envelope
	if bytes.Contains(body, []byte(x.request)) && json.Unmarshal(body, &e) == nil && e.RequestID == x.request {
		x.events[e.ID] = e.effect(source, sequence)
	}
}

func (x *explanation) readOutbox(ctx context.Context, _ jetstream.JetStream, db postgres.Querier) error {
	rows, err := db.Query(ctx, `SELECT body FROM outbox WHERE sequence IS NULL AND position(convert_to($1, 'UTF8') IN body) > 0`, x.request)
	if err != nil {
		return fmt.Errorf("look into the outbox: %w", err)
	}
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&body}, func() error {
		x.take(body, inOutbox, 0)
		return nil
	})
	if err != nil {
		return fmt.Errorf("look into the outbox: %w", err)
	}
	return nil
}

// readTail reads what the audit-archiver has not written yet: all, when there is no such consumer.
func (x *explanation) readTail(ctx context.Context, js jetstream.JetStream, _ postgres.Querier) error {
	first := uint64(1)
	consumer, err := js.Consumer(ctx, bus.Events, bus.AuditArchiver)
	switch {
	case err == nil:
		first = consumer.CachedInfo().AckFloor.Stream + 1
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound):
	default:
		return fmt.Errorf("ask for consumer %s: %w", bus.AuditArchiver, err)
	}
	return scan(ctx, js, bus.Events, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first},
		func(msg jetstream.Msg, meta *jetstream.MsgMetadata) bool {
			x.take(msg.Data(), bus.Events, meta.Sequence.Stream)
			return true
		})
}

func (x *explanation) readLog(ctx context.Context, _ jetstream.JetStream, db postgres.Querier) error {
	entries, err := audit.OfRequest(ctx, db, x.request)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, known := x.events[e.EventID]; !known {
			x.events[e.EventID] = Effect{
				Time: e.OccurredAt, Kind: EffectEvent, Source: inAuditLog, EventID: e.EventID, Action: e.Action, Subject: e.TargetID, ActorID: e.ActorID, Data: e.Changes,
			}
		}
	}
	return nil
}

// publishTime is how much later than it happened an event is looked for in the stream. One that waited longer in the outbox, as when NATS
// was away, is told from the audit log, without its sequence.
const publishTime = 5 * time.Minute

// readSequences finds the events that the audit log has told of in the stream, as far as that still holds them.
func (x *explanation) readSequences(ctx context.Context, js jetstream.JetStream, _ postgres.Querier) error {
	missing := map[string]bool{}
	var subjects []string
	var first, last time.Time
	for id, e := range x.events {
		if e.Source != inAuditLog {
			continue
		}
		missing[id] = true
		if subject := "evt." + e.Action + ".>"; !slices.Contains(subjects, subject) {
			subjects = append(subjects, subject)
		}
		if first.IsZero() || e.Time.Before(first) {
			first = e.Time
		}
		if e.Time.After(last) {
			last = e.Time
		}
	}
	if len(missing) == 0 {
		return nil
	}
	first = first.Add(-time.Second) // the clocks of PostgreSQL's client and of NATS are two
	return scan(ctx, js, bus.Events, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &first, FilterSubjects: subjects},
		func(msg jetstream.Msg, meta *jetstream.MsgMetadata) bool {
			if id := msg.Headers().Get(jetstream.MsgIDHeader); missing[id] {
				x.take(msg.Data(), bus.Events, meta.Sequence.Stream)
				delete(missing, id)
			}
			return len(missing) > 0 && meta.Timestamp.Before(last.Add(publishTime))
		})
}

// readJobs tells how the jobs stand that the request asked for. Its events name them.
func (x *explanation) readJobs(ctx context.Context, _ jetstream.JetStream, db postgres.Querier) error {
	var ids []string
	for _, e := range x.events {
		if e.Action == "sync.requested" {
			ids = append(ids, e.Subject)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	jobs, err := gsync.JobsByID(ctx, db, ids)
	if err != nil {
		return err
	}
	for _, job := range jobs {
		data, err := json.Marshal(job)
		if err != nil {
			return fmt.Errorf("print sync job %s: %w", job.ID, err)
		}
		at := job.CreatedAt
		for _, later := range []*time.Time{job.StartedAt, job.CompletedAt} {
			if later != nil {
				at = *later
			}
		}
		x.others = append(x.others, Effect{Time: at.UTC(), Kind: EffectJob, Source: inSyncJobs, Action: "sync " + job.Status, Subject: job.ID, Data: data})
	}
	return nil
}

// readDead finds the events of the request that a consumer gave up on, also those that no audit log has for that reason.
func (x *explanation) readDead(ctx context.Context, js jetstream.JetStream, _ postgres.Querier) error {
	return scan(ctx, js, bus.Dead, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy},
		func(msg jetstream.Msg, meta *jetstream.MsgMetadata) bool {
			var e envelope
			if !bytes.Contains(msg.Data(), []byte(x.request)) || json.Unmarshal(msg.Data(), &e) != nil || e.RequestID != x.request {
				return true
			}
			if _, known := x.events[e.ID]; !known {
				x.events[e.ID] = e.effect(bus.Dead, 0)
			}
			letter := e.effect(bus.Dead, meta.Sequence.Stream)
			letter.Kind, letter.Time = EffectDeadLetter, meta.Timestamp.UTC()
			h := msg.Headers()
			letter.Data, _ = json.Marshal(map[string]string{ // strings always can
				"consumer": h.Get(worker.HeaderConsumer), "reason": h.Get(worker.HeaderReason), "attempts": h.Get(worker.HeaderAttempts),
				"sequence": h.Get(worker.HeaderSequence),
			})
			x.others = append(x.others, letter)
			return true
		})
}

// scan calls each for the messages of a stream that are there now, until it returns false. A missing stream has none.
func scan(
	ctx context.Context, js jetstream.JetStream, stream string, config jetstream.OrderedConsumerConfig, each func(jetstream.Msg, *jetstream.MsgMetadata) bool,
) error {
	consumer, err := js.OrderedConsumer(ctx, stream, config)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	if err := bus.Scan(ctx, consumer, scanPatience, each); err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	return nil
}

// scanPatience is how long NATS may deliver nothing while messages are left.
const scanPatience = 10 * time.Second
