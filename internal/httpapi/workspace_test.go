package httpapi_test

import (
	"encoding/ascii85"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/httpapi"
	"fdc/internal/platform/flags"
)

type object = map[string]any

func TestWorkspacesAndMembers(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")

	made := alice.send(http.MethodPost, "/api/workspaces", object{"name": "Plans 日本"})
	require.Equal(t, http.StatusCreated, made.status)
	require.Equal(t, "OWNER", made.str("role"))
	ws := "/api/workspaces/" + made.str("id")
	require.Equal(t, "Plans 日本", alice.get("/api/workspaces").str("items", 1, "name"))
	require.Len(t, bob.get("/api/workspaces").field("items"), 1)

	alice.takeIn(bob, made.str("id"))
	require.Len(t, bob.get("/api/workspaces").field("items"), 2)
	alice.send(http.MethodPost, ws+"/members", object{"email": w.email("dave"), "role": "ADMIN"})
	require.Len(t, alice.get(ws+"/members").field("items"), 3)
	require.Len(t, alice.get(ws+"/members?limit=2").field("items"), 2)
	require.Equal(t, "already-member", alice.send(http.MethodPost, ws+"/members", object{"email": w.email("bob"), "role": "MEMBER"}).code())

	// A known object without the right is 403, and goes on record.
	refused := bob.send(http.MethodPost, ws+"/members", object{"email": w.email("eve"), "role": "MEMBER"})
	require.Equal(t, http.StatusForbidden, refused.status)
	denied := w.facts("access.denied")
	require.Len(t, denied, 1)
	require.Equal(t, object{"method": "POST", "route": "/api/workspaces/{id}/members", "reason": "role"}, denied[0].data)
	require.Equal(t, bob.id(), denied[0].actor)
	require.Equal(t, made.str("id"), denied[0].workspace)
	require.Equal(t, "127.0.0.1", denied[0].ip)

	role := alice.send(http.MethodPut, ws+"/members/"+bob.id(), object{"role": "ADMIN"})
	require.Equal(t, "ADMIN", role.str("role"))
	require.Equal(t, "last-owner", alice.send(http.MethodDelete, ws+"/members/"+alice.id(), nil).code())
	require.Equal(t, http.StatusNoContent, bob.send(http.MethodDelete, ws+"/members/"+bob.id(), nil).status, "leaving")
	require.Equal(t, http.StatusNotFound, bob.get(ws+"/members").status)
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodDelete, ws+"/members/"+bob.id(), nil).status)
}

func TestWorkspacePages(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	for i := range 6 {
		require.Equal(t, http.StatusCreated, alice.send(http.MethodPost, "/api/workspaces", object{"name": fmt.Sprint(i)}).status)
	}
	var names []string
	for path := "/api/workspaces?limit=3"; ; {
		var page struct {
			Items      []struct{ Name string }
			NextCursor *string
		}
		alice.get(path).into(&page)
		for _, item := range page.Items {
			names = append(names, item.Name)
		}
		if page.NextCursor == nil {
			break
		}
		path = "/api/workspaces?limit=3&cursor=" + *page.NextCursor
	}
	require.Equal(t, []string{"Alice's workspace", "0", "1", "2", "3", "4", "5"}, names)
}

