package httpapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/trace"

	"fdc/internal/audit"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/flags"
	"fdc/internal/platform/ratelimit"
	"fdc/internal/platform/seal"
	"fdc/internal/push"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// Config is what the API needs. Everything is required but Documents, TrustedProxies, Tracer, RateLimitFactor, Flags, Status, Gather
// and Checks.
type Config struct {
	Identity   *identity.Service
	Workspaces *workspace.Service
	Tasks      *task.Service
	Google     *gsync.Service
	Audit      *audit.Log
	Push       *push.Hub
	Documents  *Documents // nil: every read goes to the database
	Keys       *seal.Keys // for the cookie of a sign-in under way
	Limiter    *ratelimit.Limiter

	PublicURL      *url.URL // scheme and host as browsers see them
	TrustedProxies []netip.Prefix
	SyncAsync      bool         // false: POST /api/google/sync runs the sync before it answers
	Flags          *flags.Flags // nil: all on

	Tracer trace.Tracer // nil: no spans

	RateLimitFactor float64 // multiplies every rate limit; 1 when zero

	// Status is what the operators' page shows of the whole system: what `fdc status --json` prints. Gather is what it shows of this
	// process. Without them there is no such page.
	Status func(context.Context) (any, error)
	Gather prometheus.Gatherer

	// Checks asks every dependency and returns what each one answered, nil for well.
	Checks  func(context.Context) map[string]error
	Log     zerolog.Logger
	Metrics prometheus.Registerer
}

// api is the Config and what New derives from it.
type api struct {
	Config
	origin      string // of PublicURL
	sessionName string // of the session's cookie
	signInName  string // the beginning of the names of sign-ins' cookies
	crossOrigin *http.CrossOriginProtection
	requests    *prometheus.HistogramVec
	budgets     map[string]*budget // by key
	lookups     *lookups
	document    []byte // openapi.json
	encoders    encoders
	site        *site
	health      *recentChecks
	pagePolicy  []string // Content-Security-Policy of pages
}

// New returns the handler of everything under /api, and of the pages. It registers its metrics and panics where the program contradicts
// itself (two routes at one path, a DTO that JSON Schema can't describe, metrics registered twice).
func New(cfg Config) http.Handler { return newAPI(cfg).router(routes()) }

func newAPI(cfg Config) *api {
	a := &api{
		Config: cfg,
		origin: originOf(cfg.PublicURL),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_seconds", Help: "Time to answer, by route, method and class of status.",
			Buckets: prometheus.ExponentialBuckets(.0005, 2.5, 12),
		}, []string{"route", "method", "status"}),
		budgets:     newBudgets(cfg.RateLimitFactor),
		lookups:     newLookups(),
		crossOrigin: http.NewCrossOriginProtection(),
		encoders:    newEncoders(),
		site:        theSite(),
		health:      newRecentChecks(),
	}
	a.pagePolicy = pagePolicy(a.origin)
	a.sessionName, a.signInName = a.cookieName(sessionCookie), a.cookieName(signInCookie)
	cfg.Metrics.MustRegister(a.requests)
	// Behind a proxy the Host header may be an inner name, so that the protection itself can't recognise our own origin.
	if err := a.crossOrigin.AddTrustedOrigin(a.origin); err != nil {
		panic("httpapi: PublicURL: " + err.Error())
	}
	return a
}

// originOf is a URL's origin as browsers write it: lower case, without the scheme's own port.
func originOf(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if port := map[string]string{"http": ":80", "https": ":443"}[scheme]; port != "" {
		host = strings.TrimSuffix(host, port)
	}
	return scheme + "://" + host
}

func (a *api) router(table []route) http.Handler {
	a.document = document(table, a.origin, a.sessionName)
	gin.SetMode(gin.ReleaseMode) // or Gin prints every route
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false
	noRoute := a.serve(&route{path: "none", public: true, handle: func(*api, *call) error {
		return fault.Missing("path")
	}})
	shared := make(map[string]map[string]gin.HandlerFunc) // by method and Gin's path: those that an action tells apart
	for i := range table {
		if r := &table[i]; r.action() != "" {
			shared[r.method+" "+r.ginPath()] = make(map[string]gin.HandlerFunc)
		}
	}
	for i := range table {
		r := &table[i]
		handle := a.serve(r)
		if actions := shared[r.method+" "+r.ginPath()]; actions != nil {
			actions[r.action()] = handle
			if len(actions) > 1 {
				continue
			}
			handle = byAction(actions, noRoute)
		}
		engine.Handle(r.method, r.ginPath(), handle)
		if r.method == http.MethodGet && !r.stream {
			engine.Handle(http.MethodHead, r.ginPath(), a.serve(r)) // net/http leaves the body out
		}
	}
	engine.NoRoute(noRoute)
	engine.NoMethod(a.serve(&route{path: "none", public: true, handle: func(*api, *call) error {
		return errNoMethod
	}}))
	return engine
}

// byAction chooses the handler by the action behind the last path parameter, {id}:action, which Gin takes for a part of the
// parameter's value.
func byAction(actions map[string]gin.HandlerFunc, noRoute gin.HandlerFunc) gin.HandlerFunc {
	return func(g *gin.Context) {
		last := &g.Params[len(g.Params)-1]
		id, verb, _ := strings.Cut(last.Value, ":")
		handle := actions[verb]
		if handle == nil {
			noRoute(g)
			return
		}
		last.Value = id
		handle(g)
	}
}

// NewServer returns a server for New's handler, which lifts the timeouts for streams and for what may take longer. Its Shutdown does not know hijacked connections: push.Hub closes those.
func NewServer(h http.Handler, logger zerolog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       deadline + graceTime,
		WriteTimeout:      deadline + graceTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          newServerLog(logger),
	}
}
