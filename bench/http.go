package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	plain := http.NewServeMux()
	plain.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body) // an answer that gets lost ends the load with an error
	})
	var ours, theirs loadResult
	err := b.pair(
		func() (err error) { ours, err = b.loadHandler(ctx, bareGin([]byte(body))); return err },
		func() (err error) { theirs, err = b.loadHandler(ctx, plain); return err },
	)
	return httpSamples("bare Gin, small JSON", "Gin", "net/http", ours, theirs), err
}

// httpSession asks who is signed in.
func httpSession(ctx context.Context, b *bench) ([]sample, error) {
	return b.againstGin(ctx, "GET session", func(*account) string { return "/api/auth/session" })
}

// httpDocument reads a document.
func httpDocument(ctx context.Context, b *bench) ([]sample, error) {
	return b.againstGin(ctx, "GET 20 KB document", (*account).documentPath)
}

// againstGin compares a GET of the API with Gin giving out the very bytes that the API answers.
func (b *bench) againstGin(ctx context.Context, name string, path func(*account) string) ([]sample, error) {
	var samples []sample
	err := b.inWorld(ctx, func(w *world) error {
		api, err := b.startAPI(ctx, w)
		if err != nil {
			return err
		}
		requests := make([][]byte, len(api.accounts))
		for i, a := range api.accounts {
			if requests[i], err = api.request(ctx, http.MethodGet, path(a), a, nil); err != nil {
				return errors.Join(err, api.stop())
			}
		}
		body, err := api.get(ctx, path(api.accounts[0]), api.accounts[0])
		if err != nil {
			return errors.Join(err, api.stop())
		}
		var ours, theirs loadResult
		err = b.pair(
			func() (err error) { ours, err = b.load(ctx, api.addr, requests); return err },
			func() (err error) { theirs, err = b.loadHandler(ctx, bareGin(body)); return err },
		)
		samples = httpSamples(name, "API", "bare Gin", ours, theirs)
		return errors.Join(err, api.stop())
	})
	return samples, err
}

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

// loadHandler serves the handler and loads it.
func (b *bench) loadHandler(ctx context.Context, handler http.Handler) (result loadResult, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return result, fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := background(ctx, func(ctx context.Context) error { return daemon.ServeHTTP(ctx, server, listener, time.Second) })
	addr := listener.Addr().String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", http.NoBody)
	if err != nil {
		return result, errors.Join(err, stop())
	}
	wire, err := raw(request)
	if err != nil {
		return result, errors.Join(err, stop())
	}
	requests := make([][]byte, connections)
	for i := range requests {
		requests[i] = wire
	}
	result, err = b.load(ctx, addr, requests)
	return result, errors.Join(err, stop())
}

func (b *bench) load(ctx context.Context, addr string, requests [][]byte) (loadResult, error) {
	return load(ctx, loadRequest{
		Addr: addr, Requests: requests, Status: http.StatusOK, Warmup: min(b.length(), time.Second), Length: b.length(),
	})
}

// runningAPI is cmd/api's service with a user for each connection.
type runningAPI struct {
	addr     string
	accounts []*account
	stop     func() error
}

// account is a user who is signed in and has a workspace with a document.
type account struct {
	token     seal.Secret
	userID    string
	workspace string
}

func (a *account) documentPath() string { return "/api/workspaces/" + a.workspace + "/data" }

