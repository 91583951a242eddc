package gsync

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/devstack/googleemu/referee"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

const (
	alice = "alice@example.com"
	bob   = "bob@example.com"
)

// patience is more than anything takes that happens at all.
const patience = 2 * time.Minute

// testMeta is the circumstance of a test's writes.
var testMeta = events.Meta{Source: "/fdc/test", ActorID: events.SystemActor}

// world is a Google, a database, and the features on top. Every exchange with Google is judged by its own documents.
type world struct {
	t          *testing.T
	google     *googleemu.Emulator
	base       string
	db         *pgtest.DB
	ob         *outbox.Outbox
	workspaces *workspace.Service
	tasks      *task.Service
	*Service

	gate gate
}

// gate lets a test stand in the way of requests to Google.
type gate struct {
	mu            sync.Mutex
	first, second func(*http.Request) // called before and after each request, nil for none
	next          http.RoundTripper
}

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	first, second := g.first, g.second
	g.mu.Unlock()
	if first != nil {
		first(r)
	}
	resp, err := g.next.RoundTrip(r)
	if second != nil {
		second(r)
	}
	return resp, err
}

// before calls fn before each request to Google from now on.
func (w *world) before(fn func(*http.Request)) { w.around(fn, nil) }

// around calls first before and second after each request to Google from now on.
func (w *world) around(first, second func(*http.Request)) {
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	w.gate.first, w.gate.second = first, second
}

// newWorld returns a world with a database of its own, in which a test may run runners and the scheduler, and look at whole tables.
func newWorld(t *testing.T) *world {
	t.Helper()
	return worldOn(t, openStore(t), nil)
}

// shared returns a world whose database has the users of other tests too. Nothing in it may act on jobs that are not its users'.
func shared(t *testing.T) *world {
	t.Helper()
	return worldOn(t, stores.Get(t), nil)
}

// store is a database with FDC's pool.
type store struct {
	db *pgtest.DB
	ob *outbox.Outbox
}

var stores = testenv.Shared[store]{Make: openStore}

func TestMain(m *testing.M) {
	testenv.Parallel(4) // pauses that Google asks for, leases
	testenv.Main(m)
}

func openStore(tb testing.TB) store {
	tb.Helper()
	db := pgtest.New(tb)
	pool, err := postgres.Open(tb.Context(), postgres.Config{URL: db.URL, MaxConns: 10, ConnectTimeout: patience}, "gsync-test")
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	return store{db, outbox.New(pool, nil)}
}

func worldOn(t *testing.T, s store, nc *nats.Conn) *world {
	t.Helper()
	emulator, err := googleemu.New(googleemu.Options{Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)})
	require.NoError(t, err)
	server := httptest.NewServer(emulator)
	t.Cleanup(func() {
		server.Close()
		require.NoError(t, emulator.Close())
	})
	w := &world{t: t, google: emulator, base: server.URL, db: s.db, ob: s.ob}
	w.gate.next, err = referee.New(newTransport(), t.Errorf)
	require.NoError(t, err)
	w.workspaces = workspace.New(w.ob)
	w.tasks = task.New(w.ob, w.workspaces)
	w.Service = w.newService(nc)
	return w
}

const testKey = "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// newService returns one more node on the same database and Google.
func (w *world) newService(nc *nats.Conn) *Service {
	w.t.Helper()
	keys, err := seal.ParseKeys(testKey)
	require.NoError(w.t, err)
	s := New(Config{
		Outbox: w.ob, OAuth: OAuth{ClientID: "fdc-test", ClientSecret: "secret", Endpoint: w.base}, Keys: keys, Tasks: w.tasks,
		Members: w.workspaces, Source: "/fdc/syncer", Version: "test", NATS: nc, Backoff: 5 * time.Millisecond, Transport: &w.gate,
		Log: zerolog.New(zerolog.NewTestWriter(w.t)).Level(zerolog.WarnLevel),
	})
	s.eventPage = testPage
	return s
}

// testPage is a page of events in tests: small, so that few events are many pages.
const testPage = 50

// person is a user with a workspace and a Google account.
type person struct {
	*world
	email       string
	id          string
	workspaceID string
}

// user makes a user, whose Google account exists or is made. FDC knows the user by another address, which no other test has.
func (w *world) user(email string) *person {
	w.t.Helper()
	require.NoError(w.t, w.google.AddUser(email, "A Person"))
	p := &person{world: w, email: email, id: events.NewID()}
	err := w.ob.Tx(w.t.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(w.t.Context(), `INSERT INTO users (id, email, google_id) VALUES ($1, $2, 'g-' || $2)`, p.id, p.id+"@fdc.example")
		if err == nil {
			p.workspaceID, err = w.workspaces.CreateTx(w.t.Context(), tx, testMeta, p.id, "Own")
		}
		return err
	})
	require.NoError(w.t, err)
	return p
}

