package workspace_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/workspace"
)

func (o *office) put(t *testing.T, user, w, data string) workspace.Document {
	t.Helper()
	doc, err := o.PutData(t.Context(), by(user), user, w, json.RawMessage(data), workspace.Expect{})
	require.NoError(t, err, "%.200s", data)
	return doc
}

func TestDocument(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob := o.user(t, "alice@example.com"), o.user(t, "bob@example.com")
	w := o.make(t, alice)
	o.seat(t, w, bob, workspace.RoleMember)

	doc, err := o.Data(t.Context(), bob, w)
	require.NoError(t, err)
	require.Equal(t, w, doc.WorkspaceID)
	require.JSONEq(t, `{}`, string(doc.Data))
	require.Zero(t, doc.Version)
	require.False(t, doc.LastModified.IsZero())

	put := o.put(t, bob, w, ` { "a" : 1 , "b" : { "c" : "é" } , "~/" : [ 1.50 ] } `)
	require.Equal(t, int64(1), put.Version)
	require.Equal(t, `{"a":1,"b":{"c":"é"},"~/":[1.50]}`, string(put.Data))
	told := o.db.Told(t)
	require.Equal(t, []events.Payload{events.WorkspaceDataUpdated{
		WorkspaceID: w, Version: 1, Changed: []string{"/a", "/b", "/~0~1"}, Bytes: int64(len(put.Data)),
	}}, payloads(told))
	require.Equal(t, bob, told[0].ActorID)
	require.Equal(t, "workspace_data/"+w, told[0].Aggregate())
	require.Equal(t, "evt.workspace.data_updated.v1."+w, told[0].NATSSubject())

	doc, err = o.Data(t.Context(), alice, w)
	require.NoError(t, err)
	require.JSONEq(t, string(put.Data), string(doc.Data))
	require.Contains(t, string(doc.Data), "1.50")
	require.Equal(t, put.Version, doc.Version)
	require.True(t, put.LastModified.Equal(doc.LastModified))

	// One member changes, one goes, one comes, one stays.
	put = o.put(t, bob, w, `{"a":1.0,"b":{"c":"e"},"":null}`)
	o.requireTold(t, events.WorkspaceDataUpdated{
		WorkspaceID: w, Version: 2, Changed: []string{"/", "/b", "/~0~1"}, Bytes: int64(len(put.Data)),
	})
	// Nothing changes, and it is a version all the same.
	put = o.put(t, bob, w, `{"":null,"b":{"c":"e"},"a":1}`)
	require.Equal(t, int64(3), put.Version)
	o.requireTold(t, events.WorkspaceDataUpdated{WorkspaceID: w, Version: 3, Bytes: int64(len(put.Data))})

	require.Equal(t, int64(1), o.version(t, w), "the document's versions are its own")
}

func TestPatchDocument(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	w := o.make(t, alice)
	patch := func(p string) workspace.Document {
		doc, err := o.PatchData(t.Context(), by(alice), alice, w, json.RawMessage(p), workspace.Expect{})
		require.NoError(t, err, p)
		return doc
	}
	doc := patch(`{"n":12345678901234567890.123456789,"o":{"keep":1,"drop":2},"gone":null}`)
	require.Equal(t, int64(1), doc.Version)
	require.Equal(t, `{"n":12345678901234567890.123456789,"o":{"keep":1,"drop":2}}`, string(doc.Data))
	o.requireTold(t, events.WorkspaceDataUpdated{WorkspaceID: w, Version: 1, Changed: []string{"/n", "/o"}, Bytes: int64(len(doc.Data))})

	doc = patch(`{"o":{"drop":null,"deep":{"x":null,"y":[null]}}}`)
	require.JSONEq(t, `{"keep":1,"deep":{"y":[null]}}`, string(member(t, doc.Data, "o")))
	require.Equal(t, "12345678901234567890.123456789", string(member(t, doc.Data, "n")), "what a patch doesn't touch stays exact")
	o.requireTold(t, events.WorkspaceDataUpdated{WorkspaceID: w, Version: 2, Changed: []string{"/o"}, Bytes: int64(len(doc.Data))})

	for _, same := range []string{`{}`, `{"gone":null}`, `{"o":{"keep":1.0}}`, `{"o":{"deep":{"x":null}}}`, `{"n":1.2345678901234567890123456789e19}`} {
		same := patch(same)
		require.Equal(t, int64(2), same.Version)
		require.True(t, doc.LastModified.Equal(same.LastModified))
	}
	o.requireTold(t)
	now, err := o.Data(t.Context(), alice, w)
	require.NoError(t, err)
	require.Equal(t, int64(2), now.Version)
	require.JSONEq(t, string(doc.Data), string(now.Data))
}

