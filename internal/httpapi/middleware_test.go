package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/ratelimit"
)

// bareAPI is an api without features, for routes made up by a test.
func bareAPI(t *testing.T, log io.Writer) (*api, *prometheus.Registry) {
	t.Helper()
	metrics := prometheus.NewRegistry()
	return newAPI(Config{
		PublicURL: &url.URL{Scheme: "https", Host: "fdc.example"}, Log: zerolog.New(log), Metrics: metrics, Limiter: bareLimiter(metrics),
		RateLimitFactor: 1e6,
	}), metrics
}

// bareLimiter counts by itself: its connection was never opened.
func bareLimiter(metrics prometheus.Registerer) *ratelimit.Limiter {
	return ratelimit.New(ratelimit.Config{NC: new(nats.Conn), Log: zerolog.Nop(), Metrics: metrics})
}

func made(handle func(*api, *call) error) route {
	return route{method: http.MethodGet, path: "/api/made", id: "made", tag: "made", public: true, handle: handle}
}

func ask(t *testing.T, h http.Handler, method, target string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func problemIn(t *testing.T, resp *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	require.Equal(t, problemMedia, resp.Header().Get("Content-Type"))
	var p map[string]any
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&p))
	require.Equal(t, float64(resp.Code), p["status"])
	require.Equal(t, resp.Header().Get("X-Request-Id"), p["requestId"])
	return p
}

func TestPanicIsAProblemWithItsStackInTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a, _ := bareAPI(t, &log)
	h := a.router([]route{made(func(*api, *call) error { panic("hunter2") })})
	resp := ask(t, h, http.MethodGet, "/api/made?code=s3cret", nil)
	require.Equal(t, http.StatusInternalServerError, resp.Code)
	require.NotContains(t, problemIn(t, resp)["detail"], "hunter2")
	require.Contains(t, log.String(), "panic: hunter2")
	require.Contains(t, log.String(), "middleware_test.go")
	require.NotContains(t, log.String(), "s3cret")
	require.Equal(t, 1, strings.Count(log.String(), "\n"))
}

func TestAbortHandlerPassesThrough(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	h := a.router([]route{made(func(*api, *call) error { panic(http.ErrAbortHandler) })})
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { ask(t, h, http.MethodGet, "/api/made", nil) })
}

func TestErrorAfterTheAnswerIsOnlyLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a, _ := bareAPI(t, &log)
	h := a.router([]route{made(func(_ *api, c *call) error {
		return errors.Join(c.json(http.StatusOK, map[string]int{"a": 1}), errors.New("too late"))
	})})
	resp := ask(t, h, http.MethodGet, "/api/made", nil)
	require.Equal(t, http.StatusOK, resp.Code)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.JSONEq(t, `{"a":1}`, string(body))
	require.Contains(t, log.String(), "too late")
}

func TestClientThatLeftIsNoFailure(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a, metrics := bareAPI(t, &log)
	h := a.router([]route{made(func(_ *api, c *call) error { return c.ctx().Err() })})
	ctx, leave := context.WithCancel(t.Context())
	leave()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/made", nil))
	require.Empty(t, w.Body.String())
	require.Contains(t, log.String(), `"status":499`)
	require.Contains(t, log.String(), `"level":"info"`)
	families, err := metrics.Gather()
	require.NoError(t, err)
	require.Contains(t, families[0].String(), `value:"4xx"`)
	require.NotContains(t, families[0].String(), `value:"5xx"`)
}

func TestDeadlineIsAProblem(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	r := made(func(_ *api, c *call) error {
		<-c.ctx().Done()
		return fmt.Errorf("query: %w", c.ctx().Err())
	})
	r.timeout = 10 * time.Millisecond
	other := made(func(_ *api, c *call) error {
		until, ok := c.ctx().Deadline()
		require.True(t, ok)
		require.WithinDuration(t, time.Now().Add(deadline), until, 5*time.Second)
		return c.empty(http.StatusNoContent)
	})
	other.path, other.id = "/api/other", "other"
	h := a.router([]route{r, other})
	require.Equal(t, http.StatusNoContent, ask(t, h, http.MethodGet, "/api/other", nil).Code)
	resp := ask(t, h, http.MethodGet, "/api/made", nil)
	require.Equal(t, http.StatusServiceUnavailable, resp.Code)
	require.Equal(t, "1", resp.Header().Get("Retry-After"))
	require.Equal(t, "urn:fdc:problem:timeout", problemIn(t, resp)["type"])
}

