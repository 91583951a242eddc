package workspace

import (
	"context"
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func parsed(t *testing.T, text string) value {
	t.Helper()
	v, err := parse([]byte(text), "")
	require.NoError(t, err, text)
	return v
}

// The cases of RFC 7396, appendix A, and the example of its section 3.
func TestMergeAsTheRFCSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{
			`{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],"content":"This will be unchanged"}`,
			`{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}`,
			`{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}`,
		},
	} {
		require.Equal(t, c.want, string(merge(parsed(t, c.target), parsed(t, c.patch)).append(nil)), "%s + %s", c.target, c.patch)
	}
}

func TestMergeKeepsWhatItDoesNotTouch(t *testing.T) {
	t.Parallel()
	target := parsed(t, ` { "n" : 12345678901234567890.10 , "s" : " \u00e9\\\" , : { " , "o" : { "x" : [ 1 , { } ] , "y" : 1e3 } } `)
	patch := parsed(t, `{"o":{"y":0.10},"new":{"drop":null,"keep":-0}}`)
	require.Equal(t,
		`{"n":12345678901234567890.10,"s":" \u00e9\\\" , : { ","o":{"x":[1,{}],"y":0.10},"new":{"keep":-0}}`,
		string(merge(target, patch).append(nil)))
}

// A name may be spelled with escapes; it is the same name.
func TestMergeComparesNamesNotSpellings(t *testing.T) {
	t.Parallel()
	got := merge(parsed(t, `{"é/~":1,"b":2}`), parsed(t, `{"\u00e9\/~":3,"\u0062":null}`))
	require.Equal(t, `{"é/~":3}`, strings.ReplaceAll(string(got.append(nil)), `\u00e9\/`, "é/"))
}

func TestChangedNames(t *testing.T) {
	t.Parallel()
	const before = `{"n":100,"s":"é","o":{"a":1,"b":[1.0,{"x":1,"y":2}]},"z":null,"t":true,"list":[1,2]}`
	for patch, want := range map[string][]string{
		`{}`: nil,
		`{"n":1e2,"s":"\u00e9","o":{"b":[1,{"y":2.0,"x":1}],"a":1},"t":true}`: nil, // other spellings of the same
		`{"gone":null}`:           nil,
		`{"o":{"gone":null}}`:     nil,
		`{"n":100.5}`:             {"n"},
		`{"z":null}`:              {"z"}, // null in a document is a value, in a patch an order
		`{"s":"e","t":false}`:     {"s", "t"},
		`{"o":{"b":[1,{"x":1}]}}`: {"o"},
		`{"list":[1,2,3]}`:        {"list"},
		`{"list":{"0":1}}`:        {"list"},
		`{"t":"true"}`:            {"t"},
		`{"new":{}}`:              {"new"},
	} {
		b, p := parsed(t, before), parsed(t, patch)
		got, err := changedNames(t.Context(), b, merge(b, p), p)
		require.NoError(t, err)
		require.Equal(t, want, got, patch)
	}
}

// An event lists at most 100 names, so the comparison ends at the next one.
func TestChangedNamesStopsWhenItHasEnough(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 3 * enough {
		text.WriteString(`,"k` + strconv.Itoa(i) + `":0`)
	}
	patch := parsed(t, "{"+text.String()[1:]+"}")
	names, err := changedNames(t.Context(), value{object: true}, patch, patch)
	require.NoError(t, err)
	require.Len(t, names, enough)
}

func TestChangedNamesEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := parsed(t, `{"a":1}`)
	_, err := changedNames(ctx, v, v, v)
	require.ErrorIs(t, err, context.Canceled)
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(`"k` + strconv.Itoa(i) + `":0,`)
		}
		return b.String()
	}
	for _, c := range []struct {
		text    string
		kind    fault.Kind
		pointer string
	}{
		{``, fault.Malformed, ""},
		{`{`, fault.Malformed, ""},
		{`{} {}`, fault.Malformed, ""},
		{`{"a":01}`, fault.Malformed, ""},
		{`{"a":NaN}`, fault.Malformed, ""},
		{`{"a":"` + "\n" + `"}`, fault.Malformed, ""},
		{"{\"a\":\"\xff\"}", fault.Malformed, ""},
		{"{\"a\":\"\xed\xa0\x80\"}", fault.Malformed, ""}, // a surrogate in UTF-8
		{`{"a":1,"a":1}`, fault.Malformed, ""},
		{`{"a":{"b":[{"é":1,"\u00e9":1}]}}`, fault.Malformed, ""},
		{`{` + many(40) + `"k7":0}`, fault.Malformed, ""},
		{`{` + many(40) + `"k39":0}`, fault.Malformed, ""},
		{`{"a":{"b/c~":[0,"x\u0000"]}}`, fault.Invalid, "/data/a/b~1c~0/1"},
		{`{"a\u0000":1}`, fault.Invalid, "/data"},
		{`{"a":"\ud800"}`, fault.Invalid, "/data/a"},
		{`{"a":"\udc00\ud800"}`, fault.Invalid, "/data/a"},
		{`{"a":"\ud800\u0041"}`, fault.Invalid, "/data/a"},
		{`{"a":"\ud800\n"}`, fault.Invalid, "/data/a"},
		{`{"a":"\ud800n"}`, fault.Invalid, "/data/a"},
		{`{"a":1e1000}`, fault.Invalid, "/data/a"},
		{`{"a":[-1.5E-1000]}`, fault.Invalid, "/data/a/0"},
		{`{"a":1e99999999999999999999}`, fault.Invalid, "/data/a"},
		{`{"a":` + strings.Repeat("1", maxNumber+1) + `}`, fault.Invalid, "/data/a"},
		{`{"b":{"` + strings.Repeat("k", 2000) + `":"\u0000"}}`, fault.Invalid, "/data/b"},
		{strings.Repeat(`{"a":`, maxDepth+1) + `1` + strings.Repeat(`}`, maxDepth+1), fault.Invalid, "/data"},
		{strings.Repeat(`[`, maxDepth+1) + strings.Repeat(`]`, maxDepth+1), fault.Invalid, "/data"},
	} {
		_, err := parse([]byte(c.text), "/data")
		require.Equal(t, c.kind, fault.KindOf(err), "%.80q: %v", c.text, err)
		if c.kind == fault.Invalid {
			var f *fault.Error
			require.ErrorAs(t, err, &f)
			require.Len(t, f.Fields, 1)
			require.Equal(t, c.pointer, f.Fields[0].Pointer, "%.80q", c.text)
		}
	}
}

