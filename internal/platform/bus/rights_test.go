package bus_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
)

// right is a subject, and who may publish or subscribe to it.
type right struct {
	subject string
	who     []string
}

const (
	api = "api"
	ops = "ops"
)

var (
	consumers = []string{bus.Syncer, bus.CacheInvalidator, bus.AuditArchiver}
	users     = append([]string{api, ops}, consumers...)
)

// may is who may publish what: every user is tried on every line.
func may() []right {
	rights := []right{
		{"evt.task.created.v1.x", []string{api, ops}},
		{"live.x", []string{api, bus.Syncer}},
		{bus.OutboxNudge, []string{api, bus.Syncer, bus.AuditArchiver}},
		{"RL.default.x.1", []string{api}},
		{"RL.google/user.x.1", []string{api, bus.Syncer}},
		{"RLX.auth/login.x", []string{api}},
		{bus.RateLimitTotals + ".default.x.1", nil},
		{"$KV.sessions.x", []string{api, bus.CacheInvalidator}},
		{"$KV.workspace_data.x", []string{api, bus.CacheInvalidator}},
		{"$KV.flags.sync_async", []string{ops}},
		{bus.CheckpointSubject, []string{bus.AuditArchiver}},
		{"$O.audit_archive.M.x", []string{bus.AuditArchiver}},
		{"$SYS.REQ.SERVER.PING", nil},
		{"anything.else", nil},
	}
	// Each works on its own consumer alone, and nobody changes one.
	for _, c := range consumers {
		rights = append(rights,
			right{"dead." + c + ".evt.x", []string{c}},
			right{"$JS.ACK.EVENTS." + c + ".1.1.1.1.1", []string{c}},
			right{"$JS.ACK._.account.EVENTS." + c + ".1.1.1.1.1.x", nil},
			right{"$JS.API.CONSUMER.MSG.NEXT.EVENTS." + c, []string{c}})
		for _, verb := range []string{"CREATE", "DURABLE.CREATE", "DELETE", "PAUSE", "RESET", "UNPIN", "LEADER.STEPDOWN"} {
			var who []string
			if slices.Contains([]string{"CREATE", "DELETE", "PAUSE"}, verb) {
				who = []string{ops} // a replay begins and ends
			}
			rights = append(rights,
				right{"$JS.API.CONSUMER." + verb + ".EVENTS." + c, nil},
				right{"$JS.API.CONSUMER." + verb + ".EVENTS." + bus.ReplayConsumer(c), who},
				right{"$JS.API.CONSUMER." + verb + ".REPLAY." + c, nil})
		}
		rights = append(rights,
			right{"$JS.API.CONSUMER.CREATE.EVENTS." + c + ".evt.>", nil},
			right{"$JS.API.CONSUMER.CREATE.REPLAY." + c + "." + bus.ReplaySubject(c, ">"), nil},
			right{bus.ReplaySubject(c, "evt.x"), []string{ops}})
		for _, own := range []string{"EVENTS." + bus.ReplayConsumer(c), "REPLAY." + c} {
			rights = append(rights,
				right{"$JS.API.CONSUMER.MSG.NEXT." + own, []string{c}},
				right{"$JS.ACK." + own + ".1.1.1.1.1", []string{c}},
				right{"$JS.ACK._.account." + own + ".1.1.1.1.1.x", nil})
		}
		for _, other := range consumers {
			if other != c {
				rights = append(rights, right{"_INBOX_" + other + ".x", nil})
			}
		}
	}
	// Who reads a stream: message by message, and by consumers of their own.
	const object = "OBJ_" + bus.AuditArchive
	get := map[string][]string{
		bus.Dead: append([]string{ops}, consumers...), bus.Checkpoints: {ops, bus.AuditArchiver}, object: {ops, bus.AuditArchiver},
		"KV_" + bus.Sessions: {ops, api, bus.CacheInvalidator}, "KV_" + bus.WorkspaceData: {ops, api, bus.CacheInvalidator}, "KV_" + bus.Flags: {ops, api},
		bus.RateLimitLogs: {ops, api},
	}
	consume := map[string][]string{
		bus.Events: {ops, api}, bus.Replay: nil, "KV_" + bus.Sessions: {ops, api}, "KV_" + bus.WorkspaceData: {ops, api}, "KV_" + bus.Flags: {ops, api}, object: {ops, bus.AuditArchiver},
	}
	for _, stream := range streams(object) {
		for _, verb := range []string{"CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "RESTORE", "PEER.REMOVE", "LEADER.STEPDOWN"} {
			var who []string
			switch verb + " " + stream {
			case "PURGE " + object:
				who = []string{bus.AuditArchiver} // of the old chunks of an object
			case "MSG.DELETE " + bus.Dead:
				who = []string{ops}
			}
			rights = append(rights, right{"$JS.API.STREAM." + verb + "." + stream, who})
		}
		readers, ok := get[stream]
		if !ok {
			readers = []string{ops}
		}
		rights = append(rights, right{"$JS.API.STREAM.MSG.GET." + stream, readers})
		readers, ok = consume[stream]
		if !ok {
			readers = []string{ops}
		}
		rights = append(rights, right{"$JS.API.CONSUMER.CREATE." + stream + ".mine.x", readers})
		// Without a filter: who copies a stream whole reads it so, and in no other way. It takes nothing away, other people's consumers neither.
		all := slices.Clone(readers)
		if slices.Contains([]string{"KV_" + bus.Flags, bus.Dead, bus.Checkpoints}, stream) {
			all = append(all, bus.AuditArchiver)
		}
		rights = append(rights,
			right{"$JS.API.CONSUMER.CREATE." + stream + ".mine", all},
			right{"$JS.API.CONSUMER.DURABLE.CREATE." + stream + ".mine", nil})
	}
	return append(rights,
		right{"$JS.API.DIRECT.GET.EVENTS.evt.x", []string{ops}},
		right{"$JS.API.DIRECT.GET.RATELIMIT.RL.default.x.1", []string{api, ops}},
		right{"$JS.API.CONSUMER.DELETE.DEAD.mine", []string{ops}},
		right{"$JS.API.CONSUMER.DELETE.CHECKPOINTS.mine", []string{ops}},
		right{"$JS.API.CONSUMER.DELETE.KV_flags.mine", []string{ops, api}},
		right{"$JS.API.STREAM.CREATE.MINE", nil},
		// They name the consumer in the body, where no rule sees it.
		right{"$JS.API.CONSUMER.CREATE.REPLAY", nil},
	)
}

