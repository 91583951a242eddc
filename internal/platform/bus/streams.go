package bus

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of the streams.
const (
	Events = "EVENTS"
	Dead   = "DEAD"
	// Replay holds what single consumers are to get again.
	Replay = "REPLAY"
	// RateLimits holds the counters of platform/ratelimit, and RateLimitLogs what it keeps of limits that are exact.
	RateLimits    = "RATELIMIT"
	RateLimitLogs = "RATELIMIT_EXACT"
	// Checkpoints holds the signed checkpoints of the audit log.
	Checkpoints = "CHECKPOINTS"
)

// CheckpointSubject is the one subject of Checkpoints.
const CheckpointSubject = "checkpoint.audit"

// RateLimitSubject is the first token of the counters' subjects: RL.<key>.<hash of whom it counts>.<minute>.
const RateLimitSubject = "RL"

// RateLimitTotals is the prefix under which RATELIMIT republishes each counter's new total, over core NATS.
const RateLimitTotals = "ratelimit.total"

// RateLimitLogSubject is the first token of the logs' subjects: RLX.<key>.<hash of whom it limits>.
const RateLimitLogSubject = "RLX"

// Core NATS subjects; nothing stores them.
const (
	// OutboxNudge tells the relay that an outbox row was committed.
	OutboxNudge = "outbox.nudge"
	// Live carries what is only worth anything now, such as the progress of a sync.
	Live = "live.>"
)

// DedupeWindow is how long EVENTS and Replay remember a message id.
const DedupeWindow = time.Hour

// Streams are the project's streams, at the given number of replicas.
func Streams(replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		{
			Name:        Events,
			Description: "Every domain event, in commit order per aggregate",
			Subjects:    []string{"evt.>"},
			Storage:     jetstream.FileStorage,
			Replicas:    replicas,
			// The audit log keeps facts for good; the stream serves replays and sockets that resume.
			MaxAge:   90 * 24 * time.Hour,
			MaxBytes: 16 << 30,
			// More than an event may have (events.MaxSize): what is too large becomes a dead letter with the reason, instead of
			// being refused where perhaps nobody listens. A dead letter's headers still fit above it.
			MaxMsgSize:         960 << 10,
			Discard:            jetstream.DiscardOld,
			Duplicates:         DedupeWindow,
			AllowAtomicPublish: true, // the relay's batches: one fsync each
			AllowDirect:        true,
		},
		{
			Name:        Dead,
			Description: "Events that a consumer gave up on, as they were",
			Subjects:    []string{"dead.>"},
			Storage:     jetstream.FileStorage,
			Replicas:    replicas,
			MaxBytes:    1 << 30,
			MaxMsgSize:  1 << 20,
			// A full stream refuses, and the worker then keeps the message: nothing is dropped to make room.
			Discard:     jetstream.DiscardNew,
			Duplicates:  DeadDedupeWindow,
			AllowDirect: true,
		},
		{
			Name:        Replay,
			Description: "Events for one consumer to handle again",
			Subjects:    []string{replayPrefix + ">"},
			Storage:     jetstream.FileStorage,
			Replicas:    replicas,
			Retention:   jetstream.WorkQueuePolicy, // what has been handled is gone
			MaxBytes:    1 << 30,
			MaxMsgSize:  1 << 20,
			// A full stream refuses, and who fills it waits until the consumers have caught up.
			Discard: jetstream.DiscardNew,
			// Somebody who was interrupted puts the same in again.
			Duplicates:         DedupeWindow,
			AllowAtomicPublish: true,
			AllowDirect:        true,
		},
		{
			Name:        Checkpoints,
			Description: "Signed checkpoints of the audit log",
			Subjects:    []string{CheckpointSubject},
			Storage:     jetstream.FileStorage,
			Replicas:    replicas,
			MaxBytes:    1 << 30,
			MaxMsgSize:  256 << 10,
			// Nothing is ever taken out, by nobody: a full stream refuses.
			Discard:     jetstream.DiscardNew,
			DenyDelete:  true,
			DenyPurge:   true,
			AllowDirect: true,
		},
		{
			Name:              RateLimits,
			Description:       "Requests per key, subject and minute, as counters",
			Subjects:          []string{RateLimitSubject + ".>"},
			Storage:           jetstream.FileStorage,
			PersistMode:       asyncPersist(replicas),
			Replicas:          replicas,
			MaxMsgsPerSubject: 1,
			MaxAge:            3 * time.Minute, // two windows matter
			MaxBytes:          64 << 20,
			MaxMsgSize:        1 << 10,
			Discard:           jetstream.DiscardOld, // counters allow no other
			AllowMsgCounter:   true,
			AllowDirect:       true,
			RePublish:         &jetstream.RePublish{Source: RateLimitSubject + ".>", Destination: RateLimitTotals + ".>"},
		},
		{
			Name:              RateLimitLogs,
			Description:       "Times of the last minute's requests per key and subject, for limits that are exact",
			Subjects:          []string{RateLimitLogSubject + ".>"},
			Storage:           jetstream.FileStorage,
			PersistMode:       asyncPersist(replicas),
			Replicas:          replicas,
			MaxMsgsPerSubject: 1,
			MaxAge:            2 * time.Minute, // one matters
			MaxBytes:          32 << 20,
			MaxMsgSize:        4 << 10,
			Discard:           jetstream.DiscardOld,
			AllowDirect:       false, // the leader's is the one to compare with
		},
	}
}

// AuditArchive is the object store that the user audit-archiver may use, for an ARCHIVE_URL of nats://audit_archive.
const AuditArchive = "audit_archive"

// DeadDedupeWindow is short: the same event may fail again after it was requeued.
const DeadDedupeWindow = 10 * time.Second

// Incarnation tells two streams of one name apart, one of which NATS has lost: the time of its creation, as exact as Postgres keeps it.
func Incarnation(created time.Time) time.Time { return created.UTC().Truncate(time.Microsecond) }