// connected makes a user and connects Google.
func (w *world) connected(email string) *person {
	w.t.Helper()
	p := w.user(email)
	require.NoError(w.t, w.Connect(w.t.Context(), testMeta, p.id, p.consent(email, true)))
	return p
}

// consent walks through the sign-in page as a browser would.
func (p *person) consent(email string, connect bool) Grant {
	p.t.Helper()
	const redirect = "http://127.0.0.1/callback"
	verifier := oauth2.GenerateVerifier()
	purpose := ForSignIn
	if connect {
		purpose = ForConnect
	}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.AuthURL("state", verifier, redirect, email, purpose), http.NoBody)
	require.NoError(p.t, err)
	resp, err := browser.Do(req)
	require.NoError(p.t, err)
	require.NoError(p.t, resp.Body.Close())
	back, err := url.Parse(resp.Header.Get("Location"))
	require.NoError(p.t, err)
	require.Equal(p.t, "state", back.Query().Get("state"))
	grant, err := p.Exchange(p.t.Context(), back.Query().Get("code"), verifier, redirect)
	require.NoError(p.t, err)
	return grant
}

// sync runs a sync to its end.
func (p *person) sync(typ, mode string) Job {
	p.t.Helper()
	job, err := p.RunNow(p.t.Context(), testMeta, p.id, Ask{Type: typ, Mode: mode})
	require.NoError(p.t, err)
	return job
}

// synced runs a sync that must be completed, and returns what it did.
func (p *person) synced(typ, mode string) Result {
	p.t.Helper()
	job := p.sync(typ, mode)
	require.Equal(p.t, StatusCompleted, job.Status, "%+v", job.Error)
	require.NotNil(p.t, job.Result)
	return *job.Result
}

// quiet checks that nothing is left to do.
func (p *person) quiet() {
	p.t.Helper()
	for _, mode := range []string{events.SyncIncremental, events.SyncResync} {
		before := len(p.writes())
		result := p.synced(events.SyncFull, mode)
		require.Zero(p.t, result.Tasks, mode)
		require.Zero(p.t, result.Calendar, mode)
		require.Empty(p.t, p.writes()[before:], mode)
	}
}

// http is a client that acts as the person at Google, past the referee and the gate.
func (p *person) http() *http.Client {
	p.t.Helper()
	token, err := p.google.Token(p.email)
	require.NoError(p.t, err)
	return oauth2.NewClient(p.t.Context(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token}))
}

func (p *person) googleTasks() *tasks.Service {
	p.t.Helper()
	s, err := tasks.NewService(p.t.Context(), option.WithHTTPClient(p.http()), option.WithEndpoint(p.base+"/"))
	require.NoError(p.t, err)
	return s
}

func (p *person) googleCalendar() *calendar.Service {
	p.t.Helper()
	s, err := calendar.NewService(p.t.Context(), option.WithHTTPClient(p.http()), option.WithEndpoint(p.base+"/calendar/v3/"))
	require.NoError(p.t, err)
	return s
}

// there are the living tasks of the default list at Google, by title.
func (p *person) there() map[string][]*tasks.Task {
	p.t.Helper()
	byTitle := map[string][]*tasks.Task{}
	err := p.googleTasks().Tasks.List(defaultList).ShowHidden(true).MaxResults(100).Pages(p.t.Context(), func(page *tasks.Tasks) error {
		for _, one := range page.Items {
			byTitle[one.Title] = append(byTitle[one.Title], one)
		}
		return nil
	})
	require.NoError(p.t, err)
	return byTitle
}

// here are the tasks of the own workspace, by title.
func (p *person) here() map[string][]task.Task {
	p.t.Helper()
	byTitle := map[string][]task.Task{}
	for cursor := ""; ; {
		items, next, err := p.tasks.List(p.t.Context(), p.id, p.workspaceID, cursor, 200)
		require.NoError(p.t, err)
		for _, one := range items {
			byTitle[one.Title] = append(byTitle[one.Title], one)
		}
		if cursor = next; cursor == "" {
			return byTitle
		}
	}
}

