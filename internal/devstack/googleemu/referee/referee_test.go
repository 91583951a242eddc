package referee_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/googleemu/referee"
)

// TestBreachesAreReported plants one breach at a time and expects to hear of it; and of nothing where there is none.
func TestBreachesAreReported(t *testing.T) {
	t.Parallel()
	const events, tasks = "/calendar/v3/calendars/primary/events", "/tasks/v1/lists/@default/tasks"
	const emptyList = `{"kind":"calendar#events","items":[]}`
	for name, tc := range map[string]struct {
		method, path, sent string
		status             int
		answered           string
		want               string // in the breach; "" for none
	}{
		"good list":               {"GET", events + "?maxResults=10&eventTypes=default&eventTypes=birthday&alt=json", "", 200, emptyList, ""},
		"escaped path":            {"GET", "/tasks/v1/lists/%40default/tasks", "", 200, `{"kind":"tasks#tasks"}`, ""},
		"good insert":             {"POST", tasks, `{"title":"t"}`, 200, `{"kind":"tasks#task","id":"x","links":[]}`, ""},
		"good patch with null":    {"PATCH", events + "/x", `{"start":{"date":null}}`, 200, `{"kind":"calendar#event"}`, ""},
		"local time with a zone":  {"POST", events, `{"start":{"dateTime":"2026-03-02T09:00:00","timeZone":"UTC"}}`, 200, `{}`, ""},
		"good delete":             {"DELETE", events + "/x", "", 204, "", ""},
		"good error":              {"GET", events, "", 404, `{"error":{"code":404,"message":"m","errors":[{"domain":"global","reason":"notFound","message":"m"}]}}`, ""},
		"other paths":             {"POST", "/token", "x=y", 200, `{"access_token":"x"}`, ""},
		"userinfo":                {"GET", "/oauth2/v2/userinfo", "", 200, `{"id":"1","verified_email":true}`, ""},
		"unknown method":          {"GET", "/calendar/v3/nothing", "", 200, "", "no method"},
		"unknown parameter":       {"GET", events + "?syncTokn=x", "", 200, emptyList, "syncTokn"},
		"repeated parameter":      {"GET", events + "?q=a&q=b", "", 200, emptyList, "repeated"},
		"parameter enum":          {"GET", events + "?orderBy=color", "", 200, emptyList, "orderBy"},
		"parameter range":         {"GET", events + "?maxResults=0", "", 200, emptyList, "minimum"},
		"parameter type":          {"GET", events + "?singleEvents=yes", "", 200, emptyList, "boolean"},
		"parameter format":        {"GET", events + "?timeMin=2026-01-01", "", 200, emptyList, "timeMin"},
		"unknown request field":   {"POST", tasks, `{"titel":"t"}`, 200, `{}`, "titel"},
		"request field type":      {"POST", tasks, `{"title":1}`, 200, `{}`, "title"},
		"local time without zone": {"POST", events, `{"start":{"dateTime":"2026-03-02T09:00:00"}}`, 200, `{}`, "dateTime"},
		"body where none belongs": {"DELETE", events + "/x", "{}", 204, "", "body"},
		"no body":                 {"POST", tasks, "", 200, `{}`, "no body"},
		"unknown answer field":    {"GET", events, "", 200, `{"item":[]}`, ".item"},
		"nested answer type":      {"GET", events, "", 200, `{"items":[{"sequence":"1"}]}`, ".items[0].sequence"},
		"answer format":           {"GET", events, "", 200, `{"items":[{"start":{"date":"2026-1-1"}}]}`, "2026-1-1"},
		"fraction":                {"GET", events, "", 200, `{"items":[{"sequence":1.5}]}`, "1.5"},
		"map of strings":          {"GET", events, "", 200, `{"items":[{"extendedProperties":{"private":{"a":1}}}]}`, "private.a"},
		"wrong kind":              {"GET", events, "", 200, `{"kind":"calendar#event"}`, "kind"},
		"wrong kind in prose":     {"POST", tasks, `{"title":"t"}`, 200, `{"kind":"tasks#tasks"}`, "kind"},
		"array for object":        {"GET", events, "", 200, `{"items":[{"start":[]}]}`, "array"},
		"not JSON":                {"GET", events, "", 200, `x`, "body"},
		"wrong success":           {"POST", tasks, `{"title":"t"}`, 201, `{}`, "201"},
		"delete with 200":         {"DELETE", events + "/x", "", 200, "", "204"},
		"error without envelope":  {"GET", events, "", 404, `{"code":404}`, "envelope"},
		"error of another code":   {"GET", events, "", 404, `{"error":{"code":500,"message":"m","errors":[{"domain":"d","reason":"r","message":"m"}]}}`, "500"},
		"error without reasons":   {"GET", events, "", 404, `{"error":{"code":404,"message":"m"}}`, "errors"},
		"error without domain":    {"GET", events, "", 404, `{"error":{"code":404,"message":"m","errors":[{"reason":"r","message":"m"}]}}`, "incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got, err := io.ReadAll(r.Body)
				if err != nil || string(got) != tc.sent {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				w.Header().Set("Content-Type", "application/json; charset=UTF-8")
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.answered)
			}))
			t.Cleanup(server.Close)
			var breaches []string
			judge, err := referee.New(nil, func(format string, args ...any) { breaches = append(breaches, fmt.Sprintf(format, args...)) })
			require.NoError(t, err)
			req, err := http.NewRequestWithContext(t.Context(), tc.method, server.URL+tc.path, strings.NewReader(tc.sent))
			require.NoError(t, err)
			res, err := judge.RoundTrip(req)
			require.NoError(t, err)
			got, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, tc.status, res.StatusCode)
			require.Equal(t, tc.answered, string(got), "the answer passes unchanged")
			if tc.want == "" {
				require.Empty(t, breaches)
			} else {
				require.Contains(t, strings.Join(breaches, "\n"), tc.want)
			}
		})
	}
}

func TestBodyThatBreaksOffBreaksOffForTheCaller(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"kind":`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	judge, err := referee.New(nil, t.Errorf)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/tasks/v1/users/@me/lists", http.NoBody)
	require.NoError(t, err)
	res, err := judge.RoundTrip(req)
	require.NoError(t, err)
	got, err := io.ReadAll(res.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, res.Body.Close())
	require.Equal(t, `{"kind":`, string(got))
}
