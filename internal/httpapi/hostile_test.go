package httpapi_test

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// operations lists the document's operations in a stable order, streams left out.
func (w *world) operations() (list []struct {
	method, path string
	op           operation
},
) {
	for _, path := range slices.Sorted(maps.Keys(w.doc.paths)) {
		if path == "/api/ws" || path == "/api/events" {
			continue
		}
		for _, method := range slices.Sorted(maps.Keys(w.doc.paths[path])) {
			list = append(list, struct {
				method, path string
				op           operation
			}{strings.ToUpper(method), path, w.doc.paths[path][method]})
		}
	}
	return list
}

// takes reports whether the operation has parameters of a kind.
func takes(op operation, in string) bool {
	for _, p := range op.Parameters {
		if p.In == in {
			return true
		}
	}
	return false
}

// bodyFor is a good body of an operation.
func bodyFor(id string, who *visitor) any {
	switch id {
	case "deleteWorkspace":
		return object{"name": "not its name"}
	case "createWorkspace", "renameWorkspace":
		return object{"name": "x"}
	case "addMember":
		return object{"email": who.email("carol"), "role": "MEMBER"}
	case "setMemberRole":
		return object{"role": "ADMIN"}
	case "putData":
		return object{"data": object{}}
	case "patchData", "requestSync":
		return object{}
	case "createTask", "patchTask":
		return object{"title": "x"}
	case "putSyncSettings":
		return object{"workspaceId": who.home(), "taskListId": "@default", "calendarIds": []string{}, "autoSync": true, "intervalMinutes": 15}
	default:
		return nil
	}
}

// Whatever names an object of another tenant is answered as if there were none, by every route that takes an id.
func TestAnotherTenantsObjectsAreNotThere(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice", "connect=true"), w.signIn("bob", "connect=true")
	home := alice.home()
	made := alice.send(http.MethodPost, "/api/workspaces/"+home+"/tasks", object{"title": "x"})
	job := alice.send(http.MethodPost, "/api/google/sync", nil).str("jobId")
	invited := alice.send(http.MethodPost, "/api/workspaces/"+home+"/members", object{"email": w.email("carol"), "role": "MEMBER"})
	hers := map[string]string{"taskId": made.str("id"), "userId": alice.id(), "invitationId": invited.str("invitationId"), "id": home}

	asked := 0
	for _, o := range w.operations() {
		if !strings.Contains(o.path, "{") || o.op.ID == "getEventSchema" {
			continue
		}
		path := o.path
		for name, id := range hers {
			switch {
			case name != "id":
			case strings.HasPrefix(path, "/api/auth/sessions/"):
				id = alice.get("/api/auth/session").str("session", "id")
			case strings.HasPrefix(path, "/api/invitations/"): // it is Carol's to answer
				id = invited.str("invitationId")
			}
			path = strings.ReplaceAll(path, "{"+name+"}", id)
		}
		require.NotContains(t, path, "{")
		r := bob.send(o.method, path, bodyFor(o.op.ID, bob))
		require.Equal(t, http.StatusNotFound, r.status, "%s %s: %s", o.method, path, r.text)
		require.Equal(t, "not-found", r.code())
		asked++
	}
	require.GreaterOrEqual(t, asked, 17)
	require.Equal(t, http.StatusNotFound, bob.get("/api/google/sync?jobId="+job).status)
	require.Equal(t, http.StatusNotFound, bob.send(http.MethodDelete, "/api/google/sync?jobId="+job, nil).status)

	// Her task in his own workspace, his task in hers: neither is there.
	his := "/api/workspaces/" + bob.home() + "/tasks"
	mine := bob.send(http.MethodPost, his, object{"title": "x"}).str("id")
	for _, path := range []string{his + "/" + hers["taskId"], "/api/workspaces/" + home + "/tasks/" + mine} {
		for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
			var body any
			if method == http.MethodPatch {
				body = object{"title": "y"}
			}
			require.Equal(t, http.StatusNotFound, bob.send(method, path, body).status, "%s %s", method, path)
		}
	}
	require.Equal(t, made.text, alice.get(made.header.Get("Location")).text, "nothing happened to it")
	require.Equal(t, "pending", alice.get("/api/google/sync?jobId="+job).str("status"))
}

func TestEveryRouteWantsASession(t *testing.T) {
	t.Parallel()
	w := shared(t)
	for _, o := range w.operations() {
		path := strings.NewReplacer("{id}", "00000000-0000-7000-8000-000000000000", "{taskId}", "x", "{userId}", "x", "{eventType}", "x").Replace(o.path)
		r := w.visitor().send(o.method, path, nil)
		if o.op.Security != nil { // none: it is public
			require.NotEqual(t, http.StatusUnauthorized, r.status, path)
			continue
		}
		require.Equal(t, http.StatusUnauthorized, r.status, "%s %s", o.method, path)
	}
}

