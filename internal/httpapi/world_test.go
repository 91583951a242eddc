package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/audit"
	"fdc/internal/devstack/faultproxy"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/gsync"
	"fdc/internal/httpapi"
	"fdc/internal/identity"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/ratelimit"
	"fdc/internal/platform/seal"
	"fdc/internal/push"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// patience is more than anything takes that happens at all.
const patience = 2 * time.Minute

// world is the API on real servers: Postgres, NATS, the Google emulator, with the relay between the first two.
type world struct {
	t       *testing.T
	url     string
	google  *googleemu.Emulator
	emu     *httptest.Server
	db      *pgtest.DB
	log     *syncBuffer
	metrics *prometheus.Registry
	js      jetstream.JetStream // of the user provision
	hub     *push.Hub
	doc     *contract
	handler http.Handler // of the API, for a test that has to stay on its own thread

	identity *identity.Service // the API's own

	database *faultproxy.Proxy // of the API; the test's own pool goes past it

	// Of a shared world, else empty.
	suffix string // of the names in this test's addresses
	agent  string // of this test's visitors
	first  uint64 // sequence of the first event that this test may have caused
}

// newWorld returns a world for one test, which changes its configuration, stops a part of it, or reads its log or metrics as a whole.
func newWorld(t *testing.T, change ...func(*httpapi.Config)) *world {
	t.Helper()
	w := startWorld(t, change...)
	w.t = t
	w.addPeople()
	return w
}

// shared returns the world of the package for a test with users of its own.
func shared(t *testing.T) *world {
	t.Helper()
	w := *worlds.Get(t)
	w.t, w.suffix = t, "-"+strings.ToLower(rand.Text())
	w.agent = "fdc-test" + w.suffix
	w.addPeople()
	stream, err := w.js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	w.first = stream.CachedInfo().State.LastSeq + 1
	return &w
}

var worlds = testenv.Shared[*world]{Make: func(tb testing.TB) *world {
	tb.Helper()
	return startWorld(tb)
}}

func TestMain(m *testing.M) { testenv.Main(m) }

// email is the address of one of the world's people.
func (w *world) email(name string) string { return name + w.suffix + "@example.com" }

func (w *world) addPeople() {
	w.t.Helper()
	for _, name := range []string{"Alice", "Bob", "Carol"} {
		require.NoError(w.t, w.google.AddUser(w.email(strings.ToLower(name)), name))
	}
}

