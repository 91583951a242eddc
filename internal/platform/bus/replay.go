package bus

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A consumer gets events again in two ways. A selection of EVENTS is a second durable consumer on it, [ReplayConsumer],
// which says in its metadata what of its subjects is meant; nothing is copied. What has to be picked one by one, or isn't
// in EVENTS any more, is copied into the stream [Replay] under [ReplaySubject]. The consumer's own service drains both,
// beside its live events.

// replayPrefix begins the subjects of Replay.
const replayPrefix = "replay."

// ReplaySubject is where Replay holds a message for a consumer; subject is the one that the message has in EVENTS.
func ReplaySubject(consumer, subject string) string { return replayPrefix + consumer + "." + subject }

// OriginalSubject is the inverse of ReplaySubject; false when the subject is none of the consumer's.
func OriginalSubject(consumer, subject string) (string, bool) {
	return strings.CutPrefix(subject, replayPrefix+consumer+".")
}

// ReplayConsumer is the name of the durable consumer on EVENTS that holds a running replay to the named one.
func ReplayConsumer(consumer string) string { return "replay-" + consumer }

// Keys of a replay consumer's metadata. A worker leaves a consumer alone that has others beginning with fdc-: they may be
// conditions that it doesn't know.
const (
	metaReplayID  = "fdc-replay-id"
	metaUntil     = "fdc-until"
	metaFromTime  = "fdc-from-time"
	metaUser      = "fdc-user"
	metaRate      = "fdc-rate"
	metaStartedAt = "fdc-started-at"
	metaStartedBy = "fdc-started-by"
)

// ReplayOrder says what of a replay consumer's subjects is meant. The rest is acknowledged without being handled.
type ReplayOrder struct {
	ID        string
	Until     uint64    // the last selected sequence of EVENTS
	FromTime  time.Time // nothing that EVENTS took before it; zero: no such bound
	UserID    string    // only events with that userid; empty: all
	Rate      float64   // events a second in each copy of the service; 0: as fast as it goes
	StartedAt time.Time
	StartedBy string
}

// Metadata is the order as a consumer carries it.
func (o ReplayOrder) Metadata() map[string]string {
	m := map[string]string{
		metaReplayID:  o.ID,
		metaUntil:     strconv.FormatUint(o.Until, 10),
		metaStartedAt: o.StartedAt.UTC().Format(time.RFC3339Nano),
		metaStartedBy: o.StartedBy,
	}
	if !o.FromTime.IsZero() {
		m[metaFromTime] = o.FromTime.UTC().Format(time.RFC3339Nano)
	}
	if o.UserID != "" {
		m[metaUser] = o.UserID
	}
	if o.Rate > 0 {
		m[metaRate] = strconv.FormatFloat(o.Rate, 'g', -1, 64)
	}
	return m
}

// ParseReplayOrder reads a consumer's metadata. It refuses what it doesn't understand in full, so that nothing is handled
// that was not selected.
func ParseReplayOrder(metadata map[string]string) (ReplayOrder, error) {
	var o ReplayOrder
	var errs []error
	for key, value := range metadata {
		var err error
		switch key {
		case metaReplayID:
			o.ID = value
		case metaUntil:
			o.Until, err = strconv.ParseUint(value, 10, 64)
		case metaFromTime:
			o.FromTime, err = time.Parse(time.RFC3339Nano, value)
		case metaUser:
			o.UserID = value
		case metaRate:
			o.Rate, err = strconv.ParseFloat(value, 64)
			if err == nil && (o.Rate <= 0 || math.IsInf(o.Rate, 0) || math.IsNaN(o.Rate)) {
				err = fmt.Errorf("%s is no rate", value)
			}
		case metaStartedAt:
			o.StartedAt, err = time.Parse(time.RFC3339Nano, value)
		case metaStartedBy:
			o.StartedBy = value
		default:
			if strings.HasPrefix(key, "fdc-") {
				err = errors.New("not known here")
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("metadata %s: %w", key, err))
		}
	}
	if o.ID == "" || o.Until == 0 {
		errs = append(errs, fmt.Errorf("metadata: no %s or %s", metaReplayID, metaUntil))
	}
	return o, errors.Join(errs...)
}

// ReplayConfig is a replay to c of what EVENTS holds under the subjects from the sequence on. It retries and gives up like c
// itself.
func (c Consumer) ReplayConfig(o ReplayOrder, from uint64, subjects []string, replicas int) jetstream.ConsumerConfig {
	config := c.config(replicas)
	config.Durable = ReplayConsumer(c.Name)
	config.FilterSubjects = subjects
	config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	config.Metadata = o.Metadata()
	return config
}

// queueConfig is c's consumer on Replay.
func (c Consumer) queueConfig(replicas int) jetstream.ConsumerConfig {
	config := c.config(replicas)
	config.FilterSubjects = []string{ReplaySubject(c.Name, ">")}
	return config
}
