package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/faultproxy"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/gsync"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/outbox"
	"fdc/internal/service"
)

// cluster is several nodes of the API and a cache-invalidator on one Postgres and one NATS. The nodes reach both through
// proxies of their own, so that each can be cut off; the invalidator reaches them as they are.
type cluster struct {
	t         *testing.T
	begun     time.Time
	db        *pgtest.DB
	broker    *embednats.Server
	google    string
	provision jetstream.JetStream // the user who may delete keys
	nodes     []*node
	requests  atomic.Int64

	mu      sync.Mutex
	history []request
}

// node is one cmd/api.
type node struct {
	index    int
	url      string
	client   *http.Client
	nats     *faultproxy.Proxy
	postgres *faultproxy.Proxy
}

// newCluster starts one node after the other: the first is the one that relays the outbox.
func newCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	c := &cluster{t: t, begun: time.Now(), db: pgtest.New(t), broker: natstest.Provisioned(t, natstest.WithTCP())}
	var err error
	c.provision, err = bus.JetStream(natstest.Connect(t, c.broker, "provision"))
	require.NoError(t, err)
	emulator, err := googleemu.New(googleemu.Options{Log: zerolog.Nop()})
	require.NoError(t, err)
	google := httptest.NewServer(emulator)
	t.Cleanup(func() { google.Close(); require.NoError(t, emulator.Close()) })
	c.google = google.URL

	c.run("cache-invalidator", func(ctx context.Context, r service.Runtime) error {
		return service.RunCacheInvalidator(ctx, service.CacheInvalidatorConfig{Common: service.Common{
			Database: databaseConfig(as(bus.CacheInvalidator, c.db.URL)), Bus: bus.Config{URL: c.broker.URL(bus.CacheInvalidator), Replicas: 1},
		}}, r)
	})
	for range nodes {
		n := c.newNode()
		listener, err := service.Listen(t.Context(), "127.0.0.1:0", "")
		require.NoError(t, err)
		n.url = "http://" + listener.Addr().String()
		public, err := url.Parse(n.url)
		require.NoError(t, err)
		database := databaseConfig(as("api", n.postgres.URL))
		database.MaxConns, database.ConnectTimeout = 8, 2*time.Second
		config := service.APIConfig{
			Common:   service.Common{Database: database, Bus: bus.Config{URL: n.nats.URL, Replicas: 1}},
			Google:   gsync.OAuth{ClientID: "test", ClientSecret: "test", Endpoint: c.google},
			Keys:     service.KeyConfig{Master: masterKey},
			Listener: listener, PublicURL: service.PublicURL{URL: public}, SyncAsync: true, RateLimitFactor: service.MaxRateFactor,
		}
		c.run("api", func(ctx context.Context, r service.Runtime) error { return service.RunAPI(ctx, config, r) })
	}
	t.Cleanup(c.heal) // before the services end: they say goodbye
	return c
}

// newNode makes the ways to Postgres and NATS for a node.
func (c *cluster) newNode() *node {
	c.t.Helper()
	n := &node{
		index: len(c.nodes), nats: faultproxy.New(c.t, c.broker.URL("api")), postgres: faultproxy.New(c.t, c.db.URL),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
	c.nodes = append(c.nodes, n)
	c.t.Cleanup(n.client.CloseIdleConnections)
	return n
}

// run starts a service and returns when it is ready. It ends with the test.
func (c *cluster) run(name string, run func(context.Context, service.Runtime) error) {
	c.t.Helper()
	admin := daemon.NewAdmin()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	runtime := service.Runtime{Log: zerolog.Nop(), Admin: admin.Service(name)}
	go func() { ended <- run(ctx, runtime) }()
	c.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	})
	ready, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	require.NoError(c.t, admin.AwaitReady(ready))
}

func (c *cluster) heal() {
	for _, n := range c.nodes {
		n.nats.Heal()
		n.postgres.Heal()
	}
}

// now is the time of the history.
func (c *cluster) now() time.Duration { return time.Since(c.begun) }

// session is what a browser holds, and what the tests know about it.
type session struct {
	id    string
	user  string // its id
	email string
	home  string // the user's own workspace

	mu    sync.Mutex
	token string
}

func (s *session) cookie() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// renew takes over the token that an answer brings, as a browser does: after a new role the old one ends soon. It reports whether
// there is one. An answer to a request with another token than the present one is too late.
func (s *session) renew(sent string, answer http.Header) bool {
	cookies := (&http.Response{Header: answer}).Cookies()
	at := slices.IndexFunc(cookies, func(c *http.Cookie) bool { return c.Name == "fdc_session" && c.Value != "" })
	if at < 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == sent {
		s.token = cookies[at].Value
	}
	return true
}

