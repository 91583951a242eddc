package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/seal"
)

// operator is the user of nats.conf that the fdc command is.
const operator = "ops"

// rights are what a user of nats.conf publishes to, and listens to, in its daily work.
type rights struct{ publish, subscribe []string }

// needs are the rights without which a service, or the fdc command, doesn't do its work.
func needs(user string) rights {
	switch user {
	case "api":
		return rights{
			publish: []string{
				"evt.doctor", bus.OutboxNudge, live(), "RL.doctor.nobody.0", "RLX.doctor.nobody", "$KV.sessions.doctor", "$KV.workspace_data.doctor",
				"$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.EVENTS", "$JS.API.STREAM.MSG.GET.KV_sessions", "$JS.API.DIRECT.GET.RATELIMIT.RL.doctor", "$JS.API.STREAM.MSG.GET.RATELIMIT_EXACT",
				"$JS.API.CONSUMER.CREATE.EVENTS.doctor.evt.doctor", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.doctor", "$JS.API.CONSUMER.DELETE.EVENTS.doctor",
				"$JS.API.CONSUMER.CREATE.KV_sessions.doctor", "$JS.API.CONSUMER.CREATE.KV_workspace_data.doctor", "$JS.API.CONSUMER.CREATE.KV_flags.doctor",
			},
			subscribe: []string{bus.Live, bus.OutboxNudge, bus.RateLimitTotals + ".>"},
		}
	case bus.Syncer:
		return works(user, bus.OutboxNudge, live(), "RL.google/user.doctor.0", "RL.google/project.doctor.0")
	case bus.CacheInvalidator:
		return works(user, "$KV.sessions.doctor", "$KV.workspace_data.doctor",
			"$JS.API.STREAM.MSG.GET.KV_sessions", "$JS.API.STREAM.MSG.GET.KV_workspace_data")
	case bus.AuditArchiver:
		return works(user, bus.OutboxNudge, bus.CheckpointSubject, "$JS.API.STREAM.INFO.CHECKPOINTS", "$JS.API.DIRECT.GET.CHECKPOINTS",
			"$JS.API.STREAM.INFO.KV_flags", "$JS.API.CONSUMER.CREATE.KV_flags.doctor", "$JS.API.CONSUMER.MSG.NEXT.KV_flags.doctor",
			"$JS.API.CONSUMER.CREATE.DEAD.doctor", "$JS.API.CONSUMER.MSG.NEXT.DEAD.doctor",
			"$JS.API.CONSUMER.CREATE.CHECKPOINTS.doctor", "$JS.API.CONSUMER.MSG.NEXT.CHECKPOINTS.doctor")
	case operator:
		return rights{publish: []string{
			"evt.doctor", "replay.doctor", "$KV.flags.doctor", "$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.EVENTS", "$JS.API.CONSUMER.INFO.EVENTS.syncer",
		}}
	}
	return rights{} // sys and provision; the checks of disk and migrate are their work
}

// works are the rights of a service with a consumer of its name.
func works(consumer string, more ...string) rights {
	return rights{publish: append([]string{
		"dead." + consumer + ".doctor", "$JS.ACK.EVENTS." + consumer + ".doctor", "$JS.API.INFO", "$JS.API.STREAM.INFO.DEAD",
		"$JS.API.CONSUMER.INFO.EVENTS." + consumer, "$JS.API.CONSUMER.MSG.NEXT.EVENTS." + consumer,
		"$JS.API.CONSUMER.INFO.REPLAY." + consumer, "$JS.API.CONSUMER.MSG.NEXT.REPLAY." + consumer, "$JS.ACK.REPLAY." + consumer + ".doctor",
		"$JS.API.CONSUMER.INFO.EVENTS." + bus.ReplayConsumer(consumer),
	}, more...)}
}

// live is a subject of progress that nobody is told.
func live() string {
	user := events.NewID()
	return events.New(events.Meta{Source: "/fdc/cli", ActorID: events.SystemActor}, "", events.SyncProgress{JobID: events.NewID(), UserID: user}).NATSSubject()
}

// forbidden is what nobody but provision may do: make or remove a stream. There is none of that name.
var forbidden = []string{"$JS.API.STREAM.CREATE.FDC_DOCTOR", "$JS.API.STREAM.DELETE.FDC_DOCTOR"}

