//go:build !race

package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"fdc/internal/httpapi"
)

// Cost of bodies. The tests measure processor time, not elapsed time, so they give the same answer on a busy machine:
// that of the thread which decodes the body and runs the handler, and that of the PostgreSQL processes that serve it.

// shapes are JSON values of about n bytes that make a careless reader slow.
var shapes = map[string]func(n int) string{
	"many members":           func(n int) string { return "{" + repeat(n, `"k%08d":0`) + "}" },
	"many members, repeated": func(n int) string { return "{" + repeat(n, `"k%08d":0`) + `,"k00000007":0}` },
	"one name again":         func(n int) string { return "{" + repeat(n, `"k":0`) + "}" },
	"escaped names":          func(n int) string { return "{" + repeat(n, `"\u006b%08d":{}`) + "}" },
	"deep":                   func(n int) string { return strings.Repeat("[", n/2) + strings.Repeat("]", n/2) },
	"deep objects": func(n int) string {
		return strings.Repeat(`{"a":`, n/6) + "0" + strings.Repeat("}", n/6)
	},
	"deep, often": func(n int) string {
		const levels = 400
		return "[" + repeat(n, strings.Repeat(`{"a":`, levels)+"0"+strings.Repeat("}", levels)) + "]"
	},
	"long array":      func(n int) string { return "[" + repeat(n, `0`) + "]" },
	"array of texts":  func(n int) string { return "[" + repeat(n, `"t%d"`) + "]" },
	"array of equals": func(n int) string { return "[" + repeat(n, `"t"`) + "]" },
	"numbers":         func(n int) string { return "[" + repeat(n, `1e3`) + "]" },
	"long text":       func(n int) string { return `"` + strings.Repeat("t", n) + `"` },
	"escaped text":    func(n int) string { return `"` + strings.Repeat(`\u0074`, n/6) + `"` },
}

// repeat lists items of a format, which may take their number, until they have n bytes.
func repeat(n int, format string) string {
	var b strings.Builder
	for i := 0; b.Len() < n-len(format); i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		if strings.Contains(format, "%") {
			fmt.Fprintf(&b, format, i)
		} else {
			b.WriteString(format)
		}
	}
	return b.String()
}

// adversary is a series of requests that is repeated with bodies of another size. A document is empty before each series.
type adversary struct {
	name   string
	bodies func(n int) []string // sent one after the other; the last one is measured
}

// adversaries are the bodies that are sent to an operation: each shape in a field that it does not have, as the value of
// all the fields that it has, and what its own rules make interesting.
func adversaries(id string, good map[string]any) []adversary {
	var list []adversary
	add := func(name string, bodies func(n int) []string) { list = append(list, adversary{name, bodies}) }
	fields := make([]string, 0, len(good)+1)
	for name := range good {
		fields = append(fields, name)
	}
	slices.Sort(fields)
	for name, shape := range shapes {
		add(name+" as a field", func(n int) []string { return []string{`{"unknown":` + shape(n) + "}"} })
		if len(fields) > 0 {
			add(name+" in all fields", func(n int) []string {
				var parts []string
				for _, field := range fields {
					parts = append(parts, strconv.Quote(field)+":"+shape(n/len(fields)))
				}
				return []string{"{" + strings.Join(parts, ",") + "}"}
			})
		}
	}
	for _, name := range []string{"many members", "many members, repeated", "one name again", "escaped names"} {
		add(name+" as the body", func(n int) []string { return []string{shapes[name](n)} })
	}
	return append(list, ownAdversaries(id, good)...)
}

