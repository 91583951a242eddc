package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// Letter is a dead letter: an event that a consumer gave up on.
type Letter struct {
	Sequence uint64    // in DEAD
	Time     time.Time // at which it was set aside
	Consumer string
	Subject  string // of the event
	Reason   string
	Attempts int
	Original uint64 // the event's sequence in EVENTS; 0 when nobody knows it

	MessageID string // the event's

	Size   int // of the body
	Header nats.Header
	Body   []byte // nil in a list
}

// LetterFilter selects dead letters. Its zero value selects all.
type LetterFilter struct {
	Consumer     string
	Subjects     []string  // of the events, as filters; none for all
	Since, Until time.Time // by the time at which they were set aside; Until is the first moment not selected
}

// ErrNoLetter says that DEAD holds no such letter.
var ErrNoLetter = errors.New("no such dead letter")

// DeadLetters is the stream DEAD as operators handle it.
type DeadLetters struct {
	js     jetstream.JetStream
	outbox *outbox.Outbox // nil where nothing is changed
}

// NewDeadLetters returns the dead letters behind a connection of the user ops. Without an outbox they can only be read.
func NewDeadLetters(js jetstream.JetStream, ob *outbox.Outbox) *DeadLetters {
	return &DeadLetters{js: js, outbox: ob}
}

// listPortion is how many letters are asked for at once.
const listPortion = 5000

// List returns what is selected and in DEAD now, without bodies, in the order of their sequences.
func (d *DeadLetters) List(ctx context.Context, f LetterFilter) ([]Letter, error) {
	consumer, err := d.js.CreateConsumer(ctx, bus.Dead, f.config())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", bus.Dead, err)
	}
	info := consumer.CachedInfo()
	defer func() {
		// It goes by itself, too, when it is left alone.
		_ = d.js.DeleteConsumer(context.WithoutCancel(ctx), bus.Dead, info.Name)
	}()
	var letters []Letter
	for left := info.NumPending; left > 0; {
		batch, err := consumer.Fetch(int(min(left, listPortion)), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", bus.Dead, err)
		}
		got := 0
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", bus.Dead, err)
			}
			got++
			left = meta.NumPending
			if !f.Until.IsZero() && !meta.Timestamp.Before(f.Until) {
				return letters, nil
			}
			letters = append(letters, letterOf(meta.Sequence.Stream, meta.Timestamp, msg.Subject(), msg.Headers(), nil))
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("read %s: %w", bus.Dead, err)
		}
		if got > 0 {
			continue
		}
		// Some were deleted meanwhile, or the server is slow.
		if info, err = consumer.Info(ctx); err != nil {
			return nil, fmt.Errorf("read %s: %w", bus.Dead, err)
		}
		left = info.NumPending
	}
	return letters, nil
}

func (f LetterFilter) config() jetstream.ConsumerConfig {
	prefix := "dead." + cmp.Or(f.Consumer, "*") + "."
	config := jetstream.ConsumerConfig{
		Name:              "dlq-" + events.NewID(),
		FilterSubjects:    []string{prefix + ">"},
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 30 * time.Second,
	}
	if len(f.Subjects) > 0 {
		config.FilterSubjects = nil
		for _, subject := range f.Subjects {
			config.FilterSubjects = append(config.FilterSubjects, prefix+subject)
		}
	}
	if !f.Since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	return config
}

// Get returns the letters with these sequences, with their bodies, in order and each once. When one is not there the error is
// an ErrNoLetter that names it.
func (d *DeadLetters) Get(ctx context.Context, sequences []uint64) ([]Letter, error) {
	sequences = slices.Compact(slices.Sorted(slices.Values(sequences)))
	letters, err := d.fetch(ctx, sequences)
	if err != nil {
		return nil, err
	}
	var missing []string
	for i, l := range letters {
		if l.Sequence == 0 {
			missing = append(missing, strconv.FormatUint(sequences[i], 10))
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoLetter, strings.Join(missing, ", "))
	}
	return letters, nil
}