// signIn walks the OAuth flow on a node. The session itself is not looked at yet, so no cache holds it.
func (c *cluster) signIn(n *node, email string) (*session, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	browser := &http.Client{Jar: jar, Timeout: n.client.Timeout, Transport: n.client.Transport}
	r := c.do(n, request{what: signIn, email: email}, call{
		url: n.url + "/api/auth/login?redirect=/api/health&login_hint=" + url.QueryEscape(email), client: browser,
	})
	if r.status != http.StatusOK {
		return nil, fmt.Errorf("sign in: %s", r)
	}
	at, err := url.Parse(n.url)
	if err != nil {
		return nil, err
	}
	s := &session{email: email}
	for _, cookie := range jar.Cookies(at) {
		if cookie.Name == "fdc_session" {
			s.token = cookie.Value
		}
	}
	// What the tests have to know of it, past every cache.
	err = c.db.Pool.QueryRow(c.t.Context(), `
		SELECT s.id::text, u.id::text, (SELECT workspace_id::text FROM workspace_members WHERE user_id = u.id ORDER BY joined_at LIMIT 1)
		FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_hash = $1`, tokenHash(s.token)).Scan(&s.id, &s.user, &s.home)
	return s, err
}

// newUser makes a person at Google and signs them in on a node.
func (c *cluster) newUser(n *node, name string) *session {
	c.t.Helper()
	email := fmt.Sprintf("%s.%d@example.com", name, c.requests.Add(1))
	r := c.do(n, request{}, call{
		method: http.MethodPost, url: c.google + "/_emulator/users", body: fmt.Sprintf(`{"email":%q,"name":%q}`, email, name),
	})
	require.Less(c.t, r.status, 300, "%s", r)
	s, err := c.signIn(n, email)
	require.NoError(c.t, err)
	return s
}

// call is how a request is sent.
type call struct {
	method, url, body string
	headers           []string // names and values
	client            *http.Client
	written           func() // called when the request has left
}

// do sends a request, and records it when it says what it is.
func (c *cluster) do(n *node, r request, how call) request {
	ctx := c.t.Context()
	if how.method == "" {
		how.method = http.MethodGet
	}
	if strings.HasPrefix(how.url, "/") {
		how.url = n.url + how.url
	}
	if how.client == nil {
		how.client = n.client
	}
	if how.written != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { how.written() }})
	}
	r.node, r.id = n.index, fmt.Sprintf("r%d", c.requests.Add(1))
	token := ""
	if r.session != nil {
		token = r.session.cookie()
		how.headers = append([]string{"Cookie", "fdc_session=" + token}, how.headers...)
	}
	r.call = c.now()
	r.status, r.header, r.body, r.err = send(ctx, r, how)
	r.ret = c.now()
	r.renewed = r.session != nil && r.session.renew(token, r.header)
	if r.what != nothing {
		c.mu.Lock()
		c.history = append(c.history, r)
		c.mu.Unlock()
	}
	return r
}

func send(ctx context.Context, r request, how call) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, how.method, how.url, strings.NewReader(how.body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("X-Request-Id", r.id)
	if how.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(how.headers); i += 2 {
		req.Header.Set(how.headers[i], how.headers[i+1])
	}
	resp, err := how.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, bytes.TrimSpace(body), err
}

// The requests that the tests make, each on a node.

func (c *cluster) getData(n *node, s *session, workspace string) request {
	return c.do(n, request{what: getData, session: s, workspace: workspace}, call{url: dataPath(workspace)})
}

// getNewerData names the version that the client has.
func (c *cluster) getNewerData(n *node, s *session, workspace string, has int64) request {
	return c.do(n, request{what: getData, session: s, workspace: workspace, expect: has},
		call{url: dataPath(workspace), headers: []string{"If-None-Match", fmt.Sprintf(`"%d"`, has)}})
}

func (c *cluster) putData(n *node, s *session, workspace, document string, expect int64, headers ...string) request {
	body := fmt.Sprintf(`{"data":%s}`, document)
	if expect >= 0 && len(headers) == 0 {
		body = fmt.Sprintf(`{"data":%s,"version":%d}`, document, expect)
	}
	return c.do(n, request{what: putData, session: s, workspace: workspace, value: document, expect: expect},
		call{method: http.MethodPut, url: dataPath(workspace), body: body, headers: headers})
}

