package httpapi_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"fdc/internal/httpapi"
	"fdc/internal/platform/bus"
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
	alice.get("/api/workspaces/"+home+"/tasks").budget("tasks", 300)
	missing, _ := alice.get("/api/workspaces/"+home+"/tasks/0190a5de-0000-7000-8000-000000000000").budget("tasks", 300)
	require.Equal(t, 298, missing, "an error costs as much")
	alice.send(http.MethodPost, "/api/workspaces/"+home+"/tasks", object{}).budget("tasks:write", 120)
	alice.get("/api/calendar/events").budget("calendar", 120)
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

// lookUps counts the times that the API reads a session from the bucket. The read of the database, if there is one, comes after that.
func (w *world) lookUps() func() int64 {
	w.t.Helper()
	var n atomic.Int64
	nc := w.js.Conn()
	_, err := nc.Subscribe("$JS.API.STREAM.MSG.GET.KV_"+bus.Sessions, func(*nats.Msg) { n.Add(1) })
	require.NoError(w.t, err)
	require.NoError(w.t, nc.Flush())
	return func() int64 {
		// All that the API has sent is here with the second: its connection's before that answers, and then ours.
		require.NoError(w.t, nc.Flush())
		return n.Load()
	}
}

// guess sends a request with a random token from an address.
func (w *world) guess(ctx context.Context, method, path, address string) (status int, header http.Header, err error) {
	token := make([]byte, 32)
	_, _ = rand.Read(token) // never fails
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Cookie", "fdc_session="+base64.RawURLEncoding.EncodeToString(token))
	req.Header.Set("X-Forwarded-For", address)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, resp.Header, resp.Body.Close()
}

// guesses sends many at once, and counts the answers by their status.
func (w *world) guesses(method, path, address string, times int) map[int]int {
	w.t.Helper()
	const together = 20
	statuses, mu := map[int]int{}, sync.Mutex{}
	var clients sync.WaitGroup
	for range together {
		clients.Go(func() {
			for range times / together {
				status, header, err := w.guess(w.t.Context(), method, path, address)
				mu.Lock()
				switch {
				case err != nil:
					w.t.Error(err)
				case status == http.StatusTooManyRequests && header.Get("Retry-After") == "":
					w.t.Errorf("%s %s refuses without Retry-After", method, path)
				}
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	return statuses
}

// Whatever route is asked with made-up sessions, an address causes as many look-ups as it may have fail, and no more.
func TestMadeUpSessionsAreNotLookedUpForEver(t *testing.T) {
	t.Parallel()
	const most, times = 30, 60
	w := newWorld(t, limited(0.5, "127.0.0.0/8", "::1/128"))
	lookUps := w.lookUps()
	ids := strings.NewReplacer("{id}", "0190a5de-0000-7000-8000-000000000000", "{taskId}", "0190a5de-0000-7000-8000-000000000001",
		"{userId}", "0190a5de-0000-7000-8000-000000000002", "{eventType}", "fdc.task.created.v1")
	asked := [][2]string{{"GET", "/ops"}, {"GET", "/ops/status"}, {"GET", "/api/ws"}, {"GET", "/api/events"}}
	for _, o := range w.operations() {
		asked = append(asked, [2]string{o.method, ids.Replace(o.path)})
	}
	for i, route := range asked {
		before := lookUps()
		statuses := w.guesses(route[0], route[1], fmt.Sprintf("203.0.%d.7", i), times)
		n := lookUps() - before
		require.LessOrEqual(t, n, int64(most), "%s", route)
		if n > 0 {
			want := most
			if route[1] == "/api/auth/callback" {
				want = 5 // its own limit is reached before
			}
			require.EqualValues(t, want, n, "%s", route)
			require.GreaterOrEqual(t, statuses[http.StatusTooManyRequests], times-want, "%s: %v", route, statuses)
		}
	}
	// The budget is the address's, not the route's.
	first := "203.0.0.7"
	before := lookUps()
	require.Equal(t, map[int]int{http.StatusTooManyRequests: 20}, w.guesses(http.MethodGet, "/api/events", first, 20))
	require.Equal(t, before, lookUps())
}

// Sixty look-ups fail, however many come at once; who is remembered is served from the same address all the same.
func TestFailedLookUpsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(1, "127.0.0.0/8", "::1/128"))
	const address = "203.0.113.7"
	lookUps := w.lookUps()
	alice := w.signIn("alice")
	remembered := func() bool {
		before := lookUps()
		r := alice.get("/api/auth/session", "X-Forwarded-For", address)
		require.Equal(t, http.StatusOK, r.status, r.text)
		return lookUps() == before
	}
	tries := 0
	for !remembered() {
		tries++
		require.Less(t, tries, 50)
	}
	before := lookUps()
	statuses := w.guesses(http.MethodGet, "/ops", address, 200)
	require.EqualValues(t, 60, lookUps()-before)
	require.Equal(t, map[int]int{http.StatusNotFound: 60, http.StatusTooManyRequests: 140}, statuses)
	require.True(t, remembered())
	_, header, err := w.guess(t.Context(), http.MethodGet, "/ops", address)
	require.NoError(t, err)
	require.Equal(t, `"auth/session";q=60;w=60`, header.Get("RateLimit-Policy"))

	status, _, err := w.guess(t.Context(), http.MethodGet, "/ops", "203.0.113.8")
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, status, "another address")
}

// Opening sockets and streams has a budget per user and one per address.
func TestConnectsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(0.05)) // 3 per user, 30 per address
	alice := w.signIn("alice")
	for range 2 {
		conn, _ := alice.dial("", nil)
		require.NotNil(t, conn)
		require.NoError(t, conn.Close())
	}
	conn, answer := alice.dialed("", nil)
	require.NotNil(t, conn)
	require.Equal(t, `"push";q=3;w=60`, answer.header.Get("RateLimit-Policy"))
	require.Contains(t, answer.header.Get("RateLimit"), `"push";r=0;t=`)
	_, answer = alice.dialed("", nil)
	require.Equal(t, http.StatusTooManyRequests, answer.status)
	require.NotEmpty(t, answer.header.Get("Retry-After"))
	alice.get("/api/events").refused("push", 3)

	for range 25 {
		w.visitor().get("/api/events")
	}
	w.visitor().get("/api/events").refused("push/address", 30)
}