func TestEveryUnsafeRouteRefusesOtherOrigins(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	count := 0
	for _, o := range w.operations() {
		if o.method == http.MethodGet {
			continue
		}
		path := strings.NewReplacer("{id}", alice.home(), "{taskId}", "x", "{userId}", "x").Replace(o.path)
		r := alice.send(o.method, path, bodyFor(o.op.ID, alice), "Origin", "https://evil.example")
		require.Equal(t, "cross-origin", r.code(), path)
		require.Equal(t, http.StatusForbidden, w.visitor().send(o.method, path, nil, "Sec-Fetch-Site", "cross-site").status)
		if o.op.Security == nil { // else there is no session to tell of
			count++
		}
	}
	denied := w.facts("access.denied")
	require.Len(t, denied, count, "those with a session, and no others")
	for _, f := range denied {
		require.Equal(t, "csrf", f.data["reason"])
		require.Equal(t, alice.id(), f.user)
		require.Empty(t, f.workspace)
	}
}

// Nothing that a client sends is the server's failure, and every answer is one that the document has (the referee looks).
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.signIn("alice", "connect=true")
	task := alice.send(http.MethodPost, "/api/workspaces/"+alice.home()+"/tasks", object{"title": "x"}).str("id")
	actual := strings.NewReplacer("{id}", alice.home(), "{taskId}", task, "{userId}", alice.id(), "{eventType}", "fdc.task.created.v1")
	spare := w.signIn("alice").get("/api/auth/session").str("session", "id")

	ids := []string{
		"x", "0", "-1", "null", "%00", "%ff", "..", "%2e%2e", "*", "'", "%27%20OR%201=1--", "%F0%9F%92%A9", strings.Repeat("a", 4000),
		"00000000-0000-0000-0000-000000000000", "00000000-0000-7000-8000-00000000000g", strings.ToUpper(alice.home()), alice.home() + "%20",
		"{" + alice.home() + "}", "%2F", "a%2Fb",
	}
	bodies := []string{
		"", " ", "null", "true", "0", `""`, "[]", "[[]]", "{}", "{", "}", `{"":""}`, "\x00", "\xff\xfe", "\ufeff{}", "{}{}", `{"a":}`, "NaN",
		`{"title":1e400}`, `{"title":{}}`, `{"name":[]}`, `{"data":null}`, `{"data":"x"}`, `{"data":{"a":1e99999}}`, `{"version":9223372036854775808,"data":{}}`,
		`{"data":{},"version":-1}`, `{"data":{},"version":1.5}`, `{"role":"GOD"}`, `{"email":"x","role":"OWNER"}`, `{"email":"a@b\u0000","role":"MEMBER"}`,
		`{"name":"\u0000"}`, `{"name":"\ud800"}`, `{"name":"` + strings.Repeat("x", 300) + `"}`, `{"name":" "}`, `{"title":"\u0007"}`, `{"__proto__":{}}`,
		`{"title":"x","startAt":"0000-00-00T00:00:00Z"}`, `{"title":"x","startAt":"9999-12-31T23:59:59.999999999-12:00"}`, `{"title":"x","startAt":"0001-01-01T00:00:00+14:00"}`,
		`{"title":"x","dueDate":"9999-99-99"}`, `{"title":"x","timeZone":"` + strings.Repeat("A/", 500) + `"}`, `{"title":"x","timeZone":"Local"}`,
		`{"workspaceId":"x","taskListId":"","calendarIds":[""],"autoSync":true,"intervalMinutes":15}`,
		`{"workspaceId":"` + alice.home() + `","taskListId":"\u0001","calendarIds":["` + strings.Repeat("x", 3000) + `"],"autoSync":true,"intervalMinutes":15}`,
		strings.Repeat("[", 20000), strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), `{"a":1,"a":1}`, `{"x":"` + strings.Repeat("y", 70<<10) + `"}`,
	}
	queries := []string{
		"limit=0", "limit=x", "limit=1e3", "limit=99999999999999999999", "limit=", "limit[]=1", "cursor=x", "cursor=%00", "cursor=%ff", "cursor=AAAAAAAAAAAAAAAAAAAAAA",
		"cursor=bGlzdFRhc2tzAHg", "cursor=bGlzdFdvcmtzcGFjZXMAJw", "cursor=bGlzdE1lbWJlcnMA", "%", "%zz=1", ";", "&&&", "=", "a=b;c=d", "from=x&to=y", "from=2026-01-01&to=2025-01-01",
		"from=0001-01-01T00:00:00Z&to=0001-12-31T00:00:00Z", "from=9999-01-01&to=9999-12-31", "jobId=x", "jobId=%00", "jobId=" + strings.Repeat("x", 65), "redirect=//evil", "redirect=%0d%0aX:y",
		"redirect=" + strings.Repeat("/", 2000), "login_hint=%00", "login_hint=" + strings.Repeat("x", 400), "connect=maybe", "state=&code=", "state=%00", "code=x", "error=%0a",
		strings.Repeat("a=b&", 3000),
	}
	headers := [][]string{
		{"If-Match", "x"},
		{"If-Match", `"9999999999999999999999"`},
		{"If-Match", `"-1"`},
		{"If-None-Match", "x"},
		{"If-None-Match", `W/`},
		{"If-Match", strings.Repeat(`"7", `, 5000)},
		{"If-None-Match", strings.Repeat(`W/"7",`, 5000)},
		{"Content-Type", "x"},
		{"Content-Type", ""},
		{"Content-Type", "application/json; charset=utf-7"},
		{"Content-Type", "application/json, text/plain"},
		{"Content-Encoding", "gzip"},
		{"Accept", "text/html"},
		{"Accept-Encoding", "br"},
		{"Accept-Encoding", "identity;q=0, *;q=0"},
		{"Accept-Encoding", strings.Repeat("gzip;q=0.001,;q=,", 2000)},
		{"X-Request-Id", strings.Repeat("x", 5000)},
		{"X-Request-Id", "<script>"},
		{"X-Forwarded-For", "1.2.3.4"},
		{"X-Forwarded-For", strings.Repeat("9", 3000)},
		{"User-Agent", strings.Repeat("\xff", 2000)},
		{"User-Agent", "\x01"[:0] + "a\tb"},
		{"Traceparent", "00-zz"},
		{"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		{"Tracestate", strings.Repeat("a=b,", 500)},
		{"Range", "bytes=0-1"},
		{"Expect", "100-continue"},
		{"Origin", "null"},
		{"Origin", "::"},
		{"Sec-Fetch-Site", "\x7f"[:0] + "none"},
		{"Cookie", "fdc_session=; fdc_session=x; =; ;;"},
		{"X-Http-Method-Override", "DELETE"},
		{"Last-Event-ID", "x"},
	}
	never5xx := func(method, path, body string, header ...string) {
		var r *result
		if method == http.MethodGet {
			r = alice.get(path, header...)
		} else {
			r = alice.send(method, path, body, header...)
		}
		if r.status >= 500 {
			t.Errorf("%s %.200s %.200q %.100q: %d %s", method, path, body, header, r.status, r.text)
		}
	}
	for i, o := range w.operations() {
		switch o.op.ID {
		case "logout", "revokeOtherSessions", "disconnectGoogle", "eraseUser", "getHealth", "getDeepHealth", "getOpenAPI":
			continue // they take nothing, and end what the others need
		}
		path := actual.Replace(o.path)
		if o.op.ID == "revokeSession" {
			path = strings.Replace(o.path, "{id}", spare, 1)
		}
		good := ""
		if b := bodyFor(o.op.ID, alice); b != nil {
			good = encode(t, b)
		}
		if strings.Contains(o.path, "{") {
			for _, id := range ids {
				for _, name := range []string{"{id}", "{taskId}", "{userId}", "{eventType}"} {
					if strings.Contains(o.path, name) {
						never5xx(o.method, actual.Replace(strings.Replace(o.path, name, id, 1)), good)
					}
				}
			}
		}
		if o.op.ID == "removeMember" || o.op.ID == "deleteTask" {
			continue // with good ids they would leave nothing to ask of
		}
		if o.op.Body != nil {
			for _, body := range bodies {
				never5xx(o.method, path, body)
			}
		}
		for _, query := range queries {
			if takes(o.op, "query") || o.op.ID == "getTask" {
				never5xx(o.method, path+"?"+query, good)
			}
		}
		for j, header := range headers {
			// The middleware reads them, the same for all: a few of each will do, and all where the handler reads some.
			if takes(o.op, "header") || (i+j)%5 == 0 {
				never5xx(o.method, path, good, header...)
			}
		}
	}
	require.Equal(t, http.StatusOK, alice.get("/api/auth/session").status, "still signed in")
	require.NotContains(t, w.log.String(), `"level":"error"`)
	count, err := testutil.GatherAndCount(w.metrics, "http_request_seconds")
	require.NoError(t, err)
	require.Less(t, count, 40*5, "the labels stay few")
	for _, line := range w.log.lines(t) {
		require.NotContains(t, fmt.Sprint(line["route"]), alice.home())
	}
}

