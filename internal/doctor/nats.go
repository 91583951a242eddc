package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/seal"
)

// minServer is the oldest nats-server that has all that is used: atomic batches, counters, asynchronous buckets.
const minServer = "2.12"

// broker is a connection to NATS as the operator.
type broker struct {
	Config
	nc *nats.Conn
	js jetstream.JetStream
}

func (c Config) examineNATS(ctx context.Context) []Finding {
	opened := make(chan *broker, 1) // one that is opened after it was given up stays here
	found := c.run(ctx, check{"nats", func(ctx context.Context) ([]Finding, error) { return c.connect(ctx, opened) }})
	var b *broker
	select {
	case b = <-opened:
		defer b.nc.Close()
	default:
		if c.ArchiveURL != "" && !strings.HasPrefix(c.ArchiveURL, "nats://") {
			found = append(found, c.run(ctx, check{"archive", (&broker{Config: c}).archive})...)
		}
		return found
	}
	return append(found, c.run(ctx,
		check{"nats-clock", b.clock}, check{"nats-rights", b.rights}, check{"nats-disk", b.disk}, check{"streams", b.streams},
		check{"consumers", b.consumers}, check{"buckets", b.buckets}, check{"lag", b.lag}, check{"dead-letters", b.deadLetters},
		check{"archive", b.archive},
	)...)
}

// dial connects as a user; an empty one is whoever the configuration says.
func (c Config) dial(user string, password seal.Secret, extra ...nats.Option) (*nats.Conn, error) {
	config := c.Bus
	if user != "" {
		config = bus.Config{URL: withoutUser(config.URL), User: user, Password: password, Replicas: config.Replicas}
	}
	extra = append(extra, nats.Name("fdc-doctor"), nats.RetryOnFailedConnect(false), nats.Timeout(c.Patience), nats.NoReconnect())
	return bus.Connect(config, "ops", zerolog.Nop(), extra...)
}

// withoutUser takes user and password out of a list of URLs.
func withoutUser(list string) string {
	var urls []string
	for one := range strings.SplitSeq(list, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil {
			u.User = nil
			one = u.String()
		}
		urls = append(urls, one)
	}
	return strings.Join(urls, ",")
}

func (c Config) connect(ctx context.Context, opened chan<- *broker) ([]Finding, error) {
	nc, err := c.dial("", "")
	if err != nil {
		fix := "start it, or set NATS_URL to where it listens"
		if errors.Is(err, nats.ErrAuthorization) {
			fix = "set NATS_USER and NATS_PASSWORD to the user ops of nats.conf"
		}
		return []Finding{failure(fix, "NATS can't be reached, so that nothing in it was examined: %v.", err)}, nil
	}
	js, err := bus.JetStream(nc)
	if err == nil {
		err = bus.Reachable(ctx, nc, js)
	}
	if err != nil {
		nc.Close()
		return []Finding{failure("start the server from nats.conf", "NATS has no JetStream for us, so that nothing in it was examined: %v.", err)}, nil
	}
	version := nc.ConnectedServerVersion()
	opened <- &broker{Config: c, nc: nc, js: js}
	if older(version, minServer) {
		return []Finding{failure("run nats-server "+minServer+" or newer", "nats-server %s is too old.", version)}, nil
	}
	return ok("nats-server %s (%s) answers in %s.", version, nc.ConnectedServerName(), roundTrip(nc)), nil
}

func roundTrip(nc *nats.Conn) string {
	took, err := nc.RTT()
	if err != nil {
		return "unknown time"
	}
	return took.Round(10 * time.Microsecond).String()
}

// older compares the first two numbers of two versions.
func older(version, than string) bool {
	var a, b [2]int
	if _, err := fmt.Sscanf(version, "%d.%d", &a[0], &a[1]); err != nil {
		return false // a version of somebody's own making
	}
	if _, err := fmt.Sscanf(than, "%d.%d", &b[0], &b[1]); err != nil {
		return false
	}
	return a[0] < b[0] || a[0] == b[0] && a[1] < b[1]
}

func (b *broker) clock(ctx context.Context) ([]Finding, error) {
	before := b.Now()
	answer, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+bus.Events, nil)
	after := b.Now()
	if err != nil {
		return nil, fmt.Errorf("ask NATS for its time: %w", err)
	}
	var info struct {
		Time time.Time `json:"ts"`
	}
	if err := json.Unmarshal(answer.Data, &info); err != nil {
		return nil, fmt.Errorf("read the answer of NATS: %w", err)
	}
	if info.Time.IsZero() { // without its stream; that is the finding of another check
		return ok("The clock was not asked for: the stream %s is missing.", bus.Events), nil
	}
	return clock(info.Time, before, after, "NATS"), nil
}

