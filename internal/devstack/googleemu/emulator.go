package googleemu

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Limits of one emulator. Real ones are Google's; the others keep a forgotten client from filling the memory.
const (
	maxBody            = 1 << 20
	maxUsers           = 10_000
	maxCalendars       = 1_000   // per user
	maxEvents          = 200_000 // per calendar
	maxTaskLists       = 2_000   // per user, Google's
	maxTasks           = 100_000 // per list, Google's
	maxRefreshTokens   = 100     // per client and user, Google's
	maxChannels        = 10_000
	maxAuthCodes       = 10_000
	maxAccessTokens    = 100_000
	maxFaults          = 1_000
	maxNotifications   = 1_024
	requestLogSize     = 10_000
	maxSnapshots       = 4_096
	maxSnapshotRows    = 1_000_000
	maxInstances       = 730 // of one series, where no timeMax ends it
	maxRecurrenceSteps = 50_000
)

// object is one JSON object. Those inside records are immutable once stored.
type object = map[string]any

// Options say how an Emulator runs.
type Options struct {
	Clock func() time.Time // time.Now when nil
	File  string           // where the state is kept over restarts; nowhere when empty
	Log   zerolog.Logger
}

// Emulator is one Google. It is safe for concurrent use.
type Emulator struct {
	clock    func() time.Time
	log      zerolog.Logger
	mux      *http.ServeMux
	file     string
	dirty    chan struct{} // a save is due
	notifier *notifier
	stop     context.CancelFunc
	stopped  chan struct{} // closed by stop: ends latencies
	running  sync.WaitGroup

	mu       sync.Mutex
	st       *state // what outlives the process
	codes    map[string]authCode
	pages    *pageStore
	faults   []*faultRule
	requests requestLog
}

// New returns an emulator with the state of Options.File, or an empty one. It fails on a file it cannot read or write.
func New(o Options) (*Emulator, error) {
	st, err := loadState(o.File)
	if err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &Emulator{
		clock:    o.Clock,
		log:      o.Log,
		mux:      http.NewServeMux(),
		file:     o.File,
		dirty:    make(chan struct{}, 1),
		notifier: newNotifier(o.Log),
		stop:     stop,
		stopped:  make(chan struct{}),
		st:       st,
		codes:    map[string]authCode{},
		pages:    newPageStore(),
	}
	if err := e.save(false); err != nil { // while it runs the file says so; and one that can't be written is found out now
		stop()
		return nil, err
	}
	context.AfterFunc(ctx, func() { close(e.stopped) })
	e.routeOAuth()
	e.routeCalendar()
	e.routeWatch()
	e.routeTasks()
	e.routeControl()
	e.google("/", func(c *call) reply { return notFound(c.path).reply() })
	e.running.Go(func() { e.notifier.run(ctx) })
	if e.file != "" {
		e.running.Go(func() { e.keepSaved(ctx) })
	}
	return e, nil
}

// Close stops the notifications and writes the state to its file; the server in front is stopped before.
// It may be called more than once.
func (e *Emulator) Close() error {
	e.stop()
	e.running.Wait()
	return e.save(true)
}

// ServeHTTP answers Google's paths and the control API's.
func (e *Emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_emulator/") && fromAnotherOrigin(r) {
		http.Error(w, "The control API refuses pages of other origins.", http.StatusForbidden)
		return
	}
	e.mux.ServeHTTP(w, r)
}

// fromAnotherOrigin reports whether a page of another origin makes the request. Programs send neither of the two headers.
func fromAnotherOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return true
	}
	origin := r.Header.Get("Origin")
	return origin != "" && origin != "http://"+r.Host && origin != "https://"+r.Host
}

// now is the emulator's time: the clock's plus what the control API added, in the resolution of Google's timestamps.
// The caller holds e.mu.
func (e *Emulator) now() time.Time {
	return e.clock().Add(e.st.Advance).UTC().Truncate(time.Millisecond)
}

// changed asks for a save. It never blocks.
func (e *Emulator) changed() {
	select {
	case e.dirty <- struct{}{}:
	default:
	}
}

// call is one request to one of Google's paths.
type call struct {
	*http.Request
	path  string // decoded
	query url.Values
	form  url.Values // of /token and /revoke
	body  []byte
	now   time.Time
	email string // whom the request log and the faults name; "" when nobody is known
	user  *user  // whose data an authorized call is about
}