// atOnce is how many requests are under way at the same time.
const atOnce = 32

// fetch reads letters in their entirety. One that is not there is left zero.
func (d *DeadLetters) fetch(ctx context.Context, sequences []uint64) ([]Letter, error) {
	stream, err := d.js.Stream(ctx, bus.Dead)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", bus.Dead, err)
	}
	letters := make([]Letter, len(sequences))
	err = concurrently(ctx, len(sequences), func(ctx context.Context, i int) error {
		msg, err := stream.GetMsg(ctx, sequences[i])
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read dead letter %d: %w", sequences[i], err)
		}
		letters[i] = letterOf(msg.Sequence, msg.Time, msg.Subject, msg.Header, msg.Data)
		return nil
	})
	return letters, err
}

// concurrently calls fn for 0 to n-1, and returns the first error.
func concurrently(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { return fn(ctx, i) })
	}
	return group.Wait()
}

func letterOf(sequence uint64, at time.Time, subject string, header nats.Header, body []byte) Letter {
	l := Letter{Sequence: sequence, Time: at.UTC(), Header: header, Body: body, Size: len(body)}
	rest := strings.TrimPrefix(subject, "dead.")
	l.Consumer, l.Subject, _ = strings.Cut(rest, ".") // a consumer's name is one token
	l.Reason = header.Get(worker.HeaderReason)
	// What is no number is not known.
	l.Attempts, _ = strconv.Atoi(header.Get(worker.HeaderAttempts))
	l.Original, _ = strconv.ParseUint(header.Get(worker.HeaderSequence), 10, 64)
	l.MessageID = strings.TrimPrefix(header.Get(jetstream.MsgIDHeader), l.Consumer+":")
	if body == nil {
		l.Size, _ = strconv.Atoi(header.Get(nats.MsgSize))
	}
	return l
}

// TakenAt is when EVENTS took the letter's event; false when it doesn't hold it any more.
func (d *DeadLetters) TakenAt(ctx context.Context, l Letter) (time.Time, bool) {
	if l.Original == 0 {
		return time.Time{}, false
	}
	stream, err := d.js.Stream(ctx, bus.Events)
	if err != nil {
		return time.Time{}, false
	}
	msg, err := stream.GetMsg(ctx, l.Original)
	if err != nil || msg.Subject != l.Subject {
		return time.Time{}, false
	}
	return msg.Time.UTC(), true
}

// LetterAct is what an operator did with a letter.
type LetterAct struct {
	Time     time.Time
	Action   string
	Sequence uint64 // in DEAD
	ActorID  string
	Reason   string
}

// LetterHistory reads from the audit log what was done with earlier letters of the same event and consumer, the oldest first.
func LetterHistory(ctx context.Context, q postgres.Querier, l Letter) ([]LetterAct, error) {
	id := l.EventID()
	if id == "" {
		return nil, nil
	}
	// An id of our own says when the event was made: nothing was done with it before, and months before needn't be read.
	var since time.Time
	if parsed, err := uuid.Parse(id); err == nil && parsed.Version() == 7 {
		since = time.Unix(parsed.Time().UnixTime()).Add(-time.Hour)
	}
	rows, err := q.Query(ctx, `
		SELECT occurred_at, action, coalesce((changes->>'sequence')::bigint, 0), actor_id, coalesce(changes->>'reason', '')
		FROM audit_logs
		WHERE occurred_at >= $1 AND (actor_id = $2 OR actor_id LIKE $2 || ':%') AND target_id = $3 AND changes->>'eventId' = $4
		      AND action IN ('ops.dead_letter_requeued', 'ops.dead_letter_discarded')
		ORDER BY occurred_at`, since, events.OperatorActor, l.Consumer, id)
	if err != nil {
		return nil, fmt.Errorf("read the history of dead letter %d: %w", l.Sequence, err)
	}
	acts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[LetterAct])
	if err != nil {
		return nil, fmt.Errorf("read the history of dead letter %d: %w", l.Sequence, err)
	}
	return acts, nil
}