// A cached document is a member's to read, at the moment of the request, and nobody else's; and every layer gives the same
// bytes.
func TestDataFromTheCache(t *testing.T) {
	t.Parallel()
	var documents *httpapi.Documents
	w := newWorld(t, func(c *httpapi.Config) { documents = c.Documents })
	require.Eventually(t, documents.Live, patience, time.Millisecond)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	home := alice.home()
	data := "/api/workspaces/" + home + "/data"

	first := alice.get(data)
	require.Equal(t, "fdc-db; fwd=miss", first.header.Get("Cache-Status"))
	require.Eventually(t, func() bool {
		again := alice.get(data)
		require.Equal(t, first.text, again.text)
		return again.header.Get("Cache-Status") == "fdc-near; hit"
	}, patience, time.Millisecond)
	require.Equal(t, http.StatusNotFound, bob.get(data).status, "another tenant")

	for version := 1; version <= 3; version++ {
		require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, object{"data": object{"z": version, "a": 1.50}}).status)
		read := alice.get(data)
		require.Equal(t, fmt.Sprintf("%q", fmt.Sprint(version)), read.header.Get("ETag"), "who wrote reads it")
		require.Contains(t, []string{"fdc-near; hit", "fdc-kv; hit"}, read.header.Get("Cache-Status"), "written through")
		require.Equal(t, http.StatusOK, alice.send(http.MethodPatch, data, object{}).status, "a patch that changes nothing")
		// Who has seen a later version is not served from a cache.
		loaded := alice.get(data, "If-None-Match", `"99"`)
		require.Equal(t, "fdc-db; fwd=miss", loaded.header.Get("Cache-Status"))
		require.Equal(t, loaded.text, read.text, "byte for byte what the database gives")
	}

	alice.takeIn(bob, home)
	require.Contains(t, bob.get(data).header.Get("Cache-Status"), "; hit")
	require.Equal(t, http.StatusNoContent, alice.send(http.MethodDelete, "/api/workspaces/"+home+"/members/"+bob.id(), nil).status)
	require.Equal(t, http.StatusNotFound, bob.get(data).status, "no member any more")

	large := strings.Repeat("x", 950_000)
	require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, object{"data": object{"large": large}}).status)
	for range 2 {
		read := alice.get(data)
		require.Equal(t, "fdc-db; fwd=bypass", read.header.Get("Cache-Status"))
		require.Contains(t, read.text, large)
	}
	require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, object{"data": object{}}).status)
	require.Equal(t, object{}, alice.get(data).field("data"))
}

// Every form of a document is the same document, whichever layer serves it, and never an older one.
func TestDataIsCompressed(t *testing.T) {
	t.Parallel()
	text := func(n int) object {
		return object{"n": n, "text": strings.Repeat("牛乳を買う and write it down. ", 400)}
	}
	for name, world := range map[string]func(*testing.T) *world{
		"cached": shared, "not cached": func(t *testing.T) *world {
			t.Helper()
			return newWorld(t, func(c *httpapi.Config) { c.Documents = nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world(t)
			alice := w.signIn("alice")
			data := "/api/workspaces/" + alice.home() + "/data"
			for version := 1; version <= 3; version++ {
				require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, object{"data": text(version)}).status)
				tag := fmt.Sprintf("%q", fmt.Sprint(version))
				plain := alice.get(data, "Accept-Encoding", "identity")
				require.Contains(t, plain.text, fmt.Sprintf(`"n": %d`, version))
				for accept, coding := range map[string]string{
					"identity": "", "gzip, deflate, br, zstd": "zstd", "gzip": "gzip", "X-GZIP;q=0.2": "gzip", "zstd;q=0.5, gzip": "gzip",
					"*": "zstd", "br": "", "gzip;q=0": "", "gzip;q=0.5, identity;q=0.8": "", "identity;q=0, *;q=0": "",
				} {
					r := alice.get(data, "Accept-Encoding", accept)
					require.Equal(t, http.StatusOK, r.status)
					require.Equal(t, coding, r.header.Get("Content-Encoding"), accept)
					require.Equal(t, fmt.Sprint(len(r.text)), r.header.Get("Content-Length"), accept)
					require.Equal(t, []string{"Accept-Encoding, Cookie"}, r.header.Values("Vary"))
					require.Equal(t, tag, r.header.Get("ETag"), "it names the version, not the form")
					body, err := decoded(coding, []byte(r.text))
					require.NoError(t, err)
					require.Equal(t, plain.text, string(body), accept)
					if coding != "" {
						require.Less(t, len(r.text), len(body)/4)
					}
					head := alice.do(http.MethodHead, data, nil, []string{"Accept-Encoding", accept})
					require.Equal(t, coding, head.header.Get("Content-Encoding"), accept)
					require.Equal(t, r.header.Get("Content-Length"), head.header.Get("Content-Length"))

					same := alice.get(data, "Accept-Encoding", accept, "If-None-Match", tag)
					require.Equal(t, http.StatusNotModified, same.status)
					require.Equal(t, tag, same.header.Get("ETag"))
					require.Equal(t, "Accept-Encoding, Cookie", same.header.Get("Vary"))
					require.Empty(t, same.header.Get("Content-Encoding"))
				}
			}

			// What is small or does not shrink is sent as it is, unless the client refuses that.
			noise := make([]byte, 20_000)
			_, err := rand.NewChaCha8([32]byte{}).Read(noise)
			require.NoError(t, err)
			for _, doc := range []object{{}, {"a": 1}, {"noise": base85(noise)}} {
				require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, object{"data": doc}).status)
				require.Empty(t, alice.get(data, "Accept-Encoding", "zstd, gzip").header.Get("Content-Encoding"))
				for _, coding := range []string{"zstd", "gzip"} {
					r := alice.get(data, "Accept-Encoding", coding+", identity;q=0")
					require.Equal(t, coding, r.header.Get("Content-Encoding"))
					body, err := decoded(coding, []byte(r.text))
					require.NoError(t, err)
					require.Equal(t, alice.get(data, "Accept-Encoding", "identity").text, string(body))
				}
			}
		})
	}
}

