package events

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of what is skipped, and with it the stack.
const maxDepth = 32

// parser reads JSON in one pass and is stricter than encoding/json, which takes repeated keys (the last wins), keys in
// any case, null for anything, and invalid UTF-8 (replaced): each would let two readers see two different events.
type parser struct {
	s     string
	i     int
	depth int
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d: "+format, append([]any{p.i}, args...)...)
}

// peek moves to the next token and returns its first byte, 0 at the end.
func (p *parser) peek() byte {
	for p.i < len(p.s) {
		switch c := p.s[p.i]; c {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return c
		}
	}
	return 0
}

func (p *parser) expect(c byte) error {
	if p.peek() != c {
		return p.errorf("want %q", c)
	}
	p.i++
	return nil
}

// end reports anything but white space after the value.
func (p *parser) end() error {
	if p.peek(); p.i < len(p.s) {
		return p.errorf("data after the event")
	}
	return nil
}

// object reads an object; member is called at each value and must read it.
func (p *parser) object(member func(name string) error) error {
	var seen names
	return p.list('{', '}', func() error {
		name, err := p.str()
		if err != nil {
			return err
		}
		if !seen.add(name) {
			return p.errorf("%.64q: repeated", name)
		}
		if err := p.expect(':'); err != nil {
			return err
		}
		p.peek() // so that member starts at the value itself
		if err := member(name); err != nil {
			return fmt.Errorf("%.64q: %w", name, err)
		}
		return nil
	})
}

// list reads an object or an array; item reads what stands between the commas.
func (p *parser) list(open, closing byte, item func() error) error {
	if err := p.expect(open); err != nil {
		return err
	}
	if p.depth++; p.depth > maxDepth {
		return p.errorf("nested too deeply")
	}
	for first := true; ; first = false {
		if p.peek() == closing && first {
			break
		}
		if err := item(); err != nil {
			return err
		}
		if p.peek() != ',' {
			break
		}
		p.i++
	}
	p.depth--
	return p.expect(closing)
}

// names is the keys of one object. Few are compared one by one, many are hashed.
type names struct {
	few  [16]string
	n    int
	many map[string]bool
}

// add reports whether the name is new.
func (n *names) add(name string) bool {
	if slices.Contains(n.few[:n.n], name) || n.many[name] {
		return false
	}
	if n.n < len(n.few) {
		n.few[n.n] = name
		n.n++
		return true
	}
	if n.many == nil {
		n.many = make(map[string]bool)
	}
	n.many[name] = true
	return true
}

// text reads a string that says something: what has nothing to say is left out.
func (p *parser) text() (string, error) {
	s, err := p.str()
	if err == nil && s == "" {
		err = p.errorf("empty")
	}
	return s, err
}

// texts reads an array of strings.
func (p *parser) texts() ([]string, error) {
	var list []string
	err := p.list('[', ']', func() error {
		s, err := p.text()
		list = append(list, s)
		return err
	})
	return list, err
}

// str reads a string; without escapes it is a part of the input.
func (p *parser) str() (string, error) {
	if p.peek() != '"' {
		return "", p.errorf("want a string")
	}
	p.i++
	start := p.i
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			s := p.s[start:p.i]
			p.i++
			return s, nil
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", p.errorf("control character in a string")
		case c < utf8.RuneSelf:
			p.i++
		default:
			if err := p.rune(); err != nil {
				return "", err
			}
		}
	}
	return "", p.errorf("unclosed string")
}

// rune steps over a multi-byte character.
func (p *parser) rune() error {
	r, size := utf8.DecodeRuneInString(p.s[p.i:])
	if r == utf8.RuneError && size == 1 {
		return p.errorf("invalid UTF-8")
	}
	p.i += size
	return nil
}