func streams(more string) []string {
	names := []string{more}
	for _, config := range append(bus.Streams(1), bus.Buckets(1)...) {
		names = append(names, config.Name)
	}
	return names
}

// Only provision makes, changes or purges streams and consumers; a service reaches no other's consumer, acknowledgements,
// dead letters, buckets or replies.
func TestUsersMayDoWhatTheyDo(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t, natstest.WithTCP())
	for _, user := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			nc := natstest.Connect(t, s, user, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
			// The server refuses before it answers the flush.
			refused := func(subject string) bool {
				require.NoError(t, nc.Flush())
				err := nc.LastError()
				return err != nil && strings.Contains(err.Error(), `"`+subject+`"`)
			}
			for _, r := range may() {
				require.NoError(t, nc.Publish(r.subject, nil))
				require.Equal(t, !slices.Contains(r.who, user), refused(r.subject), "%s publishes %s", user, r.subject)
			}
			own := bus.InboxPrefix(user) + ".>"
			for _, r := range []right{
				{own, []string{user}},
				{"live.>", []string{api, ops}},
				{"outbox.nudge", []string{api, ops}},
				{bus.RateLimitTotals + ".>", []string{api, ops}},
				{"evt.>", []string{ops}},
				{"dead.>", []string{ops}},
				{"$KV.>", []string{ops}},
				{"$JS.>", []string{ops}},
				{"_INBOX.>", []string{ops}},
				{"_INBOX_provision.>", []string{ops}},
				{"_INBOX_api.>", []string{api, ops}},
				{"_INBOX_syncer.>", []string{bus.Syncer, ops}},
				{"_INBOX_cache-invalidator.>", []string{bus.CacheInvalidator, ops}},
				{"_INBOX_audit-archiver.>", []string{bus.AuditArchiver, ops}},
				{"*.>", []string{ops}},
			} {
				_, err := nc.SubscribeSync(r.subject)
				require.NoError(t, err)
				require.Equal(t, !slices.Contains(r.who, user), refused(r.subject), "%s subscribes to %s", user, r.subject)
			}
		})
	}
}