// base85 is text that hardly shrinks.
func base85(data []byte) string {
	text := make([]byte, ascii85.MaxEncodedLen(len(data)))
	return string(text[:ascii85.Encode(text, data)])
}

func TestDataWithoutACache(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) { c.Documents = nil })
	alice := w.signIn("alice")
	data := "/api/workspaces/" + alice.home() + "/data"
	require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, object{"data": object{"a": 1}}).status)
	for range 2 {
		read := alice.get(data)
		require.Equal(t, "fdc-db; fwd=bypass", read.header.Get("Cache-Status"))
		require.Equal(t, `"1"`, read.header.Get("ETag"))
	}
	require.Equal(t, http.StatusNotFound, w.signIn("bob").get(data).status)
}

func TestData(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	home := alice.home()
	data := "/api/workspaces/" + home + "/data"

	fresh := alice.get(data)
	require.Equal(t, `"0"`, fresh.header.Get("ETag"))
	require.Equal(t, "fdc-db; fwd=miss", fresh.header.Get("Cache-Status"))
	require.Equal(t, "private, no-cache", fresh.header.Get("Cache-Control"))
	require.Equal(t, object{}, fresh.field("data"))
	require.Equal(t, home, fresh.field("workspaceId"))
	require.Equal(t, http.StatusNotModified, alice.get(data, "If-None-Match", `"0"`).status)

	saved := alice.send(http.MethodPut, data, `{"data":{"html":"<b>&","n":1.50,"list":[{"a":null}]}}`)
	require.Equal(t, true, saved.field("success"))
	require.Equal(t, 1.0, saved.field("version"))
	read := alice.get(data, "If-None-Match", `"0"`)
	require.Equal(t, http.StatusOK, read.status)
	require.Equal(t, `"1"`, read.header.Get("ETag"))
	require.Contains(t, read.text, `<b>&`)
	require.Contains(t, read.text, `1.50`)
	require.Equal(t, saved.field("lastModified"), read.field("lastModified"))
	for _, tag := range []string{`"1"`, `W/"1"`, `"0", "1"`, "*"} {
		r := alice.get(data, "If-None-Match", tag)
		require.Equal(t, http.StatusNotModified, r.status, tag)
		require.Equal(t, `"1"`, r.header.Get("ETag"))
	}
	head := alice.do(http.MethodHead, data, nil, nil)
	require.Equal(t, http.StatusOK, head.status)
	require.Equal(t, `"1"`, head.header.Get("ETag"))

	for name, test := range map[string]struct {
		method, body string
		header       []string
		status       int
	}{
		"stale version in the body":     {http.MethodPut, `{"data":{},"version":0}`, nil, 409},
		"version from the future":       {http.MethodPut, `{"data":{},"version":7}`, nil, 409},
		"stale If-Match":                {http.MethodPut, `{"data":{}}`, []string{"If-Match", `"0"`}, 412},
		"If-Match that lists others":    {http.MethodPut, `{"data":{}}`, []string{"If-Match", `"0", "7",W/"1"`}, 412},
		"patch, If-Match lists others":  {http.MethodPatch, `{"a":1}`, []string{"If-Match", `"0", "7",W/"1"`}, 412},
		"weak If-Match":                 {http.MethodPut, `{"data":{}}`, []string{"If-Match", `W/"1"`}, 412},
		"If-Match of something else":    {http.MethodPut, `{"data":{}}`, []string{"If-Match", `"abc"`}, 412},
		"stale If-Match of a patch":     {http.MethodPatch, `{"a":1}`, []string{"If-Match", `"0"`}, 412},
		"If-Match that is none":         {http.MethodPut, `{"data":{}}`, []string{"If-Match", `1`}, 400},
		"If-Match of half a tag":        {http.MethodPatch, `{"a":1}`, []string{"If-Match", `"1`}, 400},
		"If-Match of * and more":        {http.MethodPatch, `{"a":1}`, []string{"If-Match", `*, "1"`}, 400},
		"only when there is none":       {http.MethodPut, `{"data":{}}`, []string{"If-None-Match", `*`}, 412},
		"patch when there is none":      {http.MethodPatch, `{"a":1}`, []string{"If-None-Match", `*`, "If-Match", `"1"`}, 412},
		"If-None-Match of a version":    {http.MethodPut, `{"data":{}}`, []string{"If-None-Match", `"0"`}, 400},
		"body right, header stale":      {http.MethodPut, `{"data":{},"version":1}`, []string{"If-Match", `"0"`}, 412},
		"body stale, header right":      {http.MethodPut, `{"data":{},"version":0}`, []string{"If-Match", `"1"`}, 409},
		"both stale":                    {http.MethodPut, `{"data":{},"version":0}`, []string{"If-Match", `"0"`}, 412},
		"no data":                       {http.MethodPut, `{"version":1}`, nil, 422},
		"data is no object":             {http.MethodPut, `{"data":[]}`, nil, 422},
		"version is no number":          {http.MethodPut, `{"data":{},"version":"1"}`, nil, 422},
		"more than data":                {http.MethodPut, `{"data":{},"force":true}`, nil, 422},
		"number beyond Postgres":        {http.MethodPut, `{"data":{"n":1e999999}}`, nil, 422},
		"NUL":                           {http.MethodPut, `{"data":{"s":"\u0000"}}`, nil, 422},
		"half a surrogate pair":         {http.MethodPut, `{"data":{"s":"\ud800"}}`, nil, 400},
		"the same name twice":           {http.MethodPut, `{"data":{"a":1,"a":2}}`, nil, 400},
		"patch is no object":            {http.MethodPatch, `[1]`, nil, 422},
		"patch is null":                 {http.MethodPatch, `null`, nil, 422},
		"patch is a string":             {http.MethodPatch, `"{}"`, nil, 422},
		"patch is nothing":              {http.MethodPatch, ``, nil, 400},
		"patch of a name twice":         {http.MethodPatch, `{"a":1,"\u0061":null}`, nil, 400},
		"patch that is not UTF-8":       {http.MethodPatch, "{\"a\":\"\xff\"}", nil, 400},
		"patch 1,000 levels deep":       {http.MethodPatch, strings.Repeat(`{"a":`, 1000) + "null" + strings.Repeat("}", 1000), nil, 422},
		"patch deeper than JSON here":   {http.MethodPatch, strings.Repeat(`{"a":`, 1002) + "null" + strings.Repeat("}", 1002), nil, 422},
		"patch without a type":          {http.MethodPatch, `{"a":1}`, []string{"Content-Type", ""}, 415},
		"patch in Latin-1":              {http.MethodPatch, `{"a":1}`, []string{"Content-Type", "application/merge-patch+json; charset=latin1"}, 415},
		"patch in gzip":                 {http.MethodPatch, `{"a":1}`, []string{"Content-Encoding", "gzip"}, 415},
		"patch as plain JSON":           {http.MethodPatch, `{"a":1}`, []string{"Content-Type", "application/json"}, 415},
		"patch as JSON Patch":           {http.MethodPatch, `[]`, []string{"Content-Type", "application/json-patch+json"}, 415},
		"deeper than anybody reads":     {http.MethodPut, `{"data":{"a":` + strings.Repeat("[", 900) + strings.Repeat("]", 900) + `}}`, nil, 422},
		"document over 1 MiB":           {http.MethodPut, `{"data":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`, nil, 413},
		"body over all limits":          {http.MethodPut, `{"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, nil, 413},
		"patch that makes it too large": {http.MethodPatch, `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.document(home)
			r := alice.send(test.method, data, test.body, test.header...)
			require.Equal(t, test.status, r.status, "%.300s", r.text)
			require.Equal(t, "application/problem+json", r.header.Get("Content-Type"))
			require.Equal(t, float64(test.status), r.field("status"))
			if test.status == 409 || test.status == 412 {
				require.Equal(t, 1.0, r.field("currentVersion"))
			}
			if test.status == 422 {
				require.NotEmpty(t, r.field("errors"))
			}
			require.Equal(t, before, w.document(home), "nothing was written")
		})
	}

	require.Equal(t, 2.0, alice.send(http.MethodPatch, data, object{"list": nil, "more": object{"x": 1}}).field("version"))
	require.Equal(t, 3.0, alice.send(http.MethodPatch, data, object{"more": object{"y": 2}}, "If-Match", `"1", "2"`).field("version"))
	require.Equal(t, object{"html": "<b>&", "n": 1.5, "more": object{"x": 1.0, "y": 2.0}}, alice.get(data).field("data"))
	require.Equal(t, 3.0, alice.send(http.MethodPatch, data, object{}).field("version"), "nothing to change")
	require.Equal(t, 4.0, alice.send(http.MethodPut, data, `{"data":{},"version":3}`, "If-Match", `"3"`).field("version"))
	require.Equal(t, 5.0, alice.send(http.MethodPut, data, `{"data":{"a":"`+strings.Repeat("x", 1<<20-8)+`"}}`, "If-Match", "*").field("version"), "1 MiB")
	require.Len(t, w.facts("workspace.data_updated"), 5, "what was refused told nothing")
}