// What doesn't even become a request for a handler: the server says no or hangs up, in time and without a trace of a
// failure.
func TestBrokenHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, test := range map[string]struct {
		text   string
		status string // of the answer; empty: whatever
	}{
		"not HTTP":            {"hello\r\n\r\n", "400"},
		"header too large":    {"GET /api/health HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 200<<10) + "\r\n\r\n", "431"},
		"NUL in the path":     {"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		"bad escape":          {"GET /api/%zz HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		"no host":             {"GET /api/health HTTP/1.1\r\n\r\n", "400"},
		"two lengths":         {"POST /api/workspaces HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", "400"},
		"smuggled":            {"POST /api/workspaces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/auth/session HTTP/1.1\r\n\r\n", "401"},
		"absolute form":       {"GET http://other.example/api/health HTTP/1.1\r\nHost: x\r\n\r\n", "200"},
		"unknown method":      {"BREW /api/health HTTP/1.1\r\nHost: x\r\n\r\n", "405"},
		"everything asterisk": {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.url, "http://"))
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			_, err = conn.Write([]byte(test.text))
			require.NoError(t, err)
			line, err := bufio.NewReader(conn).ReadString('\n')
			require.NoError(t, err)
			require.Contains(t, line, "HTTP/1.1 "+test.status)
		})
	}
	t.Cleanup(func() { require.NotContains(t, w.log.String(), `"level":"error"`) })
}