func member(t *testing.T, data json.RawMessage, name string) json.RawMessage {
	t.Helper()
	var m map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &m))
	return m[name]
}

func TestExpectations(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	w := o.make(t, alice)
	o.put(t, alice, w, `{"a":1}`)
	o.put(t, alice, w, `{"a":2}`)
	o.db.Told(t)
	for _, c := range []struct {
		want workspace.Expect
		kind fault.Kind
	}{
		{workspace.Expect{Version: new(int64(1))}, fault.Conflict},
		{workspace.Expect{Version: new(int64(3))}, fault.Conflict},
		{workspace.Expect{Version: new(int64(-1))}, fault.Conflict},
		{workspace.Expect{IfMatch: []int64{1}}, fault.PreconditionFailed},
		{workspace.Expect{IfMatch: []int64{0}}, fault.PreconditionFailed},
		{workspace.Expect{IfMatch: []int64{1, 3, -1}}, fault.PreconditionFailed},
		{workspace.Expect{IfMatch: []int64{}}, fault.PreconditionFailed},
		{workspace.Expect{Version: new(int64(2)), IfMatch: []int64{1}}, fault.PreconditionFailed},
		{workspace.Expect{Version: new(int64(1)), IfMatch: []int64{2}}, fault.Conflict},
		{workspace.Expect{Version: new(int64(1)), IfMatch: []int64{1}}, fault.PreconditionFailed},
	} {
		_, err := o.PutData(t.Context(), by(alice), alice, w, []byte(`{"a":9}`), c.want)
		require.Equal(t, map[string]any{"currentVersion": int64(2)}, requireFault(t, c.kind, err).Extra)
		_, err = o.PatchData(t.Context(), by(alice), alice, w, []byte(`{"a":9}`), c.want)
		require.Equal(t, map[string]any{"currentVersion": int64(2)}, requireFault(t, c.kind, err).Extra)
	}
	o.requireTold(t)
	doc, err := o.PutData(t.Context(), by(alice), alice, w, []byte(`{"a":3}`), workspace.Expect{Version: new(int64(2)), IfMatch: []int64{7, 2}})
	require.NoError(t, err)
	require.Equal(t, int64(3), doc.Version)
	doc, err = o.PatchData(t.Context(), by(alice), alice, w, []byte(`{"a":4}`), workspace.Expect{Version: new(int64(3)), IfMatch: []int64{3, 7}})
	require.NoError(t, err)
	require.Equal(t, int64(4), doc.Version)
	require.Len(t, o.db.Told(t), 2)
}