func (b *bench) startAPI(ctx context.Context, w *world) (*runningAPI, error) {
	api := &runningAPI{}
	for i := range connections {
		a, err := w.signUp(ctx, i)
		if err != nil {
			return nil, err
		}
		api.accounts = append(api.accounts, a)
	}
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	api.addr = listener.Addr().String()
	// The access log is part of the work: it goes to a file, as in production to a pipe.
	logFile, err := os.Create(filepath.Join(b.dir, w.name, "api.log"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("log: %w", err), listener.Close())
	}
	w.closers = append(w.closers, func() { _ = logFile.Close() }) // nobody reads it
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never returns an error
	config := service.APIConfig{
		Common:    service.Common{Database: w.db, Bus: bus.Config{URL: w.nats.URL("api"), Replicas: 1}},
		Google:    gsync.OAuth{ClientID: "bench", ClientSecret: "bench", Endpoint: "http://127.0.0.1:1"},
		Keys:      service.KeyConfig{Master: seal.Secret("v1:" + base64.StdEncoding.EncodeToString(key))},
		PublicURL: service.PublicURL{URL: &url.URL{Scheme: "http", Host: api.addr}},
		SyncAsync: true,
		Listener:  listener,
		// Users of a benchmark ask more than people do; counting them is part of the work.
		RateLimitFactor: service.MaxRateFactor,
	}
	lent := service.Runtime{
		Log:   telemetry.Logger(telemetry.Config{Level: "info", Format: "json"}, logFile, "api"),
		Admin: daemon.NewAdmin().Service("api"),
	}
	api.stop = background(ctx, func(ctx context.Context) error { return service.RunAPI(ctx, config, lent) })
	if _, err := api.get(ctx, "/api/auth/session", api.accounts[0]); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the API: %w", err), api.stop())
	}
	return api, nil
}

// signUp makes a user with a session and a document.
func (w *world) signUp(ctx context.Context, number int) (*account, error) {
	workspaces := workspace.New(w.outbox)
	by := events.Meta{Source: "/fdc/api", IP: "203.0.113.7", UserAgent: "bench"}
	token, session, err := identity.New(w.outbox, workspaces).SignIn(ctx, by, identity.Profile{
		GoogleID: fmt.Sprint(number), Email: fmt.Sprintf("user%d@example.com", number), Name: fmt.Sprintf("User %d", number),
		EmailVerified: true,
	})
	if err != nil {
		return nil, err
	}
	a := &account{token: token, userID: session.User.ID, workspace: session.Memberships[0].WorkspaceID}
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

// request is a request of the account as it goes over the wire.
func (api *runningAPI) request(ctx context.Context, method, path string, a *account, body []byte) ([]byte, error) {
	r, err := api.newRequest(ctx, method, path, a, body)
	if err != nil {
		return nil, err
	}
	return raw(r)
}

func (api *runningAPI) newRequest(ctx context.Context, method, path string, a *account, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+api.addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.AddCookie(&http.Cookie{Name: "fdc_session", Value: a.token.Reveal()}) //nolint:gosec // a request's cookie has no attributes
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// get asks once and returns the body of the answer.
func (api *runningAPI) get(ctx context.Context, path string, a *account) (body []byte, err error) {
	r, err := api.newRequest(ctx, http.MethodGet, path, a, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if body, err = io.ReadAll(response.Body); err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %s", path, response.Status, body)
	}
	return body, nil
}

// httpPut saves documents, and beside it does with pgx alone what can't be left out: one statement that updates the row
// and puts the event into the outbox. A relay empties the outbox on both sides.
func httpPut(ctx context.Context, b *bench) ([]sample, error) {
	var ours loadResult
	var theirs float64
	err := b.pair(
		func() (err error) { ours, err = b.putDocuments(ctx); return err },
		func() (err error) { theirs, err = b.rawWrites(ctx); return err },
	)
	return []sample{{
		line: line{Case: "PUT 20 KB document", Ours: "API", Baseline: "raw pgx statement", Unit: perSecond},
		ours: ours.PerSecond, baseline: theirs,
	}}, err
}

func (b *bench) putDocuments(ctx context.Context) (result loadResult, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		api, err := b.startAPI(ctx, w)
		if err != nil {
			return err
		}
		requests := make([][]byte, len(api.accounts))
		for i, a := range api.accounts {
			body := fmt.Appendf(nil, `{"data":%s}`, document())
			if requests[i], err = api.request(ctx, http.MethodPut, a.documentPath(), a, body); err != nil {
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
		accounts := make([]*account, connections)
		for i := range accounts {
			if accounts[i], err = w.signUp(ctx, i); err != nil {
				return err
			}
		}
		if err := w.settle(ctx); err != nil {
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