func (c *cluster) patchData(n *node, s *session, workspace, patch string) request {
	return c.do(n, request{what: patchData, session: s, workspace: workspace, value: patch, expect: -1},
		call{method: http.MethodPatch, url: dataPath(workspace), body: patch, headers: []string{"Content-Type", "application/merge-patch+json"}})
}

func (c *cluster) getSession(n *node, s *session) request {
	return c.do(n, request{what: getSession, session: s}, call{url: "/api/auth/session"})
}

func (c *cluster) logout(n *node, s *session) request {
	return c.do(n, request{what: endSession, session: s}, call{method: http.MethodPost, url: "/api/auth/logout"})
}

// revoke ends another session of the same user, or all others when that is nil.
func (c *cluster) revoke(n *node, s, other *session) {
	path := "/api/auth/sessions"
	if other != nil {
		path += "/" + other.id
	}
	c.do(n, request{what: endSession, session: s}, call{method: http.MethodDelete, url: path})
}

// setMember changes the role of a member or, when that is empty, removes the member.
func (c *cluster) setMember(n *node, s *session, workspace string, member *session, role string) request {
	how := call{method: http.MethodPut, url: "/api/workspaces/" + workspace + "/members/" + member.user, body: fmt.Sprintf(`{"role":%q}`, role)}
	if role == "" {
		how.method, how.body = http.MethodDelete, ""
	}
	return c.do(n, request{what: setMember, session: s, workspace: workspace, value: role}, how)
}

// addMember has one user invite another, who accepts at once. An invitation that is not accepted is withdrawn.
func (c *cluster) addMember(n *node, s *session, workspace string, member *session, role string) request {
	path := "/api/workspaces/" + workspace
	_, err := c.db.Pool.Exec(c.t.Context(), `UPDATE workspaces SET invitations_sent = 0 WHERE id = $1`, workspace) // no limit of a day here
	if err != nil {
		return request{err: err}
	}
	invited := c.do(n, request{session: s}, call{
		method: http.MethodPost, url: path + "/members", body: fmt.Sprintf(`{"email":%q,"role":%q}`, member.email, role),
	})
	var invitation struct {
		ID string `json:"invitationId"`
	}
	if invited.status != http.StatusCreated || json.Unmarshal(invited.body, &invitation) != nil {
		return invited
	}
	accepted := c.do(n, request{what: setMember, session: member, workspace: workspace, value: role}, call{
		method: http.MethodPost, url: "/api/invitations/" + invitation.ID + "/accept",
	})
	if accepted.status != http.StatusOK {
		c.do(n, request{session: s}, call{method: http.MethodDelete, url: path + "/invitations/" + invitation.ID})
	}
	return accepted
}

func dataPath(workspace string) string { return "/api/workspaces/" + workspace + "/data" }

// evict removes a key from a bucket, as an operator or the bucket's limits do.
func (c *cluster) evict(bucket, key string) error {
	kv, err := c.provision.KeyValue(c.t.Context(), bucket)
	if err != nil {
		return err
	}
	return kv.Purge(c.t.Context(), key)
}

// drained waits until every event has left the outbox and the invalidator has handled it.
func (c *cluster) drained() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		stats, err := outbox.ReadStats(c.t.Context(), c.db.Pool)
		if err != nil || stats.Pending > 0 {
			return false
		}
		consumer, err := c.provision.Consumer(c.t.Context(), bus.Events, bus.CacheInvalidator)
		if err != nil {
			return false
		}
		info := consumer.CachedInfo()
		return info.NumPending == 0 && info.NumAckPending == 0
	}, patience, 5*time.Millisecond, "the outbox or the invalidator does not drain")
}

// near waits until a node serves a document from its own memory again.
func (c *cluster) near(n *node, s *session, workspace string) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		return c.getData(n, s, workspace).header.Get("Cache-Status") == "fdc-near; hit"
	}, patience, 5*time.Millisecond, "node %d does not serve from memory", n.index)
}

// version is the row's.
func (c *cluster) version(workspace string) (version int64) {
	c.t.Helper()
	err := c.db.Pool.QueryRow(c.t.Context(), `SELECT version FROM workspace_data WHERE workspace_id = $1`, workspace).Scan(&version)
	require.NoError(c.t, err)
	return version
}

func canonical(document json.RawMessage) string {
	var members map[string]any
	if err := json.Unmarshal(document, &members); err != nil {
		return "unreadable: " + err.Error()
	}
	text, err := json.Marshal(members)
	if err != nil {
		return "unwritable: " + err.Error()
	}
	return string(text)
}