// ownAdversaries are those that pass the checks of an operation, so that they reach what is behind them.
func ownAdversaries(id string, good map[string]any) (list []adversary) {
	add := func(name string, bodies func(n int) []string) { list = append(list, adversary{name, bodies}) }
	members := func(n int, value string) string { return "{" + repeat(n, `"k%08d":`+value) + "}" }
	data := func(s string) string { return `{"data":` + s + "}" }
	switch id {
	case "putData":
		add("all members changed", func(n int) []string { return []string{data(members(n, "0")), data(members(n, "1"))} })
		add("other members", func(n int) []string {
			return []string{data(members(n, "0")), data(strings.ReplaceAll(members(n, "0"), "k", "x"))}
		})
	case "patchData":
		add("touches everything", func(n int) []string { return []string{members(n, "0"), members(n, "1")} })
		add("touches everything, changes nothing", func(n int) []string { return []string{members(n, "0"), members(n, "0")} })
		add("touches everything, changes the spelling", func(n int) []string {
			return []string{`{"a":` + members(n, "100") + "}", `{"a":` + members(n, "1e2") + "}"}
		})
		add("removes everything", func(n int) []string { return []string{members(n, "0"), members(n, "null")} })
		add("removes what is not there", func(n int) []string {
			return []string{members(n, "0"), strings.ReplaceAll(members(n, "null"), "k", "x")}
		})
		add("objects in place of numbers", func(n int) []string { return []string{members(n, "0"), members(n, `{"a":{}}`)} })
		add("inside an object", func(n int) []string {
			return []string{`{"a":` + members(n, "0") + "}", `{"a":` + members(n, "1") + "}"}
		})
	case "putSyncSettings":
		for _, shape := range []string{"array of texts", "array of equals"} {
			add("calendars: "+shape, func(n int) []string {
				body := map[string]any{"calendarIds": json.RawMessage(shapes[shape](n))}
				for name, value := range good {
					if name != "calendarIds" {
						body[name] = value
					}
				}
				text, err := json.Marshal(body)
				if err != nil {
					panic(err)
				}
				return []string{string(text)}
			})
		}
	}
	return list
}

// A body that doubles costs less than 2.5 times as much, on every route that takes one. The routes are those of the route
// table; a new one needs a good body in bodyFor. The size is doubled twice, so that the step where a body no longer fits
// into a processor's cache does not look like growth.
func TestCostOfBodiesIsLinear(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := newMeter(w)
	alice := w.signIn("alice", "connect=true")
	task := alice.send(http.MethodPost, "/api/workspaces/"+alice.home()+"/tasks", object{"title": "x"}).str("id")
	actual := strings.NewReplacer("{id}", alice.home(), "{taskId}", task, "{userId}", alice.id())
	limits := httpapi.BodyLimits()
	m.stayOnThread(t)
	for _, o := range w.operations() {
		limit, takesBody := limits[o.op.ID]
		if !takesBody {
			continue
		}
		delete(limits, o.op.ID)
		body := bodyFor(o.op.ID, alice)
		require.NotNil(t, body, "operation %s takes a body: bodyFor needs a good one, from which the adversarial ones are made", o.op.ID)
		var good map[string]any
		require.NoError(t, json.Unmarshal([]byte(encode(t, body)), &good))
		large := min(int(limit)-4<<10, 128<<10)
		path := actual.Replace(o.path)
		require.NotContains(t, path, "{", "operation %s: what is in its path?", o.op.ID)
		for _, a := range adversaries(o.op.ID, good) {
			small, full, linear := m.grows(alice, o.method, path, a, large)
			if !linear {
				t.Errorf("%s, %q: %d KB cost %v of processor time, four times that %v", o.op.ID, a.name, large/4>>10, small, full)
			}
		}
	}
	require.Empty(t, limits, "operations with a body that are not in the OpenAPI document")
}