func TestParseCountsWhatExponentsHide(t *testing.T) {
	t.Parallel()
	v := parsed(t, `{"a":[1e3,-2E-5,7],"b":1e0}`)
	require.Equal(t, 8, v.expansion)
	v = parsed(t, `[`+strings.Repeat(`1e900,`, 2000)+`0]`)
	_, err := encode(v, v.expansion)
	require.Equal(t, fault.TooLarge, fault.KindOf(err), "12 KB that Postgres gives back as 1.8 MB")
}

// referenceMerge is RFC 7396, section 2, letter by letter.
func referenceMerge(target, patch any) any {
	object, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged := map[string]any{}
	if t, ok := target.(map[string]any); ok {
		maps.Copy(merged, t)
	}
	for name, v := range object {
		if v == nil {
			delete(merged, name)
		} else {
			merged[name] = referenceMerge(merged[name], v)
		}
	}
	return merged
}

func FuzzMerge(f *testing.F) {
	f.Add(`{"a":{"b":[1,2.50],"c":null}}`, `{"a":{"b":null,"d":{"e":null}},"f":1e2}`)
	f.Add(`[1]`, `{"a":"\u00e9\ud83d\ude00","":{}}`)
	f.Add(`{"a":1,"a":2}`, `{}`)
	f.Add(` { } `, ` { "x" : [ { "y" : "\\\"" } ] } `)
	f.Fuzz(func(t *testing.T, target, patch string) {
		tv, err := parse([]byte(target), "")
		if err != nil {
			return
		}
		pv, err := parse([]byte(patch), "")
		if err != nil {
			return
		}
		merged := merge(tv, pv)
		text := merged.append(nil)
		if !json.Valid(text) {
			t.Fatalf("%q + %q = %q: not JSON", target, patch, text)
		}
		if want := referenceMerge(decoded([]byte(target)), decoded([]byte(patch))); !sameDecoded(decoded(text), want) {
			t.Fatalf("%q + %q = %q, want %v", target, patch, text, want)
		}
		again := merge(merged, pv)
		if string(again.append(nil)) != string(text) {
			t.Fatalf("%q + %q twice = %q, once %q", target, patch, again.append(nil), text)
		}
		if !pv.object {
			return
		}
		if names, err := changedNames(t.Context(), merged, again, pv); err != nil || len(names) > 0 {
			t.Fatalf("%q + %q: the second time changed %v (%v)", target, patch, names, err)
		}
	})
}

// What parse accepts is JSON and stays the same when it is written compactly.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,"\u0000"]}`, `"\ud83d\ude00"`, `-1.5e-10`, "\"\xff\"", `[[],{},null,true,false]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := parse(text, "")
		if err != nil {
			switch fault.KindOf(err) {
			case fault.Malformed, fault.Invalid:
			default:
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		compact := v.append(nil)
		if !json.Valid(compact) || !sameDecoded(decoded(compact), decoded(text)) {
			t.Fatalf("%q became %q", text, compact)
		}
		if _, err := parse(compact, ""); err != nil {
			t.Fatalf("%q: its compact form is refused: %v", text, err)
		}
	})
}

// document is one of the usual size.
func document(tb testing.TB) []byte {
	tb.Helper()
	rows := make([]map[string]any, 120)
	for i := range rows {
		rows[i] = map[string]any{
			"id": i, "title": "Task " + strconv.Itoa(i), "done": i%3 == 0, "weight": 1.25, "tags": []string{"a", "目標"},
			"owner": map[string]any{"name": "Alice", "email": nil},
		}
	}
	text, err := json.Marshal(map[string]any{"rows": rows, "settings": map[string]any{"theme": "dark", "columns": []int{1, 2, 3}}})
	require.NoError(tb, err)
	return text
}

func BenchmarkParse(b *testing.B) {
	text := document(b)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(text, ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMerge(b *testing.B) {
	text := document(b)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		before, err := parse(text, "")
		if err != nil {
			b.Fatal(err)
		}
		change, err := parse([]byte(`{"settings":{"theme":"light"}}`), "")
		if err != nil {
			b.Fatal(err)
		}
		after := merge(before, change)
		names, err := changedNames(b.Context(), before, after, change)
		if err != nil || len(names) != 1 || len(after.append(nil)) == 0 {
			b.Fatal("no change")
		}
	}
}