func TestStreamsHaveNoDeadline(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	r := made(func(_ *api, c *call) error {
		_, ok := c.ctx().Deadline()
		require.False(t, ok)
		return c.empty(http.StatusNoContent)
	})
	r.stream = true
	require.Equal(t, http.StatusNoContent, ask(t, a.router([]route{r}), http.MethodGet, "/api/made", nil).Code)
}

func TestProblemDropsWhatTheHandlerPromised(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	h := a.router([]route{made(func(_ *api, c *call) error {
		c.setHeader("ETag", `"7"`)
		c.setHeader("Location", "/x")
		c.setHeader("Cache-Control", "public")
		return fault.Missing("thing")
	})})
	resp := ask(t, h, http.MethodGet, "/api/made", nil)
	require.Empty(t, resp.Header().Get("ETag"))
	require.Empty(t, resp.Header().Get("Location"))
	require.Equal(t, "no-store", resp.Header().Get("Cache-Control"))
}

func TestEveryAnswerHasTheHeaders(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	h := a.router([]route{made(func(_ *api, c *call) error { return c.empty(http.StatusNoContent) })})
	for _, target := range []string{"/api/made", "/api/unknown", "/"} {
		resp := ask(t, h, http.MethodGet, target, nil)
		for name, want := range map[string]string{
			"X-Content-Type-Options":  "nosniff",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control": "no-store", "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
		} {
			require.Equal(t, want, resp.Header().Get(name), name)
		}
		require.Len(t, resp.Header().Get("X-Request-Id"), 36)
	}
}

func TestRedirectsTellNoReferrer(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	h := a.router([]route{made(func(_ *api, c *call) error { return c.redirect("/elsewhere") })})
	resp := ask(t, h, http.MethodGet, "/api/made?code=secret", nil)
	require.Equal(t, http.StatusFound, resp.Code)
	require.Equal(t, "no-referrer", resp.Header().Get("Referrer-Policy"))
	require.Equal(t, "nosniff", resp.Header().Get("X-Content-Type-Options"))
}

func TestNotModifiedIsShort(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	h := a.router([]route{made(func(_ *api, c *call) error {
		c.setHeader("ETag", `"7"`)
		return c.empty(http.StatusNotModified)
	})})
	resp := ask(t, h, http.MethodGet, "/api/made", nil)
	require.Equal(t, http.StatusNotModified, resp.Code)
	require.ElementsMatch(t,
		[]string{"Etag", "Cache-Control", "X-Request-Id", "Strict-Transport-Security", headerPolicy, headerLimit},
		slices.Collect(maps.Keys(resp.Header())))
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	h := a.router([]route{made(func(_ *api, c *call) error {
		c.setHeader("Kept", c.meta().CallerRequestID)
		return c.empty(http.StatusNoContent)
	})})
	for given, kept := range map[string]bool{
		"abc-1_2.X": true, strings.Repeat("a", 64): true,
		"": false, strings.Repeat("a", 65): false, "a b": false, "a\nb": false, "é": false, "<x>": false, `a"b`: false, "a/b": false,
	} {
		header := ask(t, h, http.MethodGet, "/api/made", http.Header{"X-Request-Id": {given}}).Header()
		require.Len(t, header.Get("X-Request-Id"), 36, "%q", given)
		if !kept {
			given = ""
		}
		require.Equal(t, given, header.Get("Kept"))
	}
}

func TestRequestIDOfATrustedProxy(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	a.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for peer, trusted := range map[string]bool{
		"10.1.2.3:4000": true, "[::ffff:10.1.2.3]:4000": true, "192.0.2.7:4000": false, "": false, "@": false,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = peer
		r.Header.Set("X-Request-Id", "theirs")
		r.Header.Set("X-Forwarded-For", "10.1.2.3")
		ours, callers := a.requestID(r)
		if trusted {
			require.Equal(t, []string{"theirs", ""}, []string{ours, callers})
			continue
		}
		require.Len(t, ours, 36, peer)
		require.Equal(t, "theirs", callers, peer)
	}
}

