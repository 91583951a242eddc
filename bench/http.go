package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/seal"
	"fdc/internal/platform/telemetry"
	"fdc/internal/service"
	"fdc/internal/workspace"
)

const (
	connections  = 64
	documentSize = 20_000
)

// httpGin is the yardstick of the other cases: Gin and nothing else, beside net/http and nothing else.
func httpGin(ctx context.Context, b *bench) ([]sample, error) {
	const body = `{"status":"ok"}`
	requests, err := asking(ctx, make([]*http.Cookie, connections))
	if err != nil {
		return nil, err
	}
	plain := http.NewServeMux()
	plain.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body) // an answer that gets lost ends the load with an error
	})
	var ours, theirs loadResult
	err = b.inTurns(
		func() (err error) { ours, err = b.loadHandler(ctx, bareGin([]byte(body)), requests); return err },
		func() (err error) { theirs, err = b.loadHandler(ctx, plain, requests); return err },
	)
	return httpSamples("bare Gin, small JSON", "Gin", "net/http", ours, theirs), err
}

// httpSession asks who is signed in.
func httpSession(ctx context.Context, b *bench) ([]sample, error) {
	return b.read(ctx, reading{
		name: "GET session", path: func(*account) string { return "/api/auth/session" },
		gin: target{Ratio: 0.85}, redis: target{Ratio: 2}, keep: inSession,
	})
}

// httpDocument reads a document.
func httpDocument(ctx context.Context, b *bench) ([]sample, error) {
	return b.read(ctx, reading{
		name: "GET 20 KB document", path: (*account).documentPath, redis: target{Ratio: 2}, keep: besideSession,
	})
}

// httpNotModified asks for a document that the client has.
func httpNotModified(ctx context.Context, b *bench) ([]sample, error) {
	return b.read(ctx, reading{
		name: "GET document, 304", path: (*account).documentPath, held: true, gin: target{Ratio: 0.9},
	})
}

// reading is a case in which every user reads something of their own through the API, beside servers that give out the
// very same bytes.
type reading struct {
	name  string
	path  func(*account) string
	held  bool // the client sends the ETag of what it has, and gets 304
	gin   target
	redis target
	keep  place // where the peer with Redis has the bytes
}

func (b *bench) read(ctx context.Context, r reading) ([]sample, error) {
	var samples []sample
	err := b.inWorld(ctx, func(w *world) error {
		accounts, err := w.signUpAll(ctx, connections)
		if err != nil {
			return err
		}
		api, err := b.startAPI(ctx, w, accounts)
		if err != nil {
			return err
		}
		samples, err = b.readBeside(ctx, api, r)
		return errors.Join(err, api.stop())
	})
	return samples, err
}

func (b *bench) readBeside(ctx context.Context, api *runningAPI, r reading) ([]sample, error) {
	expect := http.StatusOK
	requests := make([]exchange, len(api.accounts))
	answers := make([]answer, len(api.accounts))
	var headers http.Header // of what the load is answered
	for i, a := range api.accounts {
		var err error
		if answers[i], err = api.get(ctx, r.path(a), a); err != nil {
			return nil, err
		}
		request, err := api.newRequest(ctx, http.MethodGet, r.path(a), a, nil)
		if err != nil {
			return nil, err
		}
		if r.held {
			expect = http.StatusNotModified
			request.Header.Set("If-None-Match", answers[i].header.Get("ETag"))
		}
		if requests[i], err = exchangeOf(request, expect); err != nil {
			return nil, err
		}
		if i == 0 {
			loaded, err := fetch(request)
			if err != nil {
				return nil, err
			}
			headers = loaded.header
		}
	}
	var ours, bare, alike, redis loadResult
	handler := bareGin(answers[0].body)
	if r.held {
		handler = bareNotModified(answers[0].header.Get("ETag"))
	}
	sides := []func() error{
		func() (err error) { ours, err = b.load(ctx, api.addr, requests); return err },
		func() (err error) { bare, err = b.loadHandler(ctx, handler, requests); return err },
		func() (err error) {
			alike, err = b.loadHandler(ctx, withHeaders(handler, headers), requests)
			return err
		},
	}
	if r.keep != nowhere && b.cache != nil {
		peer, err := newRedisPeer(ctx, b.cache.addr, answers, r.keep)
		if err != nil {
			return nil, err
		}
		defer peer.close()
		theirs, err := asking(ctx, peer.cookies)
		if err != nil {
			return nil, err
		}
		sides = append(sides, func() (err error) {
			redis, err = b.loadHandler(ctx, peer.handler(), theirs) //nolint:contextcheck // a handler has its request's
			return err
		})
	}
	if err := b.inTurns(sides...); err != nil {
		return nil, err
	}
	samples := httpSamples(r.name, "API", "bare Gin", ours, bare)
	samples[0].Target = r.gin
	samples = append(samples, httpSamples(r.name, "API", "bare Gin, same headers", ours, alike)[0])
	if r.keep != nowhere {
		beside := httpSamples(r.name, "API", "Gin, Redis per request", ours, redis)
		beside[0].Target = r.redis
		if b.cache == nil {
			for i := range beside {
				beside[i].absent = noRedis
			}
		}
		samples = append(samples, beside...)
	}
	return samples, nil
}