// The largest document there may be, with all of its 100,000 members patched.
func TestPatchOfEveryMemberIsCheap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := newMeter(w)
	alice := w.signIn("alice")
	path := "/api/workspaces/" + alice.home() + "/data"
	document := func(value int) string {
		var b strings.Builder
		for i := range 100_000 {
			fmt.Fprintf(&b, `,"%05x":%d`, i, value)
		}
		return "{" + b.String()[1:] + "}"
	}
	m.stayOnThread(t)
	least := time.Duration(1<<63 - 1)
	for round := 1; round <= 10 && (round <= 2 || least > time.Second); round++ {
		status, took := m.measure(alice, http.MethodPatch, path, document(round))
		require.Equal(t, http.StatusOK, status)
		if round > 1 { // the first one fills the document
			least = min(least, took)
		}
	}
	require.Less(t, least, time.Second, "of processor time")
}

// meter measures the processor time of requests.
type meter struct {
	*world
}

func newMeter(w *world) *meter { return &meter{w} }

// stayOnThread binds the test to one thread, whose processor time is then that of the requests that it serves.
func (m *meter) stayOnThread(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
}

// Noise only ever adds to what a request costs, so the least of several measurements counts. Two are enough if they show
// no growth. A cost that grows with the square of the size stays sixteen times as high, however often it is measured.
const fewest, most = 2, 20

// grows measures an adversary at a quarter of the size and at the full one, and reports whether the cost of each doubling
// was less than 2.5 times that of before.
func (m *meter) grows(v *visitor, method, path string, a adversary, size int) (small, full time.Duration, linear bool) {
	quarter, all := a.bodies(size/4), a.bodies(size)
	small, full = 1<<62, 1<<62
	for round := 1; round <= most && (!linear || round <= fewest); round++ {
		small = min(small, m.last(v, method, path, quarter))
		full = min(full, m.last(v, method, path, all))
		linear = full.Seconds() < 2.5*2.5*small.Seconds()
	}
	return small, full, linear
}

func (m *meter) last(v *visitor, method, path string, bodies []string) (took time.Duration) {
	if method == http.MethodPatch && strings.HasSuffix(path, "/data") {
		status, _ := m.measure(v, http.MethodPut, path, `{"data":{}}`)
		require.Equal(m.t, http.StatusOK, status)
	}
	for _, body := range bodies {
		var status int
		status, took = m.measure(v, method, path, body)
		if status >= http.StatusInternalServerError || status == http.StatusUnauthorized || status == http.StatusTooManyRequests {
			m.t.Fatalf("%s %s: %d to %.100s", method, path, status, body)
		}
	}
	return took
}

// measure serves a request on this thread.
func (m *meter) measure(v *visitor, method, path, body string) (status int, took time.Duration) {
	m.t.Helper()
	req := httptest.NewRequestWithContext(m.t.Context(), method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	address, err := url.Parse(m.url)
	require.NoError(m.t, err)
	for _, cookie := range v.client.Jar.Cookies(address) {
		req.AddCookie(cookie)
	}
	answer := httptest.NewRecorder()
	servers := m.servers()
	before := m.spent(servers)
	m.handler.ServeHTTP(answer, req)
	return answer.Code, m.spent(servers) - before
}

// servers are the files that say how much processor time the API's PostgreSQL processes have used.
func (m *meter) servers() []string {
	m.t.Helper()
	var files []string
	rows, err := m.db.Pool.Query(m.t.Context(), `
		SELECT pid FROM pg_stat_activity
		WHERE datname = current_database() AND backend_type = 'client backend' AND application_name = 'api'`)
	require.NoError(m.t, err)
	for rows.Next() {
		var pid int
		require.NoError(m.t, rows.Scan(&pid))
		files = append(files, filepath.Join("/proc", strconv.Itoa(pid), "schedstat"))
	}
	require.NoError(m.t, rows.Err())
	return files
}

// spent is the processor time of this thread and of the servers so far.
func (m *meter) spent(files []string) time.Duration {
	m.t.Helper()
	var own unix.Timespec
	require.NoError(m.t, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &own))
	sum := time.Duration(own.Nano())
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // of /proc
		require.NoError(m.t, err)
		used, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(used, 10, 64)
		require.NoError(m.t, err)
		sum += time.Duration(n)
	}
	return sum
}
