package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"fdc/internal/platform/fault"
)

// Bounds of what a document may hold, all far within Postgres's own.
const (
	maxDepth  = 500
	maxNumber = 1000 // characters of a number, its exponent written out
)

// maxPointer is how long the pointer to a wrong place gets.
const maxPointer = 1000

// enough changed names are one more than an event lists: it then says "everything".
const enough = 101

// searchable is how many members are searched one by one for a name.
const searchable = 16

// value is a JSON value. Objects are taken apart because merging goes through them; all else stays as it was written.
type value struct {
	raw       []byte // nil for an object that a merge made
	object    bool
	members   []entry
	expansion int // how much longer numbers get when their exponents are written out
}

type entry struct {
	name  []byte
	raw   []byte // the name as written, with its quotes
	value value
}

func (v value) isNull() bool { return string(v.raw) == "null" }

// append writes v without insignificant white space.
func (v value) append(dst []byte) []byte {
	if v.raw != nil {
		return appendCompact(dst, v.raw)
	}
	dst = append(dst, '{')
	for i, m := range v.members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, m.raw...), ':')
		dst = m.value.append(dst)
	}
	return append(dst, '}')
}

func appendCompact(dst, raw []byte) []byte {
	quoted, escaped := false, false
	for _, c := range raw {
		switch {
		case quoted:
			quoted = c != '"' || escaped
			escaped = c == '\\' && !escaped
		case c == '"':
			quoted = true
		case isSpace(c):
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// merge is MergePatch of RFC 7396, section 2. It changes neither of its arguments. A target that isn't there is the zero
// value.
func merge(target, patch value) value {
	if !patch.object {
		return patch
	}
	replaced := make(map[string]value, len(patch.members))
	for _, m := range patch.members {
		replaced[string(m.name)] = m.value
	}
	merged := value{object: true}
	put := func(m entry, old value) {
		change, touched := replaced[string(m.name)]
		switch {
		case !touched:
			merged.members = append(merged.members, m)
		case !change.isNull():
			merged.members = append(merged.members, entry{name: m.name, raw: m.raw, value: merge(old, change)})
		}
		delete(replaced, string(m.name))
	}
	for _, m := range target.members {
		put(m, m.value)
	}
	for _, m := range patch.members {
		if _, left := replaced[string(m.name)]; left {
			put(m, value{})
		}
	}
	return merged
}

// changedNames lists members of the patch that differ between the two documents, at most enough of them. It takes time
// linear in the size of its arguments and ends with the context's error when that has ended.
func changedNames(ctx context.Context, before, after, patch value) ([]string, error) {
	was, is := before.byName(), after.byName()
	var names []string
	for _, m := range patch.members {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, had := was[string(m.name)]
		a, has := is[string(m.name)]
		if had == has && (!had || same(b, a)) {
			continue
		}
		if names = append(names, string(m.name)); len(names) == enough {
			break
		}
	}
	return names, nil
}

// byName indexes an object's members.
func (v value) byName() map[string]value {
	members := make(map[string]value, len(v.members))
	for _, m := range v.members {
		members[string(m.name)] = m.value
	}
	return members
}

// same reports whether two values mean the same: the order of members and the spelling of strings and numbers don't count.
func same(a, b value) bool {
	left, right := a.append(nil), b.append(nil)
	return bytes.Equal(left, right) || sameDecoded(decoded(left), decoded(right))
}

func decoded(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return err // parse has let it through, so this can't be; an error is the same as nothing
	}
	return v
}

func sameDecoded(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, v := range a {
			w, ok := b[name]
			if !ok || !sameDecoded(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !sameDecoded(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		b, ok := b.(json.Number)
		return ok && (a == b || sameNumber(a.String(), b.String()))
	case error:
		return false
	default: // string, bool, nil
		return a == b
	}
}

func sameNumber(a, b string) bool {
	x, ok := new(big.Rat).SetString(a)
	y, ok2 := new(big.Rat).SetString(b)
	return ok && ok2 && x.Cmp(y) == 0
}

// parse reads a JSON value that jsonb can hold without loss. What isn't JSON, isn't UTF-8 or names a member twice is
// fault.Malformed; what is JSON and can't be held is fault.Invalid, with its pointer (base in front). v keeps data.
func parse(data []byte, base string) (value, error) {
	if !utf8.Valid(data) {
		return value{}, fault.New(fault.Malformed, "malformed-json", "The document is not UTF-8.")
	}
	if !json.Valid(data) {
		return value{}, syntaxFault(data)
	}
	p := parser{data: data, base: base}
	v, err := p.value(1)
	v.expansion = p.expansion
	return v, err
}

func syntaxFault(data []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(data, &v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fault.New(fault.Malformed, "malformed-json", "The document is not JSON: %s (at byte %d).", syntax.Error(), syntax.Offset)
	}
	return fault.Wrap(err, fault.Malformed, "malformed-json", "The document is not JSON.")
}

// parser goes through what json.Valid has accepted, so it need not look for errors of grammar.
type parser struct {
	data      []byte
	i         int
	base      string
	path      []step  // where it is
	open      []entry // the members so far of all objects that it is in
	arrays    int     // how many arrays it is in; no merge looks into those
	expansion int
}

// step is a token of a pointer.
type step struct {
	name  []byte // nil in an array
	index int
}

func (s step) pointer() string {
	if s.name == nil {
		return "/" + strconv.Itoa(s.index)
	}
	return pointer(string(s.name))
}

func (p *parser) invalid(detail string) error {
	var at strings.Builder
	at.WriteString(p.base)
	for _, step := range p.path {
		if at.Len()+len(step.name) > maxPointer {
			break // the place is somewhere below
		}
		at.WriteString(step.pointer())
	}
	return fault.Wrong(fault.Field{Pointer: at.String(), Detail: detail})
}

func (p *parser) value(depth int) (value, error) {
	p.space()
	if depth > maxDepth {
		p.path = nil // as long as the document is deep
		return value{}, p.invalid("Nested too deeply: " + strconv.Itoa(maxDepth) + " levels are the most.")
	}
	start := p.i
	var v value
	var err error
	switch p.data[p.i] {
	case '{':
		v.object = true
		v.members, err = p.object(depth)
	case '[':
		err = p.array(depth)
	case '"':
		err = p.text()
	case 't', 'n':
		p.i += len("true")
	case 'f':
		p.i += len("false")
	default:
		err = p.number()
	}
	v.raw = p.data[start:p.i]
	return v, err
}

func (p *parser) object(depth int) ([]entry, error) {
	first := len(p.open)
	var seen map[string]struct{} // only for an object too large to search
	p.i++                        // past {
	for p.space(); p.data[p.i] != '}'; p.space() {
		if p.data[p.i] == ',' {
			p.i++
			p.space()
		}
		start := p.i
		if err := p.text(); err != nil {
			return nil, err
		}
		m := entry{raw: p.data[start:p.i]}
		m.name = unquote(m.raw)
		members := p.open[first:]
		if seen == nil && len(members) == searchable {
			seen = make(map[string]struct{}, 2*searchable)
			for _, other := range members {
				seen[string(other.name)] = struct{}{}
			}
		}
		if twice(members, seen, m.name) {
			return nil, fault.New(fault.Malformed, "malformed-json", "The document names the member %.100q twice.", m.name)
		}
		p.space()
		p.i++ // past :
		p.path = append(p.path, step{name: m.name})
		var err error
		if m.value, err = p.value(depth + 1); err != nil {
			return nil, err
		}
		p.path = p.path[:len(p.path)-1]
		p.open = append(p.open, m)
	}
	p.i++ // past }
	var members []entry
	if p.arrays == 0 {
		members = slices.Clone(p.open[first:])
	}
	p.open = p.open[:first]
	return members, nil
}

// twice reports whether an object has the name already, and else notes it.
func twice(members []entry, seen map[string]struct{}, name []byte) bool {
	if seen == nil {
		return slices.ContainsFunc(members, func(m entry) bool { return bytes.Equal(m.name, name) })
	}
	n := len(seen)
	seen[string(name)] = struct{}{}
	return len(seen) == n
}

func (p *parser) array(depth int) error {
	p.arrays++
	p.i++ // past [
	n := 0
	for p.space(); p.data[p.i] != ']'; p.space() {
		if p.data[p.i] == ',' {
			p.i++
		}
		p.path = append(p.path, step{index: n})
		if _, err := p.value(depth + 1); err != nil {
			return err
		}
		p.path = p.path[:len(p.path)-1]
		n++
	}
	p.i++ // past ]
	p.arrays--
	return nil
}

func (p *parser) text() error {
	for p.i++; p.data[p.i] != '"'; p.i++ {
		if p.data[p.i] != '\\' {
			continue
		}
		p.i++
		if p.data[p.i] != 'u' {
			continue
		}
		r := p.hex(p.i + 1)
		p.i += 4
		switch {
		case r == 0:
			return p.invalid(`The character \u0000 can't be stored.`)
		case utf16.IsSurrogate(r):
			if p.data[p.i+1] != '\\' || p.data[p.i+2] != 'u' || utf16.DecodeRune(r, p.hex(p.i+3)) == utf8.RuneError {
				return p.invalid(`Half of a surrogate pair (\ud800 to \udfff) is not a character.`)
			}
			p.i += 6
		}
	}
	p.i++
	return nil
}

// hex reads four digits.
func (p *parser) hex(at int) rune {
	n, err := strconv.ParseUint(string(p.data[at:at+4]), 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

func (p *parser) number() error {
	start := p.i
	for p.i < len(p.data) && strings.IndexByte("+-.0123456789Ee", p.data[p.i]) >= 0 {
		p.i++
	}
	text := string(p.data[start:p.i])
	exponent := 0
	if e := strings.IndexAny(text, "Ee"); e >= 0 {
		n, err := strconv.Atoi(text[e+1:])
		if err != nil {
			n = maxNumber
		}
		exponent = max(n, -n)
	}
	if len(text)+exponent > maxNumber {
		return p.invalid("The number is too long: 1000 digits are the most, its exponent written out.")
	}
	p.expansion += exponent
	return nil
}

func (p *parser) space() {
	for p.i < len(p.data) && isSpace(p.data[p.i]) {
		p.i++
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// unquote is the text of a JSON string; never nil.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return raw // it is a string of a valid document, so this can't be
	}
	return []byte(s)
}