const noRedis = "redis-server not found"

func httpSamples(name, ours, baseline string, our, their loadResult) []sample {
	return []sample{
		{line: line{Case: name, Ours: ours, Baseline: baseline, Unit: perSecond}, ours: our.PerSecond, baseline: their.PerSecond},
		{line: line{Case: name + ", p99", Ours: ours, Baseline: baseline, Unit: milliseconds}, ours: our.P99, baseline: their.P99},
	}
}

// bareGin answers everything with the same body.
func bareGin(body []byte) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/*path", func(c *gin.Context) { c.Data(http.StatusOK, "application/json", body) })
	return engine
}

// bareNotModified answers everything with 304.
func bareNotModified(etag string) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/*path", func(c *gin.Context) {
		c.Header("ETag", etag)
		c.Status(http.StatusNotModified)
	})
	return engine
}

// withHeaders gives all answers of a handler some headers, but for those that the server sets itself.
func withHeaders(handler http.Handler, headers http.Header) http.Handler {
	headers = headers.Clone()
	for _, own := range []string{"Content-Length", "Content-Type", "Date"} {
		headers.Del(own)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), headers)
		handler.ServeHTTP(w, r)
	})
}

// asking makes a request of nothing in particular for each cookie, or without one where that is nil.
func asking(ctx context.Context, cookies []*http.Cookie) ([]exchange, error) {
	requests := make([]exchange, len(cookies))
	for i, cookie := range cookies {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/", http.NoBody)
		if err != nil {
			return nil, err
		}
		if cookie != nil {
			request.AddCookie(cookie)
		}
		if requests[i], err = exchangeOf(request, http.StatusOK); err != nil {
			return nil, err
		}
	}
	return requests, nil
}

// loadHandler serves the handler and loads it, each connection with its request. Whose the Host header is doesn't matter to it.
func (b *bench) loadHandler(ctx context.Context, handler http.Handler, requests []exchange) (result loadResult, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return result, fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := background(ctx, func(ctx context.Context) error { return daemon.ServeHTTP(ctx, server, listener, time.Second) })
	result, err = b.load(ctx, listener.Addr().String(), requests)
	return result, errors.Join(err, stop())
}

// load sends each connection's request again and again.
func (b *bench) load(ctx context.Context, addr string, requests []exchange) (loadResult, error) {
	each := make([][]exchange, len(requests))
	for i, request := range requests {
		each[i] = []exchange{request}
	}
	return load(ctx, loadRequest{Addr: addr, Connections: each, Warmup: min(b.length(), time.Second), Length: b.length()})
}

// exchangeOf is a request as it goes over the wire, with the status of its answer.
func exchangeOf(r *http.Request, status int) (exchange, error) {
	wire, err := raw(r)
	return exchange{Wire: wire, Status: status}, err
}

// runningAPI is cmd/api's service.
type runningAPI struct {
	addr     string
	accounts []*account
	stop     func() error
}

// account is a user who is signed in and has a workspace with a document.
type account struct {
	token     seal.Secret
	userID    string
	email     string
	workspace string
}

func (a *account) documentPath() string { return "/api/workspaces/" + a.workspace + "/data" }

func (w *world) signUpAll(ctx context.Context, n int) ([]*account, error) {
	accounts := make([]*account, n)
	for i := range accounts {
		var err error
		if accounts[i], err = w.signUp(ctx, i); err != nil {
			return nil, err
		}
	}
	return accounts, w.settle(ctx)
}

// startAPI starts a node for users who have signed up.
func (b *bench) startAPI(ctx context.Context, w *world, accounts []*account) (*runningAPI, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	api := &runningAPI{addr: listener.Addr().String(), accounts: accounts}
	// The access log is part of the work: it goes to a file, as in production to a pipe.
	logFile, err := os.CreateTemp(filepath.Join(b.dir, w.name), "api-*.log")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("log: %w", err), listener.Close())
	}
	logged := telemetry.NewBuffer(logFile)
	w.closers = append(w.closers, func() { _ = errors.Join(logged.Close(), logFile.Close()) }) // nobody reads it
	config := service.APIConfig{
		Common:    service.Common{Database: w.db, Bus: bus.Config{URL: w.nats.URL("api"), Replicas: 1}},
		Google:    gsync.OAuth{ClientID: "bench", ClientSecret: "bench", Endpoint: "http://127.0.0.1:1"},
		Keys:      service.KeyConfig{Master: seal.NewKey("v1")},
		PublicURL: service.PublicURL{URL: &url.URL{Scheme: "http", Host: api.addr}},
		SyncAsync: true,
		Listener:  listener,
		// Users of a benchmark ask more than people do; counting them is part of the work.
		RateLimitFactor: service.MaxRateFactor,
	}
	lent := service.Runtime{
		Log:   telemetry.Logger(telemetry.Config{Level: "info", Format: "json"}, logged, "api"),
		Admin: daemon.NewAdmin().Service("api"),
	}
	api.stop = background(ctx, func(ctx context.Context) error {
		defer daemon.TuneCollector(service.Garbage)() // as in a process of its own
		return service.RunAPI(ctx, config, lent)
	})
	if err := api.awaitCache(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the API: %w", err), api.stop())
	}
	return api, nil
}

// awaitCache waits until the node answers from memory what was asked before.
func (api *runningAPI) awaitCache(ctx context.Context) error {
	return until(ctx, 30*time.Second, func(ctx context.Context) (bool, error) {
		answer, err := api.get(ctx, api.accounts[0].documentPath(), api.accounts[0])
		return answer.header.Get("Cache-Status") == "fdc-near; hit", err
	})
}

// signUp makes a user with a session and a document.
func (w *world) signUp(ctx context.Context, number int) (*account, error) {
	workspaces := workspace.New(w.outbox)
	by := events.Meta{Source: "/fdc/api", IP: "203.0.113.7", UserAgent: "bench"}
	email := fmt.Sprintf("user%d@example.com", number)
	token, session, err := identity.New(w.outbox, workspaces, gsync.Access{}).SignIn(ctx, by, identity.Profile{
		GoogleID: fmt.Sprint(number), Email: email, Name: fmt.Sprintf("User %d", number), EmailVerified: true,
	})
	if err != nil {
		return nil, err
	}
	a := &account{token: token, userID: session.User.ID, email: email, workspace: session.Memberships[0].WorkspaceID}
	by.ActorID, by.UserID = a.userID, a.userID
	_, err = workspaces.PutData(ctx, by, a.userID, a.workspace, document(), workspace.Expect{})
	return a, err
}

// document is a board of cards, each with an id and a title that no compressor makes disappear.
func document() json.RawMessage {
	type card struct {
		ID    string   `json:"id"`
		Title string   `json:"title"`
		Tags  []string `json:"tags"`
		Done  bool     `json:"done"`
	}
	board := map[string][]card{}
	for size := 0; size < documentSize; {
		c := card{ID: events.NewID(), Title: "Call " + rand.Text() + " back, then " + rand.Text(), Tags: []string{"work", rand.Text()[:6]}}
		column := fmt.Sprintf("column%d", size%5)
		board[column] = append(board[column], c)
		size += 180
	}
	data, _ := json.Marshal(board) // strings and booleans can't fail
	return data
}

// request is what the account sends, with the status of the answer.
func (api *runningAPI) request(
	ctx context.Context, status int, method, path string, a *account, body []byte,
) (exchange, error) {
	r, err := api.newRequest(ctx, method, path, a, body)
	if err != nil {
		return exchange{}, err
	}
	return exchangeOf(r, status)
}

func (api *runningAPI) newRequest(ctx context.Context, method, path string, a *account, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+api.addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.AddCookie(&http.Cookie{Name: "fdc_session", Value: a.token.Reveal()}) //nolint:gosec // a request's cookie has no attributes
	switch {
	case method == http.MethodPatch:
		r.Header.Set("Content-Type", "application/merge-patch+json")
	case body != nil:
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// answer is one that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask asks once.
func (api *runningAPI) ask(ctx context.Context, method, path string, a *account) (answer, error) {
	r, err := api.newRequest(ctx, method, path, a, nil)
	if err != nil {
		return answer{}, err
	}
	return fetch(r)
}

func fetch(r *http.Request) (got answer, err error) {
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	got = answer{status: response.StatusCode, header: response.Header}
	if got.body, err = io.ReadAll(response.Body); err != nil {
		return got, fmt.Errorf("read answer of %s: %w", r.URL.Path, err)
	}
	return got, nil
}

// get asks for something that must be there.
func (api *runningAPI) get(ctx context.Context, path string, a *account) (answer, error) {
	got, err := api.ask(ctx, http.MethodGet, path, a)
	if err == nil && got.status != http.StatusOK {
		err = fmt.Errorf("%s answers %d: %s", path, got.status, got.body)
	}
	return got, err
}

// httpPut saves documents, and beside it does with pgx alone what can't be left out: one statement that updates the row
// and puts the event into the outbox. A relay empties the outbox on both sides.
func httpPut(ctx context.Context, b *bench) ([]sample, error) {
	var ours loadResult
	var theirs float64
	err := b.inTurns(
		func() (err error) { ours, err = b.putDocuments(ctx); return err },
		func() (err error) { theirs, err = b.rawWrites(ctx); return err },
	)
	return []sample{{
		line: line{Case: "PUT 20 KB document", Ours: "API", Baseline: "raw pgx statement", Unit: perSecond, Target: target{Ratio: 0.85}},
		ours: ours.PerSecond, baseline: theirs,
	}}, err
}

func (b *bench) putDocuments(ctx context.Context) (result loadResult, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		accounts, err := w.signUpAll(ctx, connections)
		if err != nil {
			return err
		}
		api, err := b.startAPI(ctx, w, accounts)
		if err != nil {
			return err
		}
		requests := make([]exchange, len(accounts))
		for i, a := range accounts {
			body := fmt.Appendf(nil, `{"data":%s}`, document())
			if requests[i], err = api.request(ctx, http.StatusOK, http.MethodPut, a.documentPath(), a, body); err != nil {
				return errors.Join(err, api.stop())
			}
		}
		result, err = b.load(ctx, api.addr, requests)
		return errors.Join(err, api.stop())
	})
	return result, err
}

func (b *bench) rawWrites(ctx context.Context) (perSecond float64, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		accounts, err := w.signUpAll(ctx, connections)
		if err != nil {
			return err
		}
		stop := background(ctx, w.relay().Run)
		perSecond, err = b.writeRaw(ctx, w, accounts)
		return errors.Join(err, stop())
	})
	return perSecond, err
}

func (b *bench) writeRaw(ctx context.Context, w *world, accounts []*account) (float64, error) {
	from := time.Now().Add(min(b.length(), time.Second))
	to := from.Add(b.length())
	counts := make([]int, len(accounts))
	var writers errgroup.Group
	for i, a := range accounts {
		data := document()
		event := events.New(meta(a.userID), "", events.WorkspaceDataUpdated{
			WorkspaceID: a.workspace, Version: 1, Changed: []string{"/column0", "/column1"}, Bytes: int64(len(data)),
		})
		body, err := events.Encode(event)
		if err != nil {
			return 0, err
		}
		writers.Go(func() error {
			for start := time.Now(); start.Before(to); start = time.Now() {
				_, err := w.pool.Exec(ctx, `
					WITH saved AS (
						UPDATE workspace_data SET data = $2, version = version + 1, last_modified = now()
						WHERE workspace_id = $1 RETURNING version
					)
					INSERT INTO outbox (event_id, aggregate, version, subject, body)
					SELECT $3, $4, version, $5, $6 FROM saved`,
					a.workspace, data, events.NewID(), event.Aggregate(), event.NATSSubject(), body)
				if err != nil {
					return fmt.Errorf("write document: %w", err)
				}
				if start.After(from) {
					counts[i]++
				}
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		return 0, err
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	return rate(total, b.length()), nil
}
