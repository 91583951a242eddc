package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func TestCheckJSON(t *testing.T) {
	t.Parallel()
	deep := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	many := func(last string) string {
		var b strings.Builder
		b.WriteString(`{"n0":0`)
		for i := range 40 {
			b.WriteString(`,"k` + strings.Repeat("x", i) + `":0`)
		}
		return b.String() + `,"` + last + `":0}`
	}
	for name, test := range map[string]struct {
		body    string
		kind    fault.Kind
		pointer string
	}{
		"empty":                      {"", fault.Malformed, ""},
		"white space":                {" \n\t", fault.Malformed, ""},
		"cut short":                  {`{"a":`, fault.Malformed, ""},
		"trailing data":              {`{} {}`, fault.Malformed, ""},
		"trailing comma":             {`{"a":1,}`, fault.Malformed, ""},
		"single quotes":              {`{'a':1}`, fault.Malformed, ""},
		"not a number":               {`NaN`, fault.Malformed, ""},
		"leading zero":               {`01`, fault.Malformed, ""},
		"byte order mark":            {"\ufeff{}", fault.Malformed, ""},
		"not UTF-8":                  {"\"\xff\"", fault.Malformed, ""},
		"repeated name":              {`{"a":1,"a":2}`, fault.Malformed, ""},
		"repeated name inside":       {`{"x":[{"a":1,"a":2}]}`, fault.Malformed, ""},
		"repeated name, escaped":     {`{"a":1,"\u0061":2}`, fault.Malformed, ""},
		"repeated name among many":   {many("kxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), fault.Malformed, ""},
		"high surrogate alone":       {`"\ud800"`, fault.Malformed, ""},
		"high surrogate, then text":  {`"\ud800abcdef"`, fault.Malformed, ""},
		"high surrogate, then other": {`"\ud800\u0041"`, fault.Malformed, ""},
		"low surrogate alone":        {`"\udc00"`, fault.Malformed, ""},
		"surrogate in a name":        {`{"\ud800":1}`, fault.Malformed, ""},
		"NUL":                        {`{"a/b":["x","\u0000"]}`, fault.Invalid, "/a~1b/1"},
		"too deep":                   {deep(maxDepth + 2), fault.Invalid, strings.Repeat("/0", maxDepth+1)},
		"far too deep":               {deep(100_000), fault.Malformed, ""},

		"object":          {` {"a" : [1, -2.5e-3, true, false, null, "x"], "b" : {}} `, 0, ""},
		"surrogate pair":  {`"\ud83d\ude00"`, 0, ""},
		"escaped quotes":  {`{"a\"b":"\\","c\\":"\""}`, 0, ""},
		"deep enough":     {deep(maxDepth), 0, ""},
		"many names":      {many("other"), 0, ""},
		"scalar":          {`-0.5E+10`, 0, ""},
		"same name apart": {`{"a":{"a":{"a":1}}}`, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := checkJSON([]byte(test.body))
			if test.kind == 0 {
				require.NoError(t, err)
				return
			}
			var f *fault.Error
			require.ErrorAs(t, err, &f)
			require.Equal(t, test.kind, f.Kind, f.Detail)
			if test.kind == fault.Invalid {
				require.Len(t, f.Fields, 1)
				require.Equal(t, test.pointer, f.Fields[0].Pointer)
			}
		})
	}
}

// FuzzCheckJSON compares with encoding/json: what passes must be valid, and free of repeated names by another way of
// looking.
func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1,"a":2}`, `[{"a":{"b":[]}}]`, `"\ud83d\ude00"`, `"\u0000"`, `{"a" :1 , "\u0061":2}`, "\xff", `1e999`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := checkJSON(body)
		valid := json.Valid(body) && utf8.Valid(body)
		switch {
		case err != nil && fault.KindOf(err) != fault.Malformed && fault.KindOf(err) != fault.Invalid:
			t.Fatalf("kind of %v", err)
		case err == nil && !valid:
			t.Fatalf("passed %q", body)
		case !valid:
			return
		}
		if repeats(t, body) && err == nil {
			t.Fatalf("passed repeated names: %q", body)
		}
		if err == nil && bytes.Contains(body, []byte(`\u0000`)) && !bytes.Contains(body, []byte(`\\u0000`)) {
			t.Fatalf("passed U+0000: %q", body)
		}
	})
}

// repeats reports whether an object in valid JSON has a name twice.
func repeats(t *testing.T, body []byte) bool {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	type level struct {
		names map[string]bool // nil in an array
		name  bool            // a name comes next
	}
	var stack []level
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return false
		}
		if err != nil {
			return false // too deep for encoding/json
		}
		top := len(stack) - 1
		if text, ok := token.(string); ok && top >= 0 && stack[top].name {
			if stack[top].names[text] {
				return true
			}
			stack[top].names[text], stack[top].name = true, false
			continue
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{map[string]bool{}, true})
			continue
		case json.Delim('['):
			stack = append(stack, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
		}
		if top = len(stack) - 1; top >= 0 && stack[top].names != nil {
			stack[top].name = true
		}
	}
}

func BenchmarkCheckJSON(b *testing.B) {
	body := []byte(`{"data":{"items":[` + strings.Repeat(`{"id":"0198","title":"Buy milk","done":false,"n":12},`, 400) + `{}]}}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if err := checkJSON(body); err != nil {
			b.Fatal(err)
		}
	}
}
