package gsync

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/ratelimit"
	"fdc/internal/platform/seal"
	"fdc/internal/task"
)

// OAuth is the client that FDC is at Google. Endpoint is empty for Google's own servers, else one base URL that serves
// OAuth, Tasks and Calendar.
type OAuth struct {
	ClientID     string      `env:"GOOGLE_CLIENT_ID,required,notEmpty"`
	ClientSecret seal.Secret `env:"GOOGLE_CLIENT_SECRET,required,notEmpty"`
	Endpoint     string      `env:"GOOGLE_ENDPOINT"`
}

// Validate names what is malformed.
func (o OAuth) Validate() error {
	if o.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("GOOGLE_ENDPOINT: want http://HOST:PORT or https://HOST")
	}
	if u.Scheme == "http" && !privateHost(u.Hostname()) {
		return fmt.Errorf("GOOGLE_ENDPOINT: http carries tokens in the clear, so the host must be loopback, a private address (RFC 1918, fc00::/7) or " +
			"a private name (without a dot, or under .localhost, .internal, .local, .lan or .home.arpa); use https for any other")
	}
	return nil
}

// privateHost reports whether an address, or a name by its form, is one that no public network leads to.
func privateHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		return ip.IsLoopback() || ip.IsPrivate()
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	if strings.Trim(name, "0123456789.") == "" || strings.HasPrefix(name, "0x") {
		return false // resolvers take it for an address, such as 134744072 for 8.8.8.8
	}
	if !strings.Contains(name, ".") {
		return true
	}
	return slices.ContainsFunc([]string{".localhost", ".internal", ".local", ".lan", ".home.arpa"}, func(suffix string) bool {
		return strings.HasSuffix(name, suffix)
	})
}

// Members says which role a user has in a workspace; fault.NotFound when none.
type Members interface {
	Role(ctx context.Context, q postgres.Querier, userID, workspaceID string) (string, error)
}

// Config is what a Service is made of.
type Config struct {
	Outbox  *outbox.Outbox
	OAuth   OAuth
	Keys    *seal.Keys
	Tasks   *task.Service
	Members Members
	Source  string                // of the events of background work, "/fdc/syncer"
	Version string                // for the User-Agent
	Webhook string                // the address that Google may post notifications to; empty: none is asked for
	Limiter *ratelimit.Limiter    // shares Google's quotas with other processes; without it none is kept to
	NATS    *nats.Conn            // for the progress of running jobs; without it none is told
	Log     zerolog.Logger        //
	Metrics prometheus.Registerer // where the metrics go; nowhere when nil

	// Transport carries the requests to Google; a pooled one with timeouts when nil.
	Transport http.RoundTripper
	// Backoff is the pause before the first repetition of a call; it doubles. 500 ms when zero.
	Backoff time.Duration
}

// Service is the feature's face: what users and the API ask of it. It is safe for concurrent use.
type Service struct {
	ob        *outbox.Outbox
	oauth     OAuth
	keys      *seal.Keys
	tasks     *task.Service
	members   Members
	source    string
	agent     string
	webhook   string
	limiter   *ratelimit.Limiter
	nc        *nats.Conn
	log       zerolog.Logger
	metrics   *metrics
	transport http.RoundTripper
	backoff   time.Duration
	eventPage int64
}

// New returns a Service. It dials nothing.
func New(c Config) *Service {
	c.OAuth.Endpoint = strings.TrimRight(c.OAuth.Endpoint, "/")
	if c.Source == "" {
		c.Source = "/fdc/syncer"
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	if c.Backoff == 0 {
		c.Backoff = 500 * time.Millisecond
	}
	return &Service{
		ob: c.Outbox, oauth: c.OAuth, keys: c.Keys, tasks: c.Tasks, members: c.Members, source: c.Source,
		agent: "fdc/" + c.Version, webhook: c.Webhook, limiter: c.Limiter, nc: c.NATS, log: c.Log, metrics: newMetrics(c.Metrics), transport: c.Transport,
		backoff: c.Backoff, eventPage: eventPage,
	}
}

// background is the circumstance of what the service does of its own accord for a user.
func (s *Service) background(userID, requestID string) events.Meta {
	return events.Meta{Source: s.source, ActorID: events.SystemActor, UserID: userID, RequestID: requestID}
}

// metrics count what jobs and Google do.
type metrics struct {
	jobs    *prometheus.CounterVec
	seconds prometheus.Histogram
	running prometheus.Gauge
	calls   *prometheus.CounterVec

	notifications *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gsync_runs_total", Help: "Runs of sync jobs by outcome.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gsync_run_seconds", Help: "Duration of a run of a sync job.",
			Buckets: prometheus.ExponentialBuckets(.01, 3, 10),
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gsync_running", Help: "Sync jobs running in this process.",
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gsync_google_requests_total", Help: "Requests to Google by status; 0 when there was no answer.",
		}, []string{"status"}),
		notifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gsync_notifications_total", Help: "Notifications that came in Google's name, by what was made of them.",
		}, []string{"outcome"}),
	}
	if reg != nil {
		reg.MustRegister(m.jobs, m.seconds, m.running, m.calls, m.notifications)
	}
	return m
}
