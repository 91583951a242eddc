package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/internal/platform/seal"
)

// Config is how to reach NATS. An empty User means the service's own name.
type Config struct {
	URL      string      `env:"NATS_URL" envDefault:"nats://127.0.0.1:4222"`
	User     string      `env:"NATS_USER"`
	Password seal.Secret `env:"NATS_PASSWORD"`
	Creds    string      `env:"NATS_CREDS"`
	Replicas int         `env:"NATS_REPLICAS" envDefault:"1"`
}

// Validate names what is malformed.
func (c Config) Validate() error {
	var errs []error
	for one := range strings.SplitSeq(c.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		switch {
		case err != nil:
			errs = append(errs, errors.New("NATS_URL: not a URL")) // err would repeat a password
		case u.Scheme != "nats" && u.Scheme != "tls" && u.Scheme != "ws" && u.Scheme != "wss", u.Host == "":
			errs = append(errs, errors.New("NATS_URL: want nats://HOST:PORT or tls://HOST:PORT, several separated by commas"))
		}
	}
	if c.Creds != "" {
		if _, err := os.Stat(c.Creds); err != nil {
			errs = append(errs, fmt.Errorf("NATS_CREDS: %w", err))
		}
	}
	if c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		errs = append(errs, fmt.Errorf("NATS_REPLICAS: %d is not 1, 3 or 5", c.Replicas))
	}
	return errors.Join(errs...)
}

// Connect opens a connection for the named service. It returns at once even when no server answers: the connection
// goes on trying, and Bind says what is missing. Wrong credentials are retried like an absent server.
func Connect(c Config, service string, log zerolog.Logger, extra ...nats.Option) (*nats.Conn, error) {
	user := c.User
	if user == "" {
		user = service
	}
	opts := []nats.Option{
		nats.Name("fdc-" + service),
		// Replies to one user can't be read by another: its permissions end at this prefix.
		nats.CustomInboxPrefix(InboxPrefix(user)),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ReconnectBufSize(-1),
		nats.Timeout(5 * time.Second),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DrainTimeout(10 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil when we closed it
				log.Warn().Err(err).Msg("nats disconnected")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info().Str("server", nc.ConnectedServerName()).Msg("nats connected again")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			event := log.Error().Err(err)
			if sub != nil {
				event = event.Str("subject", sub.Subject)
			}
			event.Msg("nats error")
		}),
	}
	switch {
	case c.Creds != "":
		opts = append(opts, nats.UserCredentials(c.Creds))
	case !strings.Contains(c.URL, "@"):
		opts = append(opts, nats.UserInfo(user, c.Password.Reveal()))
	}
	nc, err := nats.Connect(c.URL, append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS as %s: %w", user, err)
	}
	return nc, nil
}

// InboxPrefix is where a user's replies arrive. The user ops keeps the client's default, so that any NATS tool works.
func InboxPrefix(user string) string {
	if user == "ops" {
		return "_INBOX"
	}
	return "_INBOX_" + user
}

// reconnectDelay is exponential from 50 ms to 2 s with full jitter, so that a restarted server isn't met by everybody
// at the same moment.
func reconnectDelay(attempts int) time.Duration {
	ceiling := min(50*time.Millisecond<<min(attempts, 6), 2*time.Second)
	return 10*time.Millisecond + rand.N(ceiling) //nolint:gosec // jitter is no secret
}

// JetStream returns the JetStream API of a connection.
func JetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return js, nil
}

// BindStream waits until the stream exists.
func BindStream(ctx context.Context, js jetstream.JetStream, name string, waiting func(what string)) (jetstream.Stream, error) {
	return await(ctx, "stream "+name, waiting, func(ctx context.Context) (jetstream.Stream, error) {
		return js.Stream(ctx, name)
	})
}

// BindConsumer waits until the durable consumer exists on EVENTS.
func BindConsumer(ctx context.Context, js jetstream.JetStream, name string, waiting func(what string)) (jetstream.Consumer, error) {
	return await(ctx, "consumer "+name, waiting, func(ctx context.Context) (jetstream.Consumer, error) {
		return js.Consumer(ctx, Events, name)
	})
}

// BindQueue waits until the durable consumer exists on Replay.
func BindQueue(ctx context.Context, js jetstream.JetStream, name string, waiting func(what string)) (jetstream.Consumer, error) {
	return await(ctx, "consumer "+name+" of "+Replay, waiting, func(ctx context.Context) (jetstream.Consumer, error) {
		return js.Consumer(ctx, Replay, name)
	})
}

// BindBucket waits until the bucket exists.
func BindBucket(ctx context.Context, js jetstream.JetStream, name string, waiting func(what string)) (jetstream.KeyValue, error) {
	return await(ctx, "bucket "+name, waiting, func(ctx context.Context) (jetstream.KeyValue, error) {
		return js.KeyValue(ctx, name)
	})
}

// await asks until there is an answer or the context ends. Every failure is worth waiting out: an absent server, an
// absent stream and an absent right all look like "not yet" while a deployment is under way.
func await[T any](ctx context.Context, what string, waiting func(string), ask func(context.Context) (T, error)) (T, error) {
	for attempt := 0; ; attempt++ {
		askCtx, cancel := context.WithTimeout(ctx, 2*time.Second)
		got, err := ask(askCtx)
		cancel()
		if err == nil {
			return got, nil
		}
		if waiting != nil && attempt%10 == 0 {
			waiting(what + ": " + err.Error())
		}
		select {
		case <-ctx.Done():
			var none T
			return none, fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-time.After(200*time.Millisecond + reconnectDelay(attempt)):
		}
	}
}

// Unreachable reports whether err says that NATS is away or slow, so that the same call may succeed later.
func Unreachable(err error) bool {
	for _, e := range []error{
		nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, nats.ErrNoServers, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