func startWorld(tb testing.TB, change ...func(*httpapi.Config)) *world {
	tb.Helper()
	w := &world{db: pgtest.New(tb), log: &syncBuffer{}, metrics: prometheus.NewRegistry()}
	quiet := zerolog.New(zerolog.NewTestWriter(tb)).Level(zerolog.WarnLevel)

	server := natstest.New(tb, natstest.WithTCP())
	var err error
	w.js, err = bus.JetStream(natstest.Connect(tb, server, "provision"))
	require.NoError(tb, err)
	require.NoError(tb, bus.Provision(tb.Context(), w.js, 1))
	nc, err := bus.Connect(bus.Config{URL: server.URL("api")}, "api", quiet)
	require.NoError(tb, err)
	js, err := bus.JetStream(nc)
	require.NoError(tb, err)

	w.google, err = googleemu.New(googleemu.Options{Log: quiet})
	require.NoError(tb, err)
	w.emu = httptest.NewServer(w.google)

	w.database = faultproxy.New(tb, w.db.URL)
	pool, err := postgres.Open(tb.Context(), postgres.Config{URL: w.database.URL, MaxConns: 10, ConnectTimeout: patience}, "api")
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	ob := outbox.New(pool, nc)
	keys, err := seal.ParseKeys(seal.NewKey("v1"))
	require.NoError(tb, err)
	workspaces := workspace.New(ob)
	tasks := task.New(ob, workspaces)
	w.hub = push.New(js, nc, quiet, w.metrics)
	near := func(bucket string) nearcache.Config {
		kv, err := bus.BindBucket(tb.Context(), js, bucket, nil)
		require.NoError(tb, err)
		signer, err := keys.Signer("cache")
		require.NoError(tb, err)
		return nearcache.Config{KV: kv, Signer: signer, JS: js, NATS: nc, MaxBytes: 1 << 20, Log: quiet, Metrics: w.metrics}
	}
	documents, err := httpapi.NewDocuments(workspaces, near(bus.WorkspaceData))
	require.NoError(tb, err)
	users := identity.New(ob, workspaces, gsync.Access{})
	sessions, err := identity.NewCache(pool, near(bus.Sessions))
	require.NoError(tb, err)
	w.identity = users
	w.hub.UseSessions(users.Ended)
	users.UseCache(sessions, func() bool { return true })
	relay := outbox.NewRelay(postgres.Config{URL: w.db.URL, ConnectTimeout: patience}, js, quiet, w.metrics)
	limiter := ratelimit.New(ratelimit.Config{NC: nc, Log: quiet, Metrics: w.metrics, Now: func() time.Time {
		return time.Date(2026, time.March, 1, 12, 0, 20, 0, time.UTC) // no test meets a minute's edge
	}})
	api := httptest.NewUnstartedServer(nil)
	config := httpapi.Config{
		Identity: users, Workspaces: workspaces, Tasks: tasks,
		Google: gsync.New(gsync.Config{
			Outbox: ob, Keys: keys, Tasks: tasks, Members: workspaces, Log: quiet, Source: "/fdc/api",
			OAuth: gsync.OAuth{ClientID: "fdc", ClientSecret: "secret", Endpoint: w.emu.URL}, Backoff: time.Millisecond,
			Webhook: "http://" + api.Listener.Addr().String() + "/api/google/webhook",
		}),
		Audit: audit.NewLog(ob), Push: w.hub, Documents: documents, Keys: keys, SyncAsync: true, Limiter: limiter, RateLimitFactor: 10_000,
		PublicURL: &url.URL{Scheme: "http", Host: api.Listener.Addr().String()},
		Log:       zerolog.New(w.log), Metrics: w.metrics, Gather: w.metrics,
	}
	for _, f := range change {
		f(&config)
	}
	w.handler = httpapi.New(config)
	api.Config = httpapi.NewServer(w.handler, quiet)
	api.Start()
	w.url = api.URL

	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{w.hub.Run, relay.Run, limiter.Run, documents.Run, sessions.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				tb.Errorf("run: %v", err)
			}
		})
	}
	tb.Cleanup(func() {
		stop()
		running.Wait()
		api.Close()
		w.emu.Close()
		require.NoError(tb, w.google.Close())
		nc.Close()
	})
	select {
	case <-w.hub.Ready():
	case <-time.After(patience):
		tb.Fatal("the hub is not ready")
	}
	w.doc = readContract(tb, w.url)
	return w
}

// visitor is a browser: it has cookies, and every answer that it gets is held against the OpenAPI document.
type visitor struct {
	*world
	client *http.Client
	header http.Header // sent with everything
}

