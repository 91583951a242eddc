package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"fdc/events"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
)

const (
	// deadline is how long a request may take that is no stream and has no time of its own.
	deadline = 30 * time.Second
	// graceTime is how much longer the connection lives, for the answer that says so.
	graceTime = 5 * time.Second
)

// The values of headers that many answers carry. Shared between answers: never changed.
var (
	noSniff     = []string{"nosniff"}
	noReferrer  = []string{"no-referrer"}
	noContent   = []string{"default-src 'none'; frame-ancestors 'none'"}
	noStore     = []string{"no-store"}
	sameOrigin  = []string{"same-origin"}
	strictHTTPS = []string{"max-age=31536000; includeSubDomains"}
)

// serve is the way of every request: begin, the checks that the route's entry asks for, the handler, end.
func (a *api) serve(r *route) gin.HandlerFunc {
	a.prepare(r)
	return func(g *gin.Context) {
		c, ctx := a.begin(g, r)
		defer c.end()
		cancel := c.limitTime(ctx)
		defer cancel()
		if err := c.run(); err != nil {
			c.fail(err)
		}
	}
}

// prepare derives from the route's entry what all its requests share.
func (a *api) prepare(r *route) {
	if !r.charges {
		r.budget = a.budgets[r.limitKey()]
	}
	r.name = r.method + " " + r.path
	for i, class := range classes {
		// Not before there is such an answer: most routes never give most classes.
		r.took[i] = sync.OnceValue(func() prometheus.Observer {
			return a.requests.WithLabelValues(r.path, cmp.Or(r.method, "other"), class)
		})
	}
}

// serverSpan are the options of every request's span.
var serverSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}

// begin names the request, says who asks, and sets the headers that every answer has. The context is the request's, with
// its span.
func (a *api) begin(g *gin.Context, r *route) (*call, context.Context) {
	c := &call{api: a, gin: g, route: r, begun: time.Now(), client: a.clientOf(g.Request)}
	c.id, c.callerID = a.requestID(g.Request)
	ctx := g.Request.Context()
	if len(g.Request.Header["Traceparent"]) > 0 {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(g.Request.Header))
	}
	if c.span = trace.SpanFromContext(ctx); a.Tracer != nil {
		ctx, c.span = a.Tracer.Start(ctx, r.name, serverSpan...)
	}

	h := g.Writer.Header()
	h["X-Request-Id"] = []string{c.id}
	h["Cache-Control"] = noStore
	if a.PublicURL.Scheme == "https" {
		h["Strict-Transport-Security"] = strictHTTPS
	}
	if r.stream {
		c.protect() // push writes the answer
	}
	return c, ctx
}

// protect says what browsers may do with the answer. There is no X-Frame-Options: frame-ancestors has taken its place, and each
// header costs a hit on a cache a percent of its time.
func (c *call) protect() {
	h := c.gin.Writer.Header()
	h["X-Content-Type-Options"] = noSniff
	h["Content-Security-Policy"] = noContent
	if c.policy != nil {
		h["Content-Security-Policy"] = c.policy
	}
	h["Cross-Origin-Resource-Policy"] = sameOrigin
}

// run checks what the route's entry asks for and calls its handler. A panic in either is an error like others.
func (c *call) run() (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			err = &panicked{value: p, stack: debug.Stack()}
		}
	}()
	if disguised(c.request().URL) {
		return fault.Missing("path")
	}
	var crossOrigin, unauthenticated error
	if c.route.unsafe() {
		crossOrigin = c.api.crossOrigin.Check(c.request())
	}
	if !c.route.public {
		unauthenticated = c.authenticate()
	}
	if err := c.charge(unauthenticated); err != nil {
		return err
	}
	if crossOrigin != nil {
		return c.refuseCrossOrigin(crossOrigin)
	}
	if unauthenticated != nil {
		return unauthenticated
	}
	c.renew()
	for _, p := range c.gin.Params {
		if id := p.Key == "id" || strings.HasSuffix(p.Key, "Id"); id && !events.ValidID(p.Value) {
			return fault.Missing("object")
		}
	}
	if c.query, err = parseQuery(c.request().URL.RawQuery, c.route.query); err != nil {
		return err
	}
	if answered, err := c.checkReauth(); answered || err != nil {
		return err
	}
	err = c.route.handle(c.api, c)
	if fault.KindOf(err) == fault.Forbidden && c.user() != "" {
		c.recordDenied(identity.DeniedRole, c.workspaceID())
	}
	return err
}

// disguised reports whether the path hides a slash or a dot behind an escape. A proxy that decodes the path, or one that
// doesn't, would then see another path than the router.
func disguised(u *url.URL) bool {
	raw := strings.ToLower(u.RawPath) // empty unless the client escaped more than it had to
	return strings.Contains(raw, "%2f") || strings.Contains(raw, "%2e")
}