// document is a workspace's row as it is stored, in one text.
func (w *world) document(workspaceID string) (row string) {
	w.t.Helper()
	require.NoError(w.t, w.db.Pool.QueryRow(w.t.Context(), `SELECT d::text FROM workspace_data d WHERE workspace_id = $1`, workspaceID).Scan(&row))
	return row
}

// A patch takes away as well as it adds, at any depth that a document has.
func TestMergePatches(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	data := "/api/workspaces/" + alice.home() + "/data"
	nest := func(leaf string) string { return strings.Repeat(`{"a":`, 498) + leaf + strings.Repeat("}", 498) }
	for i, step := range []struct{ patch, want string }{
		{`{"a":{"b":{"c":1,"d":2}},"l":[1,null],"s":"x"}`, `{"a":{"b":{"c":1,"d":2}},"l":[1,null],"s":"x"}`},
		{`{"a":{"b":{"c":null}},"l":[null]}`, `{"a":{"b":{"d":2}},"l":[null],"s":"x"}`},
		{`{"a":null,"l":null,"s":null,"never there":null}`, `{}`},
		{nest(`{"x":1,"y":2}`), nest(`{"x":1,"y":2}`)},
		{nest(`{"x":null}`), nest(`{"y":2}`)},
		{`{"a":null}`, `{}`},
	} {
		r := alice.send(http.MethodPatch, data, step.patch)
		require.Equal(t, http.StatusOK, r.status, r.text)
		require.Equal(t, float64(i+1), r.field("version"))
		require.Equal(t, fmt.Sprintf("%q", fmt.Sprint(i+1)), r.header.Get("ETag"))
		require.JSONEq(t, step.want, encode(t, alice.get(data).field("data")))
	}
	before := w.document(alice.home())
	for _, nothing := range []string{`{}`, `{"a":null}`} {
		require.Equal(t, 6.0, alice.send(http.MethodPatch, data, nothing).field("version"), nothing)
	}
	require.Equal(t, before, w.document(alice.home()))
	require.Len(t, w.facts("workspace.data_updated"), 6)
}