// reply is an answer not yet written. The value in json may be a func() any, called when no lock is held.
type reply struct {
	status int
	header http.Header
	json   any
	html   string
}

// google serves one of Google's paths: faults first, then the handler under the lock, then the request log, then the wire.
func (e *Emulator) google(pattern string, handle func(*call) reply) {
	e.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c := &call{Request: r, path: r.URL.Path, query: r.URL.Query()}
		tooLarge := c.read(w)
		fault := e.admit(c)
		if !e.delay(r.Context(), fault.latency()) {
			fault.Drop = dropBefore // the client, or the emulator, is gone
		}

		var answer reply
		switch {
		case fault.Drop == dropBefore:
		case fault.Status != 0 && fault.Drop == "":
			answer = fault.reply(c)
		case tooLarge != nil:
			answer = tooLarge.reply()
		default:
			answer = e.locked(c, handle)
		}
		body := answer.encode(c)
		if fault.Drop != "" {
			answer.status = 0 // nothing reaches the client
		}
		e.record(c, answer.status)
		e.deliver(w, answer, body, fault)
	})
}

// locked runs a handler alone. Its lock outlives no panic: net/http recovers from those.
func (e *Emulator) locked(c *call, handle func(*call) reply) reply {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.now = e.now()
	return handle(c)
}

// read takes the body in and, where it is a form, apart.
func (c *call) read(w http.ResponseWriter) *apiError {
	body, err := io.ReadAll(http.MaxBytesReader(w, c.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return &apiError{code: http.StatusRequestEntityTooLarge, reason: "uploadTooLarge", message: "Request Too Large"}
		}
		return badRequest("badRequest", "The request body could not be read.")
	}
	c.body = body
	if mediaType(c.Header.Get("Content-Type")) == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return badRequest("badRequest", "The form could not be read.")
		}
		c.form = form
	}
	return nil
}

func mediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// formValue is a parameter of an OAuth endpoint, which Google takes from the form or from the query.
func (c *call) formValue(name string) string {
	if v := c.form.Get(name); v != "" {
		return v
	}
	return c.query.Get(name)
}