// Whatever the router would make of such a path, it is none.
func TestEscapedSlashesAndDotsAreNoPath(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	reached := false
	one := made(func(_ *api, c *call) error { reached = true; return c.empty(http.StatusNoContent) })
	one.path = "/api/workspaces/{name}/made"
	h := a.router([]route{one})
	for _, target := range []string{
		"/api/workspaces/a%2fb/made", "/api/workspaces/a%2Fmade", "/api/workspaces%2fa/made", "/api/workspaces/%2e%2e/made",
		"/api/workspaces/%2E/made", "/%61pi/workspaces/a/%2e%2E/made", "/api/workspaces/a/mad%65%2f", "/api/x/%2e%2e/workspaces/a/made",
		"/%2e%2e/%2e%2e/etc/passwd", "/api/workspaces/a%2eb/made",
	} {
		require.Equal(t, http.StatusNotFound, ask(t, h, http.MethodGet, target, nil).Code, target)
		require.Equal(t, http.StatusNotFound, ask(t, h, http.MethodPost, target, nil).Code, target)
	}
	require.False(t, reached)
	for _, target := range []string{"/api/workspaces/a.b/made", "/api/workspaces/a%20b/made", "/api/workspaces/a%252fb/made", "/%61pi/workspaces/a/made"} {
		require.Equal(t, http.StatusNoContent, ask(t, h, http.MethodGet, target, nil).Code, target)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	a, metrics := bareAPI(t, io.Discard)
	h := a.router([]route{made(func(_ *api, c *call) error { return c.empty(http.StatusNoContent) })})
	for _, target := range []string{"/", "/api", "/api/", "/api/made/", "/api/MADE", "/api//made", "/api/made/x", "/API/made", "/api/made%2f", "/%"} {
		if target == "/%" {
			continue // not a URL: net/http answers 400 before any handler
		}
		resp := ask(t, h, http.MethodGet, target, nil)
		require.Equal(t, http.StatusNotFound, resp.Code, target)
		require.Equal(t, "urn:fdc:problem:not-found", problemIn(t, resp)["type"])
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "FOO"} {
		resp := ask(t, h, method, "/api/made", nil)
		require.Equal(t, http.StatusMethodNotAllowed, resp.Code, method)
		require.ElementsMatch(t, []string{"GET", "HEAD"}, strings.Split(resp.Header().Get("Allow"), ", "))
		require.Equal(t, "urn:fdc:problem:method-not-allowed", problemIn(t, resp)["type"])
	}
	require.Equal(t, http.StatusNoContent, ask(t, h, http.MethodHead, "/api/made", nil).Code)
	// Whatever is asked, the labels stay few.
	count, err := testutil.GatherAndCount(metrics, "http_request_seconds")
	require.NoError(t, err)
	require.Equal(t, 2, count)
}

func TestCrossOriginIsRefused(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	r := made(func(_ *api, c *call) error { return c.empty(http.StatusNoContent) })
	r.method = http.MethodPost
	h := a.router([]route{r})
	for name, test := range map[string]struct {
		header http.Header
		status int
	}{
		"not a browser":               {nil, 204},
		"same origin":                 {http.Header{"Origin": {"https://fdc.example"}}, 204},
		"same origin, says browser":   {http.Header{"Sec-Fetch-Site": {"same-origin"}}, 204},
		"other origin":                {http.Header{"Origin": {"https://evil.example"}}, 403},
		"other scheme":                {http.Header{"Origin": {"http://fdc.example"}}, 403},
		"other port":                  {http.Header{"Origin": {"https://fdc.example:444"}}, 403},
		"sandboxed":                   {http.Header{"Origin": {"null"}}, 403},
		"other site, says browser":    {http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
		"sister site, says browser":   {http.Header{"Sec-Fetch-Site": {"same-site"}}, 403},
		"nonsense":                    {http.Header{"Sec-Fetch-Site": {"?"}}, 403},
		"other, though proxy changed": {http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp := ask(t, h, http.MethodPost, "/api/made", test.header)
			require.Equal(t, test.status, resp.Code)
		})
	}
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	a := &api{Config: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}}
	for name, test := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"direct":                   {"203.0.113.7:1", nil, "203.0.113.7"},
		"a stranger's header":      {"203.0.113.7:1", []string{"1.2.3.4"}, "203.0.113.7"},
		"one proxy":                {"10.0.0.1:1", []string{"203.0.113.7"}, "203.0.113.7"},
		"client lies to the proxy": {"10.0.0.1:1", []string{"1.2.3.4, 203.0.113.7"}, "203.0.113.7"},
		"two proxies":              {"10.0.0.1:1", []string{"1.2.3.4, 203.0.113.7, 10.9.9.9"}, "203.0.113.7"},
		"two headers":              {"10.0.0.1:1", []string{"1.2.3.4", "203.0.113.7, 10.9.9.9"}, "203.0.113.7"},
		"nonsense":                 {"10.0.0.1:1", []string{"203.0.113.7, unknown"}, "10.0.0.1"},
		"empty":                    {"10.0.0.1:1", []string{""}, "10.0.0.1"},
		"all are proxies":          {"10.0.0.1:1", []string{"10.0.0.2, 10.0.0.3"}, "10.0.0.2"},
		"IPv6 with a zone":         {"[fe80::1%eth0]:1", nil, "fe80::1"},
		"IPv4 in IPv6":             {"[::ffff:203.0.113.7]:1", nil, "203.0.113.7"},
		"IPv6 proxy":               {"[fd00::1]:1", []string{"2001:db8::7"}, "2001:db8::7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.RemoteAddr = test.peer
			r.Header["X-Forwarded-For"] = test.forwarded
			require.Equal(t, test.want, a.clientOf(r).String())
		})
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.RemoteAddr = "@" // a Unix socket
	require.False(t, a.clientOf(r).IsValid())
	untrusting := &api{}
	r.RemoteAddr, r.Header = "10.0.0.1:1", http.Header{"X-Forwarded-For": {"1.2.3.4"}}
	require.Equal(t, "10.0.0.1", untrusting.clientOf(r).String())
}

