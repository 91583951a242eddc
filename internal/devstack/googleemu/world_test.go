package googleemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	gtasks "google.golang.org/api/tasks/v1"

	"fdc/internal/devstack/googleemu/referee"
)

const ann = "ann@example.com"

// testTime is when every world begins: a Monday in winter time, four weeks before Europe changes its clocks.
var testTime = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// world is one emulator behind a real server, with a clock that stands still until told otherwise. Every call to Google's APIs
// is judged by the referee.
type world struct {
	*Emulator
	t    *testing.T
	base string
	http *http.Client // judged, follows no redirects

	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: testTime}
	w.start("")
	require.NoError(t, w.AddUser(ann, "Ann Example"))
	return w
}

// start runs an emulator on the file until the test ends, and returns the way to stop it earlier.
func (w *world) start(file string) (stop func()) {
	w.t.Helper()
	e, err := New(Options{Clock: w.clock, File: file, Log: zerolog.New(zerolog.NewTestWriter(w.t))})
	require.NoError(w.t, err)
	server := httptest.NewServer(e)
	judge, err := referee.New(server.Client().Transport, w.t.Errorf)
	require.NoError(w.t, err)
	w.Emulator, w.base = e, server.URL
	w.http = &http.Client{Transport: judge, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	stop = sync.OnceFunc(func() {
		server.Close()
		require.NoError(w.t, e.Close())
	})
	w.t.Cleanup(stop)
	return stop
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// as is a client that acts as the user.
func (w *world) as(email string) *http.Client {
	w.t.Helper()
	token, err := w.Token(email)
	require.NoError(w.t, err)
	return w.with(token)
}

func (w *world) with(token string) *http.Client {
	ctx := context.WithValue(w.t.Context(), oauth2.HTTPClient, w.http)
	return oauth2.NewClient(ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token}))
}

func (w *world) calendarWith(client *http.Client) *gcal.Service {
	w.t.Helper()
	s, err := gcal.NewService(w.t.Context(), option.WithHTTPClient(client), option.WithEndpoint(w.base+"/calendar/v3/"))
	require.NoError(w.t, err)
	return s
}

func (w *world) calendar(email string) *gcal.Service { return w.calendarWith(w.as(email)) }

func (w *world) tasksWith(client *http.Client) *gtasks.Service {
	w.t.Helper()
	s, err := gtasks.NewService(w.t.Context(), option.WithHTTPClient(client), option.WithEndpoint(w.base+"/"))
	require.NoError(w.t, err)
	return s
}

func (w *world) tasks(email string) *gtasks.Service { return w.tasksWith(w.as(email)) }

// control calls the control API and decodes the answer into out, when there is one.
func (w *world) control(method, path string, in, out any) int {
	w.t.Helper()
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		require.NoError(w.t, err)
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.base+"/_emulator/"+path, body)
	require.NoError(w.t, err)
	res, err := w.http.Do(req)
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, res.Body.Close()) }()
	if out != nil {
		require.NoError(w.t, json.NewDecoder(res.Body).Decode(out))
	}
	return res.StatusCode
}

// fault makes requests to the path go wrong.
func (w *world) fault(path string, f object) {
	w.t.Helper()
	w.faultRules(object{"match": object{"path": path}, "fault": f})
}

func (w *world) faultRules(rules ...object) {
	w.t.Helper()
	require.Equal(w.t, http.StatusNoContent, w.control(http.MethodPut, "faults", rules, nil))
}

// requests is the request log after a number.
func (w *world) requests(since string) []loggedRequest {
	w.t.Helper()
	var list struct{ Items []loggedRequest }
	require.Equal(w.t, http.StatusOK, w.control(http.MethodGet, "requests?since="+since, nil, &list))
	return list.Items
}

// add seeds an event.
func (w *world) add(resource object) string {
	w.t.Helper()
	id, err := w.AddEvent(ann, "primary", resource)
	require.NoError(w.t, err)
	return id
}

// addMany seeds single events, an hour each, on consecutive days.
func (w *world) addMany(n int) {
	w.t.Helper()
	for i := range n {
		w.add(meeting(w.clock().AddDate(0, 0, i)))
	}
}