func (b *broker) streams(ctx context.Context) ([]Finding, error) {
	declared := bus.Streams(b.Bus.Replicas)
	drifts, err := bus.StreamDrift(ctx, b.js, declared)
	if err != nil {
		return nil, err
	}
	return drifted("stream", drifts, len(declared)), nil
}

func (b *broker) buckets(ctx context.Context) ([]Finding, error) {
	declared := bus.Buckets(b.Bus.Replicas)
	drifts, err := bus.StreamDrift(ctx, b.js, declared)
	if err != nil {
		return nil, err
	}
	for i := range drifts {
		drifts[i].Name = strings.TrimPrefix(drifts[i].Name, "KV_")
	}
	return drifted("bucket", drifts, len(declared)), nil
}

func (b *broker) consumers(ctx context.Context) ([]Finding, error) {
	if _, err := b.js.Stream(ctx, bus.Events); errors.Is(err, jetstream.ErrStreamNotFound) {
		return ok("Not examined: their stream %s is missing.", bus.Events), nil
	}
	drifts, err := bus.ConsumerDrift(ctx, b.js, b.Bus.Replicas)
	if err != nil {
		return nil, err
	}
	return drifted("consumer", drifts, len(bus.Consumers())), nil
}

func drifted(what string, drifts []bus.Drift, declared int) []Finding {
	if len(drifts) == 0 {
		return ok("All %d %ss are as declared.", declared, what)
	}
	const migrate = "run fdc migrate, as the user provision"
	var found []Finding
	for _, d := range drifts {
		switch {
		case d.Missing():
			found = append(found, failure(migrate, "The %s %s is missing.", what, d.Name))
		case d.Field == "pause_until":
			found = append(found, failure("nats consumer resume "+bus.Events+" "+d.Name+", as the user provision",
				"The %s %s is paused until %s.", what, d.Name, d.Have))
		default:
			found = append(found, warning(migrate, "The %s %s has %s %s instead of %s.", what, d.Name, d.Field, d.Have, d.Want))
		}
	}
	return found
}

// lagFailure is how many times over an event may be late until that is an error.
const lagFailure = 10

func (b *broker) lag(ctx context.Context) ([]Finding, error) {
	stream, err := b.js.Stream(ctx, bus.Events)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ok("Not examined: the stream %s is missing.", bus.Events), nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for stream %s: %w", bus.Events, err)
	}
	var found []Finding
	waiting := uint64(0)
	for _, declared := range bus.Consumers() {
		consumer, err := stream.Consumer(ctx, declared.Name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue // the finding of another check
		}
		if err != nil {
			return nil, fmt.Errorf("ask for consumer %s: %w", declared.Name, err)
		}
		info := consumer.CachedInfo()
		open := info.NumPending + uint64(info.NumAckPending) //nolint:gosec // not negative
		waiting += open
		if open == 0 {
			continue
		}
		age, err := oldest(ctx, stream, info)
		if err != nil {
			return nil, err
		}
		fix := "see the log and /readyz of " + declared.Name + "; start more copies of it when it only is slow"
		who := ""
		if info.NumWaiting == 0 && info.NumAckPending == 0 {
			who = ", and nobody fetches them: no copy of the service is running"
			fix = "start " + declared.Name
		}
		if f := graded(age.Seconds(), b.Late.Seconds(), lagFailure*b.Late.Seconds(), fix, "The consumer %s has %d events before it, the oldest for %s%s.",
			declared.Name, open, age.Round(time.Second), who); f.Status != OK {
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		found = ok("No consumer is late; %d events are on their way.", waiting)
	}
	return found, nil
}

// oldest is the age of the first event that the consumer has not finished with, by the server's clock; zero when it has meanwhile.
func oldest(ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo) (time.Duration, error) {
	filters := info.Config.FilterSubjects
	if info.Config.FilterSubject != "" {
		filters = []string{info.Config.FilterSubject}
	}
	if len(filters) == 0 {
		filters = []string{">"}
	}
	var age time.Duration
	for _, subject := range filters {
		msg, err := stream.GetMsg(ctx, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look for the oldest event before %s: %w", info.Name, err)
		}
		age = max(age, info.TimeStamp.Sub(msg.Time))
	}
	return age, nil
}

func (b *broker) deadLetters(ctx context.Context) ([]Finding, error) {
	stream, err := b.js.Stream(ctx, bus.Dead)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ok("Not examined: the stream %s is missing.", bus.Dead), nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for stream %s: %w", bus.Dead, err)
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return ok("No dead letters wait."), nil
	}
	return []Finding{warning("fdc dlq list shows why; then fdc dlq requeue, or discard", "%d dead letters wait, the oldest since %s.",
		state.Msgs, state.FirstTime.UTC().Format(time.RFC3339))}, nil
}