func TestDocumentRefuses(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	w := o.make(t, alice)
	for _, c := range []struct {
		data    string
		kind    fault.Kind
		pointer string // in the document
	}{
		{`[]`, fault.Invalid, ""},
		{`null`, fault.Invalid, ""},
		{`"{}"`, fault.Invalid, ""},
		{`1`, fault.Invalid, ""},
		{``, fault.Malformed, ""},
		{`{"a":}`, fault.Malformed, ""},
		{`{"a":1,"a":2}`, fault.Malformed, ""},
		{"{\"a\":\"\xc3\"}", fault.Malformed, ""},
		{`{"a":{"b":["\u0000"]}}`, fault.Invalid, "/a/b/0"},
		{`{"a":1e2000}`, fault.Invalid, "/a"},
		{`{"a":"` + strings.Repeat("x", workspace.MaxDocument) + `"}`, fault.TooLarge, ""},
	} {
		_, err := o.PutData(t.Context(), by(alice), alice, w, json.RawMessage(c.data), workspace.Expect{})
		f := requireFault(t, c.kind, err)
		if c.kind == fault.Invalid {
			require.Equal(t, "/data"+c.pointer, f.Fields[0].Pointer)
		}
		_, err = o.PatchData(t.Context(), by(alice), alice, w, json.RawMessage(c.data), workspace.Expect{})
		f = requireFault(t, c.kind, err)
		if c.kind == fault.Invalid {
			require.Equal(t, c.pointer, f.Fields[0].Pointer)
		}
	}
	o.requireTold(t)

	// The bound is the document's, however it gets there.
	frame := len(`{"a":"","b":""}`)
	half := strings.Repeat("x", (workspace.MaxDocument-frame)/2)
	o.put(t, alice, w, `{"a":"`+half+`", "b":""}`)
	_, err := o.PatchData(t.Context(), by(alice), alice, w, json.RawMessage(`{"b":"`+half+`xx"}`), workspace.Expect{})
	requireKind(t, fault.TooLarge, err)
	rest := strings.Repeat("x", workspace.MaxDocument-frame-len(half))
	doc, err := o.PatchData(t.Context(), by(alice), alice, w, json.RawMessage(`{"b":"`+rest+`"}`), workspace.Expect{})
	require.NoError(t, err)
	require.Len(t, doc.Data, workspace.MaxDocument)
	o.put(t, alice, w, string(doc.Data))
}

// What is accepted, Postgres holds without loss: the same numbers, strings and names come back.
func TestDocumentComesBackAsItWas(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	w := o.make(t, alice)
	digits := strings.Repeat("9", 1000)
	for _, c := range []struct{ data, want string }{
		{data: `{}`},
		{data: `{"":{"":[[],{},"",null]}}`},
		{data: `{"n":[0,-1,1.10,123456789012345678901234567890.000100]}`},
		{data: `{"n":[1e3,1E-3,-2.5e+2]}`, want: `{"n":[1000,0.001,-250]}`},
		{data: `{"n":` + digits + `}`},
		{data: `{"n":0.` + digits[:990] + `}`},
		{data: `{"n":1e990}`, want: `{"n":1` + strings.Repeat("0", 990) + `}`},
		{data: `{"n":1e-990}`, want: `{"n":0.` + strings.Repeat("0", 989) + `1}`},
		{data: `{"s":"\u0001\u001f\u007f\ufffe\uffff\ud83d\ude00\"\\\/\b\f\n\r\t\u2028"}`},
		{data: `{"日本語":"日本語","\ud83d\ude00":"😀"," ":"\u00a0"}`},
		{data: `{"__proto__":{"constructor":1},"a.b":{"$c":2},"\"":"'; DROP TABLE tasks; --"}`},
		{data: strings.Repeat(`{"a":`, 499) + `[]` + strings.Repeat(`}`, 499)},
		{data: `{"a":` + strings.Repeat(`[`, 499) + strings.Repeat(`]`, 499) + `}`},
		{data: `{"` + strings.Repeat("k", 70_000) + `":1}`},
	} {
		if c.want == "" {
			c.want = c.data
		}
		put := o.put(t, alice, w, c.data)
		got, err := o.Data(t.Context(), alice, w)
		require.NoError(t, err)
		require.Equal(t, put.Version, got.Version)
		requireSame(t, c.want, string(got.Data))
		// What was stored can be merged into again.
		_, err = o.PatchData(t.Context(), by(alice), alice, w, json.RawMessage(`{"extra":1}`), workspace.Expect{})
		require.NoError(t, err)
	}
}

// requireSame compares JSON with the numbers letter by letter.
func requireSame(t *testing.T, want, got string) {
	t.Helper()
	decode := func(text string) (v any) {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		require.NoError(t, d.Decode(&v))
		return v
	}
	require.Equal(t, decode(want), decode(got))
}