func meeting(at time.Time) object {
	return object{
		"summary": "meeting", "start": object{"dateTime": at.Format(time.RFC3339)}, "end": object{"dateTime": at.Add(time.Hour).Format(time.RFC3339)},
	}
}

// listing is all pages of one events.list.
type listing struct {
	items []*gcal.Event
	pages int
	sync  string
}

func (l listing) ids() []string {
	ids := []string{}
	for _, ev := range l.items {
		ids = append(ids, ev.Id)
	}
	return ids
}

// list reads all pages and checks that each but the last names the next, and the last alone has the sync token.
func list(t *testing.T, call *gcal.EventsListCall) listing {
	t.Helper()
	var l listing
	for {
		page, err := call.Context(t.Context()).Do()
		require.NoError(t, err)
		l.pages++
		l.items = append(l.items, page.Items...)
		require.NotEqual(t, page.NextPageToken == "", page.NextSyncToken == "", "one of the two tokens, never both")
		if page.NextPageToken == "" {
			l.sync = page.NextSyncToken
			return l
		}
		call.PageToken(page.NextPageToken)
	}
}

// refused checks that an error is Google's, with that status and reason.
func refused(t *testing.T, err error, code int, reason string) {
	t.Helper()
	var refusal *googleapi.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, code, refusal.Code, refusal.Message)
	require.NotEmpty(t, refusal.Errors)
	require.Equal(t, reason, refusal.Errors[0].Reason)
}

// The rest signs users in as a browser and a server would.

func (w *world) oauth(scopes ...string) *oauth2.Config {
	return &oauth2.Config{
		ClientID: "any-client", ClientSecret: "any-secret", RedirectURL: "http://127.0.0.1:8080/api/auth/callback", Scopes: scopes,
		Endpoint: oauth2.Endpoint{AuthURL: w.base + "/o/oauth2/v2/auth", TokenURL: w.base + "/token", AuthStyle: oauth2.AuthStyleInParams},
	}
}

// answer is what a browser sees.
type answer struct {
	status   int
	location string
	body     string
}

// get requests an address without following its redirect.
func (w *world) get(address string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, address, http.NoBody)
	require.NoError(w.t, err)
	res, err := w.http.Do(req)
	require.NoError(w.t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(w.t, errors.Join(err, res.Body.Close()))
	return answer{status: res.StatusCode, location: res.Header.Get("Location"), body: string(b)}
}

// approve goes through the authorization endpoint and returns what the redirect says.
func (w *world) approve(c *oauth2.Config, options ...oauth2.AuthCodeOption) url.Values {
	w.t.Helper()
	seen := w.get(c.AuthCodeURL("the state", append(options, oauth2.SetAuthURLParam("login_hint", ann))...))
	require.Equal(w.t, http.StatusFound, seen.status, seen.body)
	to, err := url.Parse(seen.location)
	require.NoError(w.t, err)
	require.Equal(w.t, c.RedirectURL, to.Scheme+"://"+to.Host+to.Path)
	return to.Query()
}

func (w *world) exchange(c *oauth2.Config, code string, options ...oauth2.AuthCodeOption) (*oauth2.Token, error) {
	return c.Exchange(context.WithValue(w.t.Context(), oauth2.HTTPClient, w.http), code, options...)
}

// signIn is the whole code flow with PKCE.
func (w *world) signIn(c *oauth2.Config, options ...oauth2.AuthCodeOption) *oauth2.Token {
	w.t.Helper()
	verifier := oauth2.GenerateVerifier()
	code := w.approve(c, append(options, oauth2.S256ChallengeOption(verifier))...).Get("code")
	token, err := w.exchange(c, code, oauth2.VerifierOption(verifier))
	require.NoError(w.t, err)
	return token
}

// refresh trades the refresh token in.
func (w *world) refresh(c *oauth2.Config, refresh string) (*oauth2.Token, error) {
	ctx := context.WithValue(w.t.Context(), oauth2.HTTPClient, w.http)
	return c.TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
}

// oauthRefused checks an error of the token endpoint.
func oauthRefused(t *testing.T, err error, status int, code string) {
	t.Helper()
	var refusal *oauth2.RetrieveError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, status, refusal.Response.StatusCode)
	require.Equal(t, code, refusal.ErrorCode)
}