// equal checks that both sides have the same tasks, each once.
func (p *person) equal() {
	p.t.Helper()
	var ours, theirs []string
	text := func(f fields) string { return fmt.Sprintf("%q", f) }
	for _, same := range p.here() {
		for _, one := range same {
			ours = append(ours, text(localFields(one.Draft)))
		}
	}
	for _, same := range p.there() {
		for _, one := range same {
			theirs = append(theirs, text(remoteFields(one)))
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	require.Equal(p.t, theirs, ours)
}

func (p *person) create(d task.Draft) task.Task {
	p.t.Helper()
	made, err := p.tasks.Create(p.t.Context(), testMeta, p.id, p.workspaceID, d)
	require.NoError(p.t, err)
	return made
}

func (p *person) patch(id, patch string) task.Task {
	p.t.Helper()
	changed, err := p.tasks.Patch(p.t.Context(), testMeta, p.id, p.workspaceID, id, json.RawMessage(patch), nil)
	require.NoError(p.t, err)
	nextTick()
	return changed
}

// nextTick ends the millisecond, the resolution of Google's timestamps: what happens at Google afterwards is later by its clock too.
func nextTick() { <-time.After(time.Millisecond) }

func (p *person) remove(id string) {
	p.t.Helper()
	require.NoError(p.t, p.tasks.Delete(p.t.Context(), testMeta, p.id, p.workspaceID, id))
	nextTick()
}

// one is the only task of that title here.
func (p *person) one(title string) task.Task {
	p.t.Helper()
	same := p.here()[title]
	require.Len(p.t, same, 1, title)
	return same[0]
}

// oneThere is the only task of that title at Google.
func (p *person) oneThere(title string) *tasks.Task {
	p.t.Helper()
	same := p.there()[title]
	require.Len(p.t, same, 1, title)
	return same[0]
}

// control uses the emulator's own API.
func (w *world) control(method, path string, in, out any) {
	w.t.Helper()
	body, err := json.Marshal(in)
	require.NoError(w.t, err)
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.base+path, bytes.NewReader(body))
	require.NoError(w.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	require.NoError(w.t, resp.Body.Close())
	require.Less(w.t, resp.StatusCode, 300, "%s", answer)
	if out != nil {
		require.NoError(w.t, json.Unmarshal(answer, out))
	}
}

type object = map[string]any

// fault makes the matching requests go wrong.
func (w *world) fault(method, path string, nth, count int, fault object) {
	w.t.Helper()
	w.control(http.MethodPut, "/_emulator/faults", []object{{
		"match": object{"method": method, "path": path}, "nth": nth, "count": count, "fault": fault,
	}}, nil)
}

type loggedRequest struct {
	Seq    int64      `json:"seq"`
	Method string     `json:"method"`
	Path   string     `json:"path"`
	Query  url.Values `json:"query"`
	User   string     `json:"user"`
	Status int        `json:"status"`
	Agent  string     `json:"userAgent"`
}

// requests are those of FDC to Google, oldest first.
func (w *world) requests() []loggedRequest {
	w.t.Helper()
	var log struct{ Items []loggedRequest }
	w.control(http.MethodGet, "/_emulator/requests?since=0", nil, &log)
	return slices.DeleteFunc(log.Items, func(r loggedRequest) bool { return r.Agent != "fdc/test" })
}

// writes are the requests that may have changed something at Google.
func (w *world) writes() []loggedRequest {
	w.t.Helper()
	return slices.DeleteFunc(w.requests(), func(r loggedRequest) bool {
		return r.Method == http.MethodGet || strings.HasPrefix(r.Path, "/token") || strings.HasPrefix(r.Path, "/revoke")
	})
}

// told are the actions of the events in the outbox, oldest first, of one user.
func (w *world) told(userID string) []string {
	w.t.Helper()
	rows, err := w.db.Pool.Query(w.t.Context(), `
		SELECT body FROM outbox WHERE strpos(convert_from(body, 'UTF8'), $1) > 0 ORDER BY id`, userID)
	require.NoError(w.t, err)
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(w.t, err)
	var actions []string
	for _, body := range bodies {
		event, err := events.Decode(body)
		require.NoError(w.t, err)
		if event.UserID == userID {
			actions = append(actions, event.Action())
		}
	}
	return actions
}

// count counts how often an action was told of a user.
func (w *world) count(userID, action string) int {
	w.t.Helper()
	n := 0
	for _, told := range w.told(userID) {
		if told == action {
			n++
		}
	}
	return n
}

// run starts a runner and returns the way to stop it, which is used at the end of the test at the latest.
func (w *world) run(s *Service, cfg RunnerConfig) (r *Runner, stop func()) {
	w.t.Helper()
	if cfg.Poll == 0 {
		cfg.Poll = 20 * time.Millisecond
	}
	r = NewRunner(s, cfg)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(w.t, <-done)
	})
	w.t.Cleanup(stop)
	return r, stop
}

// eventually waits until the condition holds.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	require.Eventually(w.t, holds, patience, 10*time.Millisecond, what)
}

// ended waits for the end of a job.
func (p *person) ended(jobID string) Job {
	p.t.Helper()
	var job Job
	p.eventually("the job ends", func() bool {
		var err error
		job, err = p.Job(p.t.Context(), p.id, jobID)
		require.NoError(p.t, err)
		return job.Ended()
	})
	return job
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.db.Pool.Exec(w.t.Context(), sql, args...)
	require.NoError(w.t, err)
}

func decode(body []byte, out any) error { return json.Unmarshal(body, out) }

// calendarIn are new settings of the primary calendar.
func calendarIn(zone string) googleemu.Calendar {
	return googleemu.Calendar{ID: primaryCalendar, TimeZone: zone}
}