// panicked is what a handler threw.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// limitTime puts the request under the deadline, the reading of its body and the writing of its answer included, which
// NewServer limits for most. A stream gets neither the deadline nor the server's own.
func (c *call) limitTime(ctx context.Context) context.CancelFunc {
	cancel := context.CancelFunc(func() {})
	if !c.route.stream {
		ctx, cancel = withDeadline(ctx, c.begun.Add(cmp.Or(c.route.timeout, deadline)))
	}
	c.life = ctx
	if c.route.stream {
		c.gin.Request = c.request().WithContext(ctx) // push takes over the request
	}
	if c.route.stream || c.route.timeout > 0 {
		c.limitConnection()
	}
	return cancel
}

// limitConnection replaces the server's own limits for reading the request and writing its answer.
func (c *call) limitConnection() {
	var until time.Time
	if !c.route.stream {
		until = c.begun.Add(c.route.timeout + graceTime)
	}
	// A writer without deadlines (a test's recorder) has none to set: the context still ends the work.
	rc := http.NewResponseController(c.gin.Writer)
	if err := errors.Join(rc.SetReadDeadline(until), rc.SetWriteDeadline(until)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		c.api.Log.Debug().Err(err).Str("request_id", c.id).Msg("deadline not set")
	}
}

// end tells the log, the metrics and the trace how it went.
func (c *call) end() {
	status := c.status
	if status == 0 {
		status = c.gin.Writer.Status()
	}
	took := time.Since(c.begun)
	if !c.route.stream {
		c.route.took[status/100%len(classes)]().Observe(took.Seconds())
	}
	c.log(status, took)
	if c.span.IsRecording() {
		c.span.SetAttributes(
			attribute.String("http.request.method", c.route.method),
			attribute.String("http.route", c.route.path),
			attribute.Int("http.response.status_code", status),
			attribute.String("fdc.request_id", c.id),
		)
	}
	if status >= http.StatusInternalServerError {
		c.span.SetStatus(codes.Error, c.problemType)
	}
	c.span.End()
}

// classes are the values of the metric's label status.
var classes = [...]string{"", "1xx", "2xx", "3xx", "4xx", "5xx"}

// log writes the request's one line. It has no query string, no path values and no header values but the request id.
func (c *call) log(status int, took time.Duration) {
	level := zerolog.InfoLevel
	switch {
	case status == http.StatusServiceUnavailable, status < http.StatusInternalServerError && c.unrecorded != nil:
		level = zerolog.WarnLevel
	case status >= http.StatusInternalServerError:
		level = zerolog.ErrorLevel
	case c.route.tag == healthTag:
		level = zerolog.DebugLevel
	}
	line := c.api.Log.WithLevel(level).
		Str("method", c.request().Method).Str("route", c.route.path).Int("status", status).
		Int("bytes", max(0, c.gin.Writer.Size())).Dur("duration", took).Str("request_id", c.id)
	if c.callerID != "" {
		line = line.Str("callerRequestId", c.callerID)
	}
	if c.client.IsValid() {
		var ip [len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]byte
		line = line.Bytes("ip", c.client.AppendTo(ip[:0]))
	}
	if c.user() != "" {
		line = line.Str("user_id", c.user())
	}
	if c.problemType != "" {
		line = line.Str("problem", c.problemType)
	}
	if c.unrecorded != nil {
		line = line.AnErr("unrecorded", c.unrecorded)
	}
	if c.failure != nil {
		line = line.Err(c.failure)
		if p, ok := errors.AsType[*panicked](c.failure); ok {
			line = line.Bytes("stack", p.stack)
		}
	}
	line.Msg("request")
}

// requestID returns the request's id and, if it is a different one, the caller's. A trusted proxy names the requests that it
// forwards; ids of anybody else may repeat those of another tenant, so they never become ours. An id that is not plain is
// ignored.
func (a *api) requestID(r *http.Request) (ours, callers string) {
	id := r.Header.Get("X-Request-Id")
	if !plainID(id) {
		return events.NewID(), ""
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && a.trusts(plainAddr(peer.Addr())) {
		return id, ""
	}
	return events.NewID(), id
}

func plainID(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return 0 < len(s) && len(s) <= 64
}

// clientOf is the address that asks: the connection's, or, as long as that is a trusted proxy, the one before it in
// X-Forwarded-For. Whatever a client itself writes there counts only behind an address that is not trusted, so never.
func (a *api) clientOf(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	client := plainAddr(peer.Addr())
	if len(a.TrustedProxies) == 0 {
		return client
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !a.trusts(client) {
			break
		}
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		client = plainAddr(addr)
	}
	return client
}

func (a *api) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(a.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func plainAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }
