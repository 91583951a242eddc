package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"fdc/internal/platform/fault"
)

// maxDepth bounds the nesting of bodies, so that recursive readers stay shallow. Features may want less.
const maxDepth = 1000

// checkJSON reports what keeps body from being JSON that every reader understands alike (RFC 7493: UTF-8, no repeated
// names, no unpaired surrogates): that is Malformed. What no feature can keep (U+0000, too many levels) is Invalid, with a
// pointer to it.
func checkJSON(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return fault.New(fault.Malformed, "malformed", "The body is empty; want JSON.")
	}
	if !utf8.Valid(body) {
		return fault.New(fault.Malformed, "malformed", "The body is not UTF-8.")
	}
	if !json.Valid(body) {
		return syntaxFault(body)
	}
	s := scanner{text: body}
	if f := s.value(0); f != nil {
		return f.fault()
	}
	return nil
}

func syntaxFault(body []byte) error {
	var whole json.RawMessage
	err := json.Unmarshal(body, &whole)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fault.New(fault.Malformed, "malformed", "The body is not JSON: %s, at byte %d.", syntax, syntax.Offset)
	}
	return fault.Wrap(err, fault.Malformed, "malformed", "The body is not JSON.")
}

// flaw is something wrong in syntactically valid JSON. Its path is collected while the scanner unwinds, so the path of a
// good document costs nothing.
type flaw struct {
	kind   fault.Kind
	detail string
	path   []string // innermost first
}

func (f *flaw) in(token string) *flaw {
	f.path = append(f.path, token)
	return f
}

func (f *flaw) fault() error {
	slices.Reverse(f.path)
	p := pointer("", f.path...)
	if f.kind == fault.Malformed {
		return fault.New(fault.Malformed, "malformed", "The body is not well-formed: %s at %q.", f.detail, p)
	}
	return fault.Wrong(fault.Field{Pointer: p, Detail: f.detail})
}

// pointer extends an RFC 6901 pointer by tokens.
func pointer(base string, tokens ...string) string {
	var b strings.Builder
	b.WriteString(base)
	for _, token := range tokens {
		b.WriteByte('/')
		b.WriteString(pointerEscape.Replace(token))
	}
	return b.String()
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// scanner walks text that is known to be valid JSON.
type scanner struct {
	text  []byte
	at    int
	names [][]byte // of the objects that it is in, outermost first
}

func (s *scanner) value(depth int) *flaw {
	if depth > maxDepth {
		return &flaw{kind: fault.Invalid, detail: fmt.Sprintf("Nested too deeply: %d levels are the most.", maxDepth)}
	}
	switch s.next() {
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case '"':
		_, f := s.string()
		return f
	default:
		s.scalar()
		return nil
	}
}

// next skips white space and separators up to a token and returns its first byte, which is not consumed.
func (s *scanner) next() byte {
	for {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			s.at++
		default:
			return c
		}
	}
}

// manyNames is from when on an object's names are worth a map.
const manyNames = 16

func (s *scanner) object(depth int) *flaw {
	s.at++
	first := len(s.names)
	var many map[string]struct{}
	for s.next() != '}' {
		raw, f := s.string()
		if f != nil {
			return f
		}
		name := unquote(raw)
		_, there := many[string(name)]
		if there || many == nil && slices.ContainsFunc(s.names[first:], func(other []byte) bool { return bytes.Equal(other, name) }) {
			return &flaw{kind: fault.Malformed, detail: "a name that its object already has", path: []string{string(name)}}
		}
		s.names = append(s.names, name)
		if many != nil {
			many[string(name)] = struct{}{}
		} else if len(s.names)-first > manyNames {
			many = make(map[string]struct{})
			for _, other := range s.names[first:] {
				many[string(other)] = struct{}{}
			}
		}
		if f := s.value(depth + 1); f != nil {
			return f.in(string(name))
		}
	}
	s.at++
	s.names = s.names[:first]
	return nil
}

func (s *scanner) array(depth int) *flaw {
	s.at++
	for i := 0; s.next() != ']'; i++ {
		if f := s.value(depth + 1); f != nil {
			return f.in(strconv.Itoa(i))
		}
	}
	s.at++
	return nil
}

// string returns the string at hand in its quotes.
func (s *scanner) string() ([]byte, *flaw) {
	start := s.at
	for s.at++; s.text[s.at] != '"'; s.at++ {
		if s.text[s.at] != '\\' {
			continue
		}
		s.at++
		if s.text[s.at] != 'u' {
			continue
		}
		switch r := s.unit(); {
		case r == 0:
			return nil, &flaw{kind: fault.Invalid, detail: "The character U+0000 can't be stored."}
		case 0xd800 <= r && r < 0xdc00:
			if !bytes.HasPrefix(s.text[s.at+1:], []byte(`\u`)) {
				return nil, unpaired()
			}
			s.at += 2
			if low := s.unit(); low < 0xdc00 || low > 0xdfff {
				return nil, unpaired()
			}
		case 0xdc00 <= r && r < 0xe000:
			return nil, unpaired()
		}
	}
	s.at++
	return s.text[start:s.at], nil
}

// unit reads the four digits after a \u whose u is at hand, and leaves the last one at hand.
func (s *scanner) unit() rune {
	n, err := strconv.ParseUint(string(s.text[s.at+1:s.at+5]), 16, 16)
	if err != nil {
		panic("scan of invalid JSON: " + err.Error())
	}
	s.at += 4
	return rune(n)
}

func unpaired() *flaw {
	return &flaw{kind: fault.Malformed, detail: "an unpaired surrogate"}
}

// scalar passes a number, true, false or null. What a number may be is the feature's to say.
func (s *scanner) scalar() {
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n,]}", s.text[s.at]) < 0 {
		s.at++
	}
}

// unquote decodes a string that is known to be valid. The result may share its memory.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic("unquote invalid JSON: " + err.Error())
	}
	return []byte(s)
}