// escaped reads the rest of a string that began at start and has its first escape here.
func (p *parser) escaped(start int) (string, error) {
	s := []byte(p.s[start:p.i])
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return string(s), nil
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			s = utf8.AppendRune(s, r)
		case c < ' ':
			return "", p.errorf("control character in a string")
		case c < utf8.RuneSelf:
			s = append(s, c)
			p.i++
		default:
			from := p.i
			if err := p.rune(); err != nil {
				return "", err
			}
			s = append(s, p.s[from:p.i]...)
		}
	}
	return "", p.errorf("unclosed string")
}

func (p *parser) escape() (rune, error) {
	p.i++ // the backslash
	if p.i == len(p.s) {
		return 0, p.errorf("unclosed string")
	}
	c := p.s[p.i]
	p.i++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return p.unicode()
	default:
		return 0, p.errorf("unknown escape")
	}
}

// unicode reads the digits of \uXXXX, and its second half where it needs one.
func (p *parser) unicode() (rune, error) {
	r, err := p.hex()
	if err != nil {
		return 0, err
	}
	if utf16.IsSurrogate(r) {
		if !strings.HasPrefix(p.s[p.i:], `\u`) {
			return 0, p.errorf("half a surrogate pair")
		}
		p.i += 2
		second, err := p.hex()
		if err != nil {
			return 0, err
		}
		if r = utf16.DecodeRune(r, second); r == utf8.RuneError {
			return 0, p.errorf("half a surrogate pair")
		}
	}
	if r == 0 {
		return 0, p.errorf("NUL, which Postgres cannot hold")
	}
	return r, nil
}

func (p *parser) hex() (rune, error) {
	if len(p.s)-p.i < 4 {
		return 0, p.errorf("unclosed string")
	}
	n, err := strconv.ParseUint(p.s[p.i:p.i+4], 16, 16)
	if err != nil {
		return 0, p.errorf("want four hex digits")
	}
	p.i += 4
	return rune(n), nil
}

// number steps over a number and returns it.
func (p *parser) number() (string, error) {
	p.peek()
	start := p.i
	p.accept("-")
	switch whole := p.digits(); {
	case whole == 0:
		return "", p.errorf("want a number")
	case whole > 1 && p.s[p.i-whole] == '0':
		return "", p.errorf("number with a leading zero")
	}
	if p.accept(".") && p.digits() == 0 {
		return "", p.errorf("want a digit")
	}
	if p.accept("eE") {
		p.accept("+-")
		if p.digits() == 0 {
			return "", p.errorf("want a digit")
		}
	}
	return p.s[start:p.i], nil
}

// accept steps over one byte of the set.
func (p *parser) accept(set string) bool {
	if p.i < len(p.s) && strings.IndexByte(set, p.s[p.i]) >= 0 {
		p.i++
		return true
	}
	return false
}

func (p *parser) digits() int {
	start := p.i
	for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
		p.i++
	}
	return p.i - start
}

func (p *parser) integer() (int64, error) {
	s, err := p.number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, p.errorf("want an integer of 64 bits")
	}
	return n, nil
}

func (p *parser) boolean() (bool, error) {
	switch {
	case p.literal("true"):
		return true, nil
	case p.literal("false"):
		return false, nil
	default:
		return false, p.errorf("want true or false")
	}
}

func (p *parser) literal(word string) bool {
	p.peek()
	if !strings.HasPrefix(p.s[p.i:], word) {
		return false
	}
	p.i += len(word)
	return true
}

// skip reads any value and forgets it.
func (p *parser) skip() error {
	switch p.peek() {
	case '{':
		return p.object(func(string) error { return p.skip() })
	case '[':
		return p.list('[', ']', p.skip)
	default:
		return p.skipScalar()
	}
}

func (p *parser) skipScalar() error {
	var err error
	switch p.peek() {
	case '"':
		_, err = p.str()
	case 't', 'f', 'n':
		if !p.literal("true") && !p.literal("false") && !p.literal("null") {
			err = p.errorf("want a value")
		}
	case '{', '[':
		err = errors.New("want a string, a number or a boolean")
	default:
		_, err = p.number()
	}
	return err
}