func TestChangedIsBounded(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	w := o.make(t, alice)
	object := func(n int, value string) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(`"k%03d":%s`, i, value)
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	last := func() []string {
		told := payloads(o.db.Told(t))
		require.Len(t, told, 1)
		return told[0].(events.WorkspaceDataUpdated).Changed
	}
	o.put(t, alice, w, object(100, "1"))
	require.Len(t, last(), 100)
	o.put(t, alice, w, object(2000, "2"))
	require.Equal(t, []string{"*"}, last())
	_, err := o.PatchData(t.Context(), by(alice), alice, w, json.RawMessage(object(101, "3")), workspace.Expect{})
	require.NoError(t, err)
	require.Equal(t, []string{"*"}, last())
	o.put(t, alice, w, `{"`+strings.Repeat("k", 300)+`":1}`)
	require.Equal(t, []string{"*"}, last())
	o.put(t, alice, w, `{"a\nb":1}`)
	require.Equal(t, []string{"*"}, last())
}

// Writers at the same moment: every write is one version and one event, and none is lost.
func TestConcurrentWrites(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	const writers, rounds = 4, 15
	race := func(write func(writer, round int) error) []error {
		errs := make([]error, writers*rounds)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for r := range rounds {
					errs[i*rounds+r] = write(i, r)
				}
			})
		}
		wg.Wait()
		return errs
	}
	requireVersions := func(t *testing.T, w string, n int) {
		t.Helper()
		told := o.db.Told(t)
		require.Len(t, told, n)
		for i, ev := range told {
			require.Equal(t, int64(i+1), ev.Version())
		}
		doc, err := o.Data(t.Context(), alice, w)
		require.NoError(t, err)
		require.Equal(t, int64(n), doc.Version)
	}

	t.Run("replace", func(t *testing.T) {
		w := o.make(t, alice)
		for _, err := range race(func(i, r int) error {
			_, err := o.PutData(t.Context(), by(alice), alice, w, json.RawMessage(fmt.Sprintf(`{"w":%d,"r":%d}`, i, r)), workspace.Expect{})
			return err
		}) {
			require.NoError(t, err)
		}
		requireVersions(t, w, writers*rounds)
	})
	t.Run("replace one version", func(t *testing.T) {
		w := o.make(t, alice)
		won := 0
		for _, err := range race(func(_, r int) error {
			_, err := o.PutData(t.Context(), by(alice), alice, w, json.RawMessage(`{"a":1}`), workspace.Expect{Version: new(int64(r))})
			return err
		}) {
			if err == nil {
				won++
			} else {
				requireKind(t, fault.Conflict, err)
			}
		}
		requireVersions(t, w, won)
	})
	t.Run("merge different parts", func(t *testing.T) {
		w := o.make(t, alice)
		for _, err := range race(func(i, r int) error {
			_, err := o.PatchData(t.Context(), by(alice), alice, w, json.RawMessage(fmt.Sprintf(`{"deep":{"w%d":{"r%d":1}}}`, i, r)), workspace.Expect{})
			return err
		}) {
			require.NoError(t, err)
		}
		requireVersions(t, w, writers*rounds)
		doc, err := o.Data(t.Context(), alice, w)
		require.NoError(t, err)
		var data struct{ Deep map[string]map[string]int }
		require.NoError(t, json.Unmarshal(doc.Data, &data))
		require.Len(t, data.Deep, writers)
		for _, parts := range data.Deep {
			require.Len(t, parts, rounds)
		}
	})
	t.Run("merge and replace", func(t *testing.T) {
		w := o.make(t, alice)
		for _, err := range race(func(i, r int) error {
			var err error
			body := json.RawMessage(fmt.Sprintf(`{"w%d":%d}`, i, r))
			if i%2 == 0 {
				_, err = o.PutData(t.Context(), by(alice), alice, w, body, workspace.Expect{})
			} else {
				_, err = o.PatchData(t.Context(), by(alice), alice, w, body, workspace.Expect{})
			}
			return err
		}) {
			require.NoError(t, err)
		}
		requireVersions(t, w, writers*rounds)
	})
}