// Numbers keep their value, digit for digit, far beyond what a float holds; how they were spelled they don't keep.
func TestNumbersSurvive(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	alice.client.Transport = http.DefaultTransport // the referee reads numbers as floats
	data := "/api/workspaces/" + alice.home() + "/data"
	for _, number := range []struct{ sent, kept string }{
		{"9007199254740993", "9007199254740993"}, // 2^53 + 1
		{"-9223372036854775809", "-9223372036854775809"},
		{"123456789012345678901234567890.123456789012345678901234567890", "123456789012345678901234567890.123456789012345678901234567890"},
		{"0.1", "0.1"},
		{"0.30000000000000004", "0.30000000000000004"},
		{"1.50", "1.50"},
		{"1.0", "1.0"},
		{"1e2", "100"},
		{"1.5E-3", "0.0015"},
		{"1e400", "1" + strings.Repeat("0", 400)},
		{"1e-400", "0." + strings.Repeat("0", 399) + "1"},
		{"0", "0"},
		{"-0", "0"}, // there is no negative zero in numeric
		{"-0.0", "0.0"},
	} {
		want := `"n": ` + number.kept + `}`
		require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, `{"data":{"n":`+number.sent+`}}`).status, number.sent)
		require.Contains(t, alice.get(data).text, want)
		require.Equal(t, http.StatusOK, alice.send(http.MethodPatch, data, `{"a":1}`).status)
		require.Contains(t, alice.get(data).text, want, "a patch of something else leaves it alone")
		require.Equal(t, http.StatusOK, alice.send(http.MethodPatch, data, `{"n":null}`).status)
		require.Equal(t, http.StatusOK, alice.send(http.MethodPatch, data, `{"a":null,"n":`+number.sent+`}`).status)
		require.Contains(t, alice.get(data).text, want)
	}
	before := w.document(alice.home())
	for _, refused := range []string{"1e1000", "1e-1000", "1e999999999999999999999", strings.Repeat("9", 1001)} {
		r := alice.send(http.MethodPut, data, `{"data":{"n":`+refused+`}}`)
		require.Equal(t, http.StatusUnprocessableEntity, r.status)
		require.Equal(t, "/data/n", r.str("errors", 0, "pointer"))
		r = alice.send(http.MethodPatch, data, `{"n":`+refused+`}`)
		require.Equal(t, http.StatusUnprocessableEntity, r.status)
		require.Equal(t, "/n", r.str("errors", 0, "pointer"))
	}
	require.Equal(t, before, w.document(alice.home()))
}