func TestSecureCookies(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"https://fdc.example": true, "https://127.0.0.1:8443": true, "http://fdc.example": true,
		"http://127.0.0.1:8080": false, "http://localhost:8080": false, "http://[::1]:8080": false, "http://127.1.2.3": false,
	} {
		u, err := url.Parse(address)
		require.NoError(t, err)
		require.Equal(t, want, (&api{Config: Config{PublicURL: u}}).secure(), address)
	}
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"http://127.0.0.1:8080": "http://127.0.0.1:8080", "https://FDC.example:443/": "https://fdc.example", "http://fdc.example:80": "http://fdc.example",
		"https://fdc.example:80": "https://fdc.example:80", "http://[::1]:8080": "http://[::1]:8080",
	} {
		u, err := url.Parse(address)
		require.NoError(t, err)
		require.Equal(t, want, originOf(u))
	}
}

func TestSpanGoesOnWithTheCallersTrace(t *testing.T) {
	t.Parallel()
	a, _ := bareAPI(t, io.Discard)
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	a.Tracer = provider.Tracer("test")
	h := a.router([]route{made(func(_ *api, c *call) error {
		require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", trace.SpanContextFromContext(c.ctx()).TraceID().String())
		return errors.New("broken")
	})})
	answer := ask(t, h, http.MethodGet, "/api/made", http.Header{
		"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "X-Request-Id": {"r1"},
	})
	ended := spans.Ended()
	require.Len(t, ended, 1)
	require.Equal(t, "GET /api/made", ended[0].Name())
	require.Equal(t, trace.SpanKindServer, ended[0].SpanKind())
	require.Equal(t, "00f067aa0ba902b7", ended[0].Parent().SpanID().String())
	require.Equal(t, codes.Error, ended[0].Status().Code)
	require.Contains(t, ended[0].Attributes(), attribute.Int("http.response.status_code", 500))
	require.Contains(t, ended[0].Attributes(), attribute.String("fdc.request_id", answer.Header().Get("X-Request-Id")))
}

func BenchmarkRequest(b *testing.B) {
	metrics := prometheus.NewRegistry()
	a := newAPI(Config{
		PublicURL: &url.URL{Scheme: "http", Host: "127.0.0.1"}, Log: zerolog.New(io.Discard), Metrics: metrics,
		Limiter: bareLimiter(metrics), RateLimitFactor: 1e6,
	})
	h := a.router(routes())
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/api/health", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
