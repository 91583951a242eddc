package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"fdc/internal/audit"
	"fdc/internal/gsync"
	"fdc/internal/httpapi"
	"fdc/internal/identity"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/flags"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/ratelimit"
	"fdc/internal/platform/seal"
	"fdc/internal/push"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// APIConfig is the environment of cmd/api.
type APIConfig struct {
	Common
	Google gsync.OAuth
	Keys   KeyConfig

	HTTPAddr       string       `env:"HTTP_ADDR" envDefault:"127.0.0.1:8080"`
	PublicURL      PublicURL    `env:"PUBLIC_URL" envDefault:"http://127.0.0.1:8080"`
	TrustedProxies ProxyNetwork `env:"TRUSTED_PROXIES"`
	SyncAsync      bool         `env:"SYNC_ASYNC_MODE" envDefault:"true"`
	NoSessions     bool         `env:"DISABLE_SESSION_CACHE" envDefault:"false"`
	NoDocuments    bool         `env:"DISABLE_WORKSPACE_CACHE" envDefault:"false"`

	RateLimitFactor RateFactor `env:"RATE_LIMIT_FACTOR" envDefault:"1"`

	// Listener replaces HTTPAddr when the caller has opened it already.
	Listener net.Listener `env:"-"`
	// Wrap goes around the handler, if it is given.
	Wrap func(http.Handler) http.Handler `env:"-"`
}

// KeyConfig holds the keys that seal what is stored.
type KeyConfig struct {
	Master seal.Secret `env:"MASTER_ENCRYPTION_KEYS,required,notEmpty"`
}

// Validate names what is malformed.
func (c KeyConfig) Validate() error {
	if c.Master == "" {
		return nil // said already: required
	}
	if _, err := seal.ParseKeys(c.Master); err != nil {
		return fmt.Errorf("MASTER_ENCRYPTION_KEYS: %w", err)
	}
	return nil
}

// PublicURL is the address that browsers use: scheme and host.
type PublicURL struct{ *url.URL }

// UnmarshalText reads https://HOST or http://HOST:PORT.
func (p *PublicURL) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return errors.New("want https://HOST or http://HOST:PORT, nothing behind")
	}
	p.URL = u
	return nil
}

// webhook is the address that Google may post notifications to. It takes none that isn't https, but for an emulator.
func webhook(public PublicURL, google gsync.OAuth) string {
	if public.URL == nil || public.Scheme != "https" && google.Endpoint == "" {
		return ""
	}
	return public.JoinPath("/api/google/webhook").String()
}

// ProxyNetwork lists the networks whose X-Forwarded-For counts.
type ProxyNetwork []netip.Prefix

// UnmarshalText reads CIDRs separated by commas.
func (n *ProxyNetwork) UnmarshalText(text []byte) error {
	for entry := range strings.SplitSeq(string(text), ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			return errors.New("want CIDRs such as 10.0.0.0/8, separated by commas")
		}
		*n = append(*n, prefix)
	}
	return nil
}

// RateFactor multiplies every rate limit. Zero is 1: that of a config made in code that doesn't care.
type RateFactor float64

// UnmarshalText reads a number above 0.
func (f *RateFactor) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(n > 0) || n > MaxRateFactor {
		return fmt.Errorf("want a number above 0, at most %g", float64(MaxRateFactor))
	}
	*f = RateFactor(n)
	return nil
}

// MaxRateFactor keeps the counts far from overflowing; it is as good as no limit.
const MaxRateFactor = 1e6

// Garbage is how many bytes of garbage the api lets the collector wait for, while less than that is in use.
const Garbage = 64 << 20

// API runs the service from the environment. GOGC, when it is set there, is left alone.
func API(ctx context.Context, environ map[string]string) error {
	if environ["GOGC"] == "" {
		defer daemon.TuneCollector(Garbage)()
	}
	return Standalone("api", RunAPI)(ctx, environ)
}

// maxWait is how long a request waits for a connection to the database, each time that it needs one. A pool that is busy
// for longer doesn't keep up: the request's user is better off with an answer that says so.
const maxWait = time.Second

// farewell is how long the API may take to end: the hub's goodbyes, and then some for the requests in hand.
const farewell = push.Drain + 5*time.Second

