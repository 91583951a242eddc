package bus

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of the durable consumers on EVENTS. A consumer has its service's name.
const (
	Syncer           = "syncer"
	CacheInvalidator = "cache-invalidator"
	AuditArchiver    = "audit-archiver"
)

// Consumer is a durable pull consumer on EVENTS with explicit acknowledgement.
type Consumer struct {
	Name          string
	Filters       []string
	AckWait       time.Duration // unanswered for so long, a message is delivered again
	MaxAckPending int
	MaxAttempts   int // then the worker sets it aside as a dead letter
}

// crashMargin is how many deliveries beyond MaxAttempts the server still makes. A worker that receives one of those knows
// that the attempts before ended without an answer, and sets the message aside without handling it; the margin covers
// its own crashes while doing so.
const crashMargin = 10

// Consumers are the project's durable consumers.
func Consumers() []Consumer {
	return []Consumer{
		{
			Name: Syncer, Filters: []string{"evt.sync.requested.v1.>"},
			AckWait: 30 * time.Second, MaxAckPending: 1000, MaxAttempts: 8,
		},
		{
			Name: CacheInvalidator,
			Filters: []string{
				"evt.session.created.v1.>", "evt.session.revoked.v1.>", "evt.session.rotated.v1.>",
				"evt.session.reauthenticated.v1.>",
				"evt.user.role_changed.v1.>", "evt.user.disabled.v1.>", "evt.user.enabled.v1.>", "evt.user.erased.v1.>",
				"evt.google.connected.v1.>", "evt.google.disconnected.v1.>", "evt.google.reauth_required.v1.>",
				"evt.workspace.created.v1.>", "evt.workspace.member_added.v1.>", "evt.workspace.member_role_changed.v1.>",
				"evt.workspace.member_removed.v1.>", "evt.workspace.data_updated.v1.>",
				"evt.workspace.renamed.v1.>", "evt.workspace.deleted.v1.>",
			},
			AckWait: 10 * time.Second, MaxAckPending: 2000, MaxAttempts: 8,
		},
		{
			Name: AuditArchiver, Filters: []string{"evt.>"},
			AckWait: 10 * time.Second, MaxAckPending: 20_000, MaxAttempts: 8,
		},
	}
}

// ConsumerNamed returns the declared consumer of that name; false when there is none.
func ConsumerNamed(name string) (Consumer, bool) {
	for _, c := range Consumers() {
		if c.Name == name {
			return c, true
		}
	}
	return Consumer{}, false
}

func (c Consumer) config(replicas int) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:        c.Name,
		FilterSubjects: c.Filters,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        c.AckWait,
		MaxDeliver:     c.MaxAttempts + crashMargin,
		MaxAckPending:  c.MaxAckPending,
		Replicas:       replicas,
	}
}