// rights tries what every user whose password is known must do, and what it must not.
func (b *broker) rights(ctx context.Context) ([]Finding, error) {
	users := maps.Clone(b.Users)
	delete(users, sysUser)
	delete(users, "provision") // it may do everything
	if _, known := users[operator]; !known {
		if users == nil {
			users = map[string]seal.Secret{}
		}
		users[operator] = "" // as which we are here
	}
	names := slices.Sorted(maps.Keys(users))
	found := make([][]Finding, len(names))
	var running sync.WaitGroup
	for i, name := range names {
		running.Go(func() { found[i] = b.tryUser(ctx, name, users[name]) })
	}
	running.Wait()
	if all := slices.Concat(found...); len(all) > 0 {
		return all, nil
	}
	if len(names) == 1 {
		return ok("The user %s may do what it must, and no more. The services' users were not tried: NATS_PASSWORD_API and so on are not known here.",
			operator), nil
	}
	return ok("The users %s may do what they must, and no more.", strings.Join(names, ", ")), nil
}

func (b *broker) tryUser(ctx context.Context, name string, password seal.Secret) []Finding {
	const fix = "give the server the project's nats.conf and reload it (nats-server --signal reload)"
	user := name
	if name == operator && password == "" {
		user = "" // the very connection that the configuration says
	}
	need := needs(name)
	denied, err := b.try(ctx, user, password, rights{publish: append(slices.Clone(forbidden), need.publish...), subscribe: need.subscribe})
	if errors.Is(err, nats.ErrAuthorization) {
		return []Finding{failure("let NATS_PASSWORD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+" be what the server has, and reload it",
			"The user %s can't sign in at NATS: user or password is wrong.", name)}
	}
	if err != nil {
		return []Finding{failure(fix, "The rights of the user %s can't be tried: %v.", name, err)}
	}
	var found []Finding
	for _, subject := range need.publish {
		if slices.Contains(denied.publish, subject) {
			found = append(found, failure(fix, "The user %s may not publish to %s, which it must.", name, subject))
		}
	}
	for _, subject := range need.subscribe {
		if slices.Contains(denied.subscribe, subject) {
			found = append(found, failure(fix, "The user %s may not subscribe to %s, which it must.", name, subject))
		}
	}
	for _, subject := range forbidden {
		if !slices.Contains(denied.publish, subject) {
			found = append(found, warning(fix, "The user %s may publish to %s; only provision should.", name, subject))
		}
	}
	return found
}

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// asks are requests that change nothing however well they are formed.
var asks = regexp.MustCompile(`^\$JS\.API\.(INFO$|[A-Z]+\.(INFO|LIST))`)

// try publishes to every subject and returns those that the server refuses. What it lets through has no effect: a stream turns
// down what is for another stream, and the API a request that is no JSON.
func (b *broker) try(ctx context.Context, user string, password seal.Secret, wanted rights) (denied rights, err error) {
	closed := make(chan struct{})
	nc, err := b.dial(user, password,
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			switch m := violation.FindStringSubmatch(err.Error()); {
			case m == nil:
			case strings.EqualFold(m[1], "publish"):
				denied.publish = append(denied.publish, m[2])
			default:
				denied.subscribe = append(denied.subscribe, m[2])
			}
		}),
		// The client calls its handlers one after the other, this one last.
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
	)
	if err != nil {
		return rights{}, err
	}
	inbox := nc.NewRespInbox()
	for _, subject := range append(slices.Clone(wanted.subscribe), inbox) {
		if _, err := nc.SubscribeSync(subject); err != nil {
			nc.Close()
			return rights{}, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
	}
	for _, subject := range wanted.publish {
		msg := &nats.Msg{Subject: subject, Reply: inbox, Data: []byte("{"), Header: nats.Header{jetstream.ExpectedStreamHeader: {"FDC_DOCTOR"}}}
		if asks.MatchString(subject) {
			msg.Data = nil
		}
		if err := nc.PublishMsg(msg); err != nil {
			nc.Close()
			return rights{}, fmt.Errorf("publish to %s: %w", subject, err)
		}
	}
	err = nc.FlushWithContext(ctx) // the server answers in order: whatever it refused, it has said
	nc.Close()
	select {
	case <-closed:
		return denied, err
	case <-ctx.Done():
		return rights{}, ctx.Err()
	}
}