// RunAPI serves HTTP and push, and takes its turn at relaying the outbox, until ctx ends.
func RunAPI(ctx context.Context, c APIConfig, r Runtime) error {
	listener := c.Listener
	if listener == nil {
		var err error
		if listener, err = Listen(ctx, c.HTTPAddr, "HTTP_ADDR"); err != nil {
			return err
		}
	}
	defer listener.Close() //nolint:errcheck // the server has closed it in an orderly end
	keys, err := seal.ParseKeys(c.Keys.Master)
	if err != nil {
		return fmt.Errorf("MASTER_ENCRYPTION_KEYS: %w", err)
	}
	c.Database.MaxWait = maxWait
	b, err := Connect(ctx, "api", c.Common, r)
	if err != nil {
		return Orderly(ctx, err)
	}
	defer b.Close()
	// Not for the rate limits: without their streams each node counts for itself.
	if _, err := bus.BindStream(ctx, b.JS, bus.Events, r.Waiting); err != nil {
		return Orderly(ctx, err)
	}
	bucket, err := bus.BindBucket(ctx, b.JS, bus.Flags, r.Waiting)
	if err != nil {
		return Orderly(ctx, err)
	}
	live := flags.New(bucket, r.Log)

	workspaces := workspace.New(b.Outbox)
	tasks := task.New(b.Outbox, workspaces)
	limiter := ratelimit.New(ratelimit.Config{NC: b.NATS, Log: r.Log, Metrics: r.Admin.Metrics, Follow: true})
	google := gsync.New(gsync.Config{
		Outbox: b.Outbox, OAuth: c.Google, Keys: keys, Tasks: tasks, Members: workspaces, Source: "/fdc/api", Version: Version,
		Webhook: webhook(c.PublicURL, c.Google), Limiter: limiter,
		NATS: b.NATS, Log: r.Log, Metrics: r.Admin.Metrics,
	})
	r.Admin.Metrics.MustRegister(outbox.BacklogMetrics(b.Pool))
	users := identity.New(b.Outbox, workspaces, gsync.Access{})
	var documents *httpapi.Documents
	if !c.NoDocuments {
		near, err := nearConfig(ctx, b, r, keys, bus.WorkspaceData)
		if err == nil {
			documents, err = httpapi.NewDocuments(workspaces, near)
		}
		if err != nil {
			return Orderly(ctx, err)
		}
	}
	var sessions *identity.Cache
	if !c.NoSessions {
		near, err := nearConfig(ctx, b, r, keys, bus.Sessions)
		if err == nil {
			sessions, err = identity.NewCache(b.Pool, near)
		}
		if err != nil {
			return Orderly(ctx, err)
		}
		users.UseCache(sessions, func() bool { return live.Enabled(flags.SessionCache) })
	}
	hub := push.New(b.JS, b.NATS, r.Log, r.Admin.Metrics)
	hub.UseSessions(users.Ended)
	relay := outbox.NewRelay(c.Database, b.JS, r.Log, r.Admin.Metrics)
	var tracer trace.Tracer
	if c.Telemetry.Endpoint != "" {
		tracer = otel.Tracer("fdc/internal/httpapi")
	}
	handler := httpapi.New(httpapi.Config{ //nolint:contextcheck // handlers have the context of their requests
		Identity: users, Workspaces: workspaces, Tasks: tasks, Google: google, Audit: audit.NewLog(b.Outbox), Push: hub, Documents: documents,
		Keys: keys, PublicURL: c.PublicURL.URL, TrustedProxies: c.TrustedProxies, SyncAsync: c.SyncAsync, Flags: live,
		Tracer: tracer, Limiter: limiter, RateLimitFactor: float64(c.RateLimitFactor),
		Status: func(ctx context.Context) (any, error) { return ReadStatus(ctx, b.JS, b.Pool, nil) }, Gather: r.Admin.Gather,
		Checks: b.checks, Log: r.Log, Metrics: r.Admin.Metrics,
	})

	if c.Wrap != nil {
		handler = c.Wrap(handler)
	}

	// The relay and the limiter outlive the last request, which they publish and count.
	relayCtx, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return relay.Run(relayCtx) })
	group.Go(func() error { return limiter.Run(relayCtx) })
	group.Go(func() error { return runHub(groupCtx, hub, farewell) })
	group.Go(func() error { return live.Run(groupCtx) })
	group.Go(func() error { return users.Run(groupCtx, "/fdc/api", r.Log) })
	group.Go(func() error { return workspaces.Run(groupCtx, "/fdc/api", r.Log) })
	if documents != nil {
		group.Go(func() error { return documents.Run(groupCtx) })
	}
	if sessions != nil {
		group.Go(func() error { return sessions.Run(groupCtx) })
	}
	group.Go(func() error {
		defer stopRelay()
		// Before, a socket would be refused, and a flag that is off count as on.
		for _, ready := range []<-chan struct{}{hub.Ready(), live.Ready()} {
			select {
			case <-ready:
			case <-groupCtx.Done():
				return nil
			}
		}
		r.Admin.Ready()
		r.Log.Info().Str("addr", listener.Addr().String()).Msg("serving")
		return daemon.ServeHTTP(groupCtx, httpapi.NewServer(handler, r.Log), listener, farewell)
	})
	return group.Wait()
}

// runHub runs the hub and gives it a time for its end. The server's own deadline doesn't do that: it doesn't know WebSockets.
func runHub(ctx context.Context, hub *push.Hub, grace time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		hub.Cut()
		return <-ended
	}
}

// nearBytes is how much of the process's memory each near layer may take.
const nearBytes = 64 << 20

// nearConfig is what a cache of a bucket needs.
func nearConfig(ctx context.Context, b *Backends, r Runtime, keys *seal.Keys, bucket string) (nearcache.Config, error) {
	signer, err := keys.Signer("cache")
	if err != nil {
		return nearcache.Config{}, err
	}
	kv, err := bus.BindBucket(ctx, b.JS, bucket, r.Waiting)
	return nearcache.Config{
		KV: kv, Signer: signer, JS: b.JS, NATS: b.NATS, MaxBytes: nearBytes, Log: r.Log, Metrics: r.Admin.Metrics,
	}, err
}

// lateOutbox is the age at which the outbox counts as not draining.
const lateOutbox = 30 * time.Second

// checks asks everything that the API depends on.
func (b *Backends) checks(ctx context.Context) map[string]error {
	answers := map[string]error{"postgres": postgres.Fault(b.Pool.Ping(ctx)), "nats": connected(b.NATS)}
	age, err := outbox.Age(ctx, b.Pool)
	if err == nil && age > lateOutbox {
		err = fmt.Errorf("the oldest event has waited for %s", age.Round(time.Second))
	}
	answers["outbox"] = postgres.Fault(err)
	answers["events"] = b.eventsStream(ctx)
	return answers
}

// eventsStream reports what keeps events from being stored, such as a NATS server that lost its disk.
func (b *Backends) eventsStream(ctx context.Context) error {
	_, err := b.JS.Stream(ctx, bus.Events)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fault.Wrap(err, fault.Unavailable, "", "The stream "+bus.Events+" does not exist; `fdc migrate` creates it.")
	}
	if err != nil {
		return fmt.Errorf("look for the stream %s: %w", bus.Events, err)
	}
	return nil
}