// bearer is the access token the call came with.
func (c *call) bearer() string {
	scheme, token, _ := strings.Cut(c.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// delay waits, and reports whether the client and the emulator are still there.
func (e *Emulator) delay(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-e.stopped:
	}
	return false
}

// encode makes the body, and of an answer the client already has a 304.
func (r *reply) encode(c *call) []byte {
	if r.header == nil {
		r.header = http.Header{}
	}
	if r.html != "" {
		r.header.Set("Content-Type", "text/html; charset=UTF-8")
		return []byte(r.html)
	}
	value := r.json
	if late, ok := value.(func() any); ok {
		value = late()
	}
	if value == nil {
		return nil
	}
	if o, ok := value.(object); ok && r.status == http.StatusOK && c.Method == http.MethodGet {
		if etag, ok := o["etag"].(string); ok {
			r.header.Set("ETag", etag)
			if c.Header.Get("If-None-Match") == etag {
				r.status = http.StatusNotModified
				return nil
			}
		}
	}
	r.header.Set("Content-Type", "application/json; charset=UTF-8")
	body, err := encodeJSON(value)
	if err != nil {
		r.status = http.StatusInternalServerError
		return fmt.Appendf(nil, `{"error":{"code":500,"message":%q}}`, err.Error())
	}
	return body
}

func encodeJSON(v any) ([]byte, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}

var errTruncated = errors.New("truncated by a fault")

// deliver writes the answer, or as much of it as the fault allows.
func (e *Emulator) deliver(w http.ResponseWriter, r reply, body []byte, f fault) {
	if f.Drop != "" {
		if err := cut(w); err != nil {
			e.log.Debug().Err(err).Msg("client left before its connection was cut")
		}
		return
	}
	h := w.Header()
	maps.Copy(h, r.header)
	e.mu.Lock()
	now := e.now()
	e.mu.Unlock()
	h.Set("Date", now.UTC().Format(http.TimeFormat)) // clients take their clock's distance from it
	h.Set("Cache-Control", "private, max-age=0")
	h.Set("X-Content-Type-Options", "nosniff")
	if body != nil {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(r.status)
	if f.Truncate {
		body = body[:len(body)/2]
	}
	_, err := w.Write(body)
	if f.Truncate {
		err = errors.Join(err, http.NewResponseController(w).Flush(), errTruncated)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // net/http's way to close a connection in the middle of an answer
	}
}

// cut closes the connection without an answer. Half a status line goes out first: after a silent close Go's transport
// repeats a GET by itself, and the fault would count twice without the client noticing it once.
func cut(w http.ResponseWriter) error {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2 and recorders cannot be hijacked
	}
	_, err = rw.WriteString("HTTP/1")
	return errors.Join(err, rw.Flush(), conn.Close())
}

// api serves one method of Google's APIs: token, scope and parameters are checked before fn runs.
// A nil result is 204; a func() any is called once the lock is free.
func (e *Emulator) api(pattern string, scopes []string, known params, fn func(*call) (any, error)) {
	e.google(pattern, func(c *call) reply {
		if err := e.authorize(c, scopes); err != nil {
			return err.reply()
		}
		if err := known.check(c.query); err != nil {
			return err.reply()
		}
		v, err := fn(c)
		switch {
		case err != nil:
			return refusal(err)
		case v == nil:
			return reply{status: http.StatusNoContent}
		}
		return reply{status: http.StatusOK, json: v}
	})
}

// decode reads the body as one JSON object.
func (c *call) decode() (object, error) {
	var o object
	if err := json.Unmarshal(c.body, &o); err != nil || o == nil {
		return nil, badRequest("parseError", "Parse Error")
	}
	return o, nil
}

// precondition refuses a write whose If-Match names another version.
func (c *call) precondition(etag string) error {
	want := c.Header.Get("If-Match")
	if want == "" || want == "*" || want == etag {
		return nil
	}
	return conditionNotMet()
}

// params are the query parameters a method has.
type params map[string]param

type param struct {
	check func(string) error
	many  bool
}

// anywhere are the parameters that every method has.
var anywhere = params{
	"alt":         oneOf("json"),
	"prettyPrint": boolean,
	"key":         text,
	"quotaUser":   text,
	"userIp":      text,
}

var (
	text      = param{check: func(string) error { return nil }}
	texts     = param{check: text.check, many: true}
	boolean   = param{check: func(v string) error { _, err := strconv.ParseBool(v); return err }}
	timestamp = param{check: func(v string) error { _, err := time.Parse(time.RFC3339, v); return err }}
	positive  = number(1, 1<<31-1)
	zone      = param{check: func(v string) error { _, err := loadZone(v); return err }}
)

func number(low, high int) param {
	return param{check: func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return err
		}
		if n < low || n > high {
			return fmt.Errorf("values must be within the range: [%d, %d]", low, high)
		}
		return nil
	}}
}

func oneOf(values ...string) param {
	return param{check: func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("allowed values: %v", values)
		}
		return nil
	}}
}

func manyOf(values ...string) param {
	return param{check: oneOf(values...).check, many: true}
}

func (p params) check(query url.Values) *apiError {
	for name, values := range query {
		rule, ok := p[name]
		if !ok {
			if rule, ok = anywhere[name]; !ok {
				return invalidParameter(name, "Unknown parameter %q.", name)
			}
		}
		if len(values) > 1 && !rule.many {
			return invalidParameter(name, "Parameter %q is given more than once.", name)
		}
		for _, v := range values {
			if err := rule.check(v); err != nil {
				return invalidParameter(name, "Invalid value for %s: %q (%v).", name, v, err)
			}
		}
	}
	return nil
}

// with returns p and more.
func (p params) with(more params) params {
	all := maps.Clone(p)
	maps.Copy(all, more)
	return all
}

// The getters below follow params.check, which has already refused what does not parse.

func (c *call) flag(name string, otherwise bool) bool {
	v, err := strconv.ParseBool(c.query.Get(name))
	if err != nil {
		return otherwise
	}
	return v
}

func (c *call) time(name string) time.Time {
	t, err := time.Parse(time.RFC3339, c.query.Get(name))
	if err != nil {
		return time.Time{}
	}
	return t
}

func (c *call) count(name string) int {
	n, err := strconv.Atoi(c.query.Get(name))
	if err != nil {
		return 0
	}
	return n
}

// size is maxResults: the default when absent, never above the limit.
func (c *call) size(otherwise, limit int) int {
	n, err := strconv.Atoi(c.query.Get("maxResults"))
	if err != nil {
		return otherwise
	}
	return min(n, limit)
}

// opaque makes an identifier out of bytes.
func opaque(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
