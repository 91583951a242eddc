package httpapi_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/httpapi"
)

func limited(factor float64, proxies ...string) func(*httpapi.Config) {
	return func(c *httpapi.Config) {
		c.RateLimitFactor = factor
		for _, p := range proxies {
			c.TrustedProxies = append(c.TrustedProxies, netip.MustParsePrefix(p))
		}
	}
}

var limitForm = regexp.MustCompile(`^"([a-z/:-]+)";r=(\d+);t=(\d+)$`)

// budget reads the headers of a limited answer.
func (r *result) budget(key string, limit int) (remaining, seconds int) {
	r.t.Helper()
	require.Equal(r.t, fmt.Sprintf(`"%s";q=%d;w=60`, key, limit), r.header.Get("RateLimit-Policy"), r.text)
	m := limitForm.FindStringSubmatch(r.header.Get("RateLimit"))
	require.Len(r.t, m, 4, r.header.Get("RateLimit"))
	require.Equal(r.t, key, m[1])
	remaining, err := strconv.Atoi(m[2])
	require.NoError(r.t, err)
	seconds, err = strconv.Atoi(m[3])
	require.NoError(r.t, err)
	require.True(r.t, 1 <= seconds && seconds <= 60, "%d s", seconds)
	return remaining, seconds
}

// refused checks all of an answer past the limit.
func (r *result) refused(key string, limit int) {
	r.t.Helper()
	require.Equal(r.t, http.StatusTooManyRequests, r.status, r.text)
	require.Equal(r.t, "rate-limited", r.code())
	require.Equal(r.t, "application/problem+json", r.header.Get("Content-Type"))
	remaining, seconds := r.budget(key, limit)
	require.Zero(r.t, remaining)
	require.Equal(r.t, strconv.Itoa(seconds), r.header.Get("Retry-After"))
}

func TestEveryLimitedAnswerSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(1))
	alice, bob := w.signIn("alice"), w.signIn("bob")
	home := alice.home() // one of default
	remaining, _ := alice.get("/api/workspaces").budget("default", 60)
	require.Equal(t, 58, remaining)
	missing, _ := alice.get("/api/workspaces/"+home+"/tasks/0190a5de-0000-7000-8000-000000000000").budget("default", 60)
	require.Equal(t, 57, missing, "an error costs as much")
	remaining, _ = bob.get("/api/workspaces").budget("default", 60)
	require.Equal(t, 59, remaining, "another's budget")

	data := "/api/workspaces/" + home + "/data"
	alice.get(data).budget("workspaces/data", 120)
	alice.send(http.MethodPut, data, `{"data":{}}`).budget("workspaces/data:write", 30)
	remaining, _ = alice.send(http.MethodPatch, data, `{"a":1}`).budget("workspaces/data:write", 30)
	require.Equal(t, 28, remaining, "PUT and PATCH share theirs")

	// Past the limit: nothing is read nor done, for this key only.
	for range 28 {
		require.Equal(t, http.StatusUnprocessableEntity, alice.send(http.MethodPut, data, `{}`).status)
	}
	alice.send(http.MethodPut, data, `{"data":{"late":true}}`).refused("workspaces/data:write", 30)
	alice.send(http.MethodPut, data, `{not even JSON`).refused("workspaces/data:write", 30)
	require.Equal(t, object{"a": 1.0}, alice.get(data).field("data"))
	bob.send(http.MethodPut, "/api/workspaces/"+bob.home()+"/data", `{"data":{}}`).budget("workspaces/data:write", 30)

	for _, path := range []string{"/api/health", "/api/health/deep", "/api/openapi.json", "/api/schemas/fdc.task.created.v1"} {
		r := alice.get(path)
		require.Equal(t, http.StatusOK, r.status)
		require.Empty(t, r.header.Get("RateLimit")+r.header.Get("RateLimit-Policy"), path)
	}
	families, err := w.metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "ratelimit_refused_total" {
			require.InDelta(t, 2, f.GetMetric()[0].GetCounter().GetValue(), 0)
			return
		}
	}
	t.Fatal("no metric counts the refusals")
}

// Before sign-in the address counts, whatever cookies and headers come along.
func TestTheAddressIsLimitedBeforeSignIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(0.5))
	for n := range 5 {
		remaining, _ := w.visitor().get("/api/auth/login", "X-Forwarded-For", fmt.Sprintf("203.0.113.%d", n)).budget("auth/login", 5)
		require.Equal(t, 4-n, remaining)
	}
	w.visitor().get("/api/auth/login", "X-Forwarded-For", "203.0.113.99").refused("auth/login", 5)
	w.visitor().get("/api/auth/callback").budget("auth/callback", 5)

	for n := range 30 {
		r := w.visitor().get("/api/google/sync", "Cookie", fmt.Sprintf("fdc_session=guess%d", n))
		require.Equal(t, http.StatusUnauthorized, r.status)
		r.budget("default", 30)
	}
	w.visitor().get("/api/workspaces").refused("default", 30)
	w.visitor().send(http.MethodPost, "/api/workspaces", `{}`, "Origin", "https://evil.example").refused("default", 30)
}

func TestATrustedProxyTellsTheAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(0.1, "127.0.0.0/8", "::1/128"))
	for n := range 3 {
		from := fmt.Sprintf("198.51.100.7, 203.0.113.%d", n) // whatever the client wrote before doesn't count
		require.Equal(t, http.StatusFound, w.visitor().get("/api/auth/login", "X-Forwarded-For", from).status)
		w.visitor().get("/api/auth/login", "X-Forwarded-For", from).refused("auth/login", 1)
	}
}