func TestTasks(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	tasks := "/api/workspaces/" + alice.home() + "/tasks"

	made := alice.send(http.MethodPost, tasks, object{"title": " 牛乳を買う "}, "X-Request-Id", "my-request")
	require.Equal(t, http.StatusCreated, made.status)
	require.NotEqual(t, "my-request", made.header.Get("X-Request-Id"))
	one := tasks + "/" + made.str("id")
	require.Equal(t, one, made.header.Get("Location"))
	require.Equal(t, `"1"`, made.header.Get("ETag"))
	var task object
	made.into(&task)
	require.Equal(t, object{
		"id": task["id"], "title": "牛乳を買う", "notes": "", "status": "todo", "dueDate": nil, "startAt": nil, "endAt": nil,
		"timeZone": nil, "suit": "unclassified", "version": 1.0, "updatedAt": task["updatedAt"], "google": nil,
	}, task)
	require.Equal(t, made.text, alice.get(one).text)
	told := w.facts("task.created")
	require.Len(t, told, 1)
	require.Equal(t, made.header.Get("X-Request-Id"), told[0].requestID)
	require.Equal(t, "my-request", told[0].callerRequestID)
	require.Equal(t, alice.id(), told[0].actor)

	full := alice.send(http.MethodPost, tasks, object{
		"title": "Meet", "notes": "x\ny", "status": "done", "dueDate": "2026-02-28", "startAt": "2026-03-01T09:00:00+09:00",
		"endAt": "2026-03-01T01:00:00Z", "timeZone": "Asia/Tokyo", "suit": "heart",
	})
	require.Equal(t, "2026-03-01T00:00:00Z", full.str("startAt"))
	require.Equal(t, "2026-02-28", full.str("dueDate"))

	patched := alice.send(http.MethodPatch, one, object{"status": "done", "dueDate": "2026-12-31"}, "If-Match", `"1"`)
	require.Equal(t, `"2"`, patched.header.Get("ETag"))
	require.Equal(t, "2026-12-31", patched.str("dueDate"))
	require.Nil(t, alice.send(http.MethodPatch, one, object{"dueDate": nil}).field("dueDate"))
	stale := alice.send(http.MethodPatch, one, object{"title": "x"}, "If-Match", `"1"`)
	require.Equal(t, http.StatusPreconditionFailed, stale.status)
	require.Equal(t, 3.0, stale.field("currentVersion"))
	require.Equal(t, http.StatusUnsupportedMediaType, alice.send(http.MethodPatch, one, object{"title": "x"}, "Content-Type", "application/json").status)

	for body, pointer := range map[string]string{
		`{}`: "/title", `{"title":""}`: "/title", `{"title":"   "}`: "/title", `{"title":null}`: "/title", `{"title":5}`: "/title",
		`{"title":"` + strings.Repeat("x", 1025) + `"}`: "/title", `{"title":"x","notes":"` + strings.Repeat("x", 8193) + `"}`: "/notes",
		`{"title":"x","notes":null}`: "/notes", `{"title":"x","status":"open"}`: "/status", `{"title":"x","suit":"♠"}`: "/suit",
		`{"title":"x","dueDate":"2026-02-30"}`: "/dueDate", `{"title":"x","dueDate":""}`: "", `{"title":"x","startAt":"09:00"}`: "/startAt",
		`{"title":"x","endAt":"2026-01-01T00:00:00Z"}`: "/endAt", `{"title":"x","timeZone":"Mars/Olympus"}`: "/timeZone",
		`{"title":"x","timeZone":"../etc/passwd"}`: "/timeZone", `{"title":"x","id":"7"}`: "/id", `[]`: "",
		`{"title":"x","startAt":"2026-01-02T00:00:00Z","endAt":"2026-01-01T00:00:00Z"}`: "/endAt",
	} {
		r := alice.send(http.MethodPost, tasks, body)
		if pointer == "" && r.status == http.StatusCreated { // an empty date is none
			continue
		}
		require.Equal(t, http.StatusUnprocessableEntity, r.status, body)
		require.Equal(t, pointer, r.str("errors", 0, "pointer"), body)
	}

	for range 5 {
		alice.send(http.MethodPost, tasks, object{"title": "more"})
	}
	seen := make(map[string]bool)
	for path := tasks + "?limit=3"; ; {
		var page struct {
			Items      []struct{ ID string }
			NextCursor *string
		}
		alice.get(path).into(&page)
		for _, item := range page.Items {
			require.False(t, seen[item.ID])
			seen[item.ID] = true
		}
		if page.NextCursor == nil {
			break
		}
		path = tasks + "?limit=3&cursor=" + *page.NextCursor
	}
	require.Len(t, seen, 8)

	require.Equal(t, http.StatusNoContent, alice.send(http.MethodDelete, one, nil).status)
	require.Equal(t, http.StatusNotFound, alice.get(one).status)
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodDelete, one, nil).status)
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodPatch, one, object{"title": "x"}).status)
	require.Len(t, w.facts("task.deleted"), 1)
}

// While the flag is off, documents come from the database, newest as ever.
func TestTheWorkspaceCacheFlag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) { c.Flags = flags.New(nil, c.Log, flags.WorkspaceCache) })
	alice := w.signIn("alice")
	data := "/api/workspaces/" + alice.home() + "/data"
	for n := range 3 {
		require.Equal(t, http.StatusOK, alice.send(http.MethodPut, data, object{"data": object{"n": n}}).status)
		read := alice.get(data)
		require.Equal(t, "fdc-db; fwd=bypass", read.header.Get("Cache-Status"))
		require.Contains(t, read.text, fmt.Sprintf(`"n": %d`, n))
	}
}