func (w *world) visitor() *visitor {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(w.t, err)
	return &visitor{
		world: w, header: http.Header{},
		client: &http.Client{
			Jar: jar, Transport: &referee{t: w.t, doc: w.doc, host: strings.TrimPrefix(w.url, "http://")}, Timeout: patience,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// signIn is a visitor who has gone to the emulator and back.
func (w *world) signIn(name string, query ...string) *visitor {
	w.t.Helper()
	v := w.visitor()
	back := v.toGoogleAndBack("/api/auth/login?login_hint=" + w.email(name) + strings.Join(append([]string{""}, query...), "&"))
	require.Equal(w.t, http.StatusFound, back.status, back.text)
	return v
}

// takeIn makes another visitor a MEMBER, who accepts an invitation.
func (v *visitor) takeIn(guest *visitor, workspaceID string) {
	v.t.Helper()
	email := guest.get("/api/auth/session").str("user", "email")
	invited := v.send(http.MethodPost, "/api/workspaces/"+workspaceID+"/members", object{"email": email, "role": "MEMBER"})
	require.Equal(v.t, http.StatusCreated, invited.status, invited.text)
	accepted := guest.send(http.MethodPost, "/api/invitations/"+invited.str("invitationId")+"/accept", nil)
	require.Equal(v.t, http.StatusOK, accepted.status, accepted.text)
}

// toGoogleAndBack starts at a path that leads to Google and returns the callback's answer.
func (v *visitor) toGoogleAndBack(path string) *result {
	v.t.Helper()
	start := v.get(path)
	require.Equal(v.t, http.StatusFound, start.status, start.text)
	return v.get(v.consent(start.header.Get("Location")))
}

// consent asks the emulator and returns where it sends the browser: the callback's path and query.
func (v *visitor) consent(address string) string {
	v.t.Helper()
	require.True(v.t, strings.HasPrefix(address, v.emu.URL), address)
	r := v.do(http.MethodGet, address, nil, nil)
	require.Equal(v.t, http.StatusFound, r.status, r.text)
	return strings.TrimPrefix(r.header.Get("Location"), v.url)
}

// result is an answer, read.
type result struct {
	t      *testing.T
	status int
	header http.Header
	text   string
}

func (r *result) into(dst any) {
	r.t.Helper()
	require.NoError(r.t, json.Unmarshal([]byte(r.text), dst), r.text)
}

// field walks into the JSON of the answer: field("google", "state").
func (r *result) field(path ...any) any {
	r.t.Helper()
	var value any
	r.into(&value)
	for _, step := range path {
		switch step := step.(type) {
		case string:
			object, ok := value.(map[string]any)
			require.True(r.t, ok, "%v in %s", path, r.text)
			value = object[step]
		case int:
			list, ok := value.([]any)
			require.True(r.t, ok && step < len(list), "%v in %s", path, r.text)
			value = list[step]
		}
	}
	return value
}

func (r *result) str(path ...any) string {
	r.t.Helper()
	s, ok := r.field(path...).(string)
	require.True(r.t, ok, "%v in %s", path, r.text)
	return s
}

// code is the code of the problem that the answer is.
func (r *result) code() string { return strings.TrimPrefix(r.str("type"), "urn:fdc:problem:") }

func (v *visitor) get(path string, header ...string) *result {
	v.t.Helper()
	return v.do(http.MethodGet, path, nil, header)
}

// send sends JSON: a string as it is, anything else encoded.
func (v *visitor) send(method, path string, body any, header ...string) *result {
	v.t.Helper()
	var text string
	switch body := body.(type) {
	case nil:
	case string:
		text = body
	default:
		encoded, err := json.Marshal(body)
		require.NoError(v.t, err)
		text = string(encoded)
	}
	media := "application/json"
	if method == http.MethodPatch {
		media = "application/merge-patch+json"
	}
	if body != nil {
		header = append([]string{"Content-Type", media}, header...)
	}
	return v.do(method, path, strings.NewReader(text), header)
}

func (v *visitor) do(method, path string, body io.Reader, header []string) *result {
	v.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = v.url + path
	}
	req, err := http.NewRequestWithContext(v.t.Context(), method, path, body)
	require.NoError(v.t, err)
	if v.agent != "" {
		req.Header.Set("User-Agent", v.agent)
	}
	maps.Copy(req.Header, v.header)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := v.client.Do(req)
	require.NoError(v.t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(v.t, err)
	require.NoError(v.t, resp.Body.Close())
	return &result{t: v.t, status: resp.StatusCode, header: resp.Header, text: string(text)}
}

// home is the id of the visitor's first workspace.
func (v *visitor) home() string {
	v.t.Helper()
	return v.get("/api/auth/session").str("workspaces", 0, "id")
}

func (v *visitor) id() string {
	v.t.Helper()
	return v.get("/api/auth/session").str("user", "id")
}

// syncBuffer is a log that many goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// lines decodes the log.
func (b *syncBuffer) lines(t *testing.T) []map[string]any {
	t.Helper()
	var list []map[string]any
	for scan := bufio.NewScanner(strings.NewReader(b.String())); scan.Scan(); {
		var line map[string]any
		require.NoError(t, json.Unmarshal(scan.Bytes(), &line))
		list = append(list, line)
	}
	return list
}
