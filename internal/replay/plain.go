package replay

// plainDepth is deeper than any event is nested.
const plainDepth = 16

// isPlain reports whether b is JSON on one line, as FDC writes its events: without white space, escapes, and numbers other than whole ones
// from 0 on. Whatever else is JSON too is not plain. It takes a fifth of the time of json.Valid, which was most of an export's.
func isPlain(b []byte) bool {
	p := plainJSON{b: b}
	return p.value(0) && p.i == len(b)
}

// plainJSON steps over plain JSON. Each method reports whether there was what it is named after.
type plainJSON struct {
	b []byte
	i int
}

func (p *plainJSON) value(depth int) bool {
	switch {
	case p.skip('"'):
		return p.text()
	case p.skip('{'):
		return p.list('}', depth)
	case p.skip('['):
		return p.list(']', depth)
	default:
		return p.word("true") || p.word("false") || p.word("null") || p.number()
	}
}

// list is an object or an array, behind its bracket.
func (p *plainJSON) list(end byte, depth int) bool {
	if depth == plainDepth {
		return false
	}
	if p.skip(end) {
		return true
	}
	for {
		if end == '}' && (!p.skip('"') || !p.text() || !p.skip(':')) {
			return false
		}
		if !p.value(depth + 1) {
			return false
		}
		if !p.skip(',') {
			return p.skip(end)
		}
	}
}

// text is a string, behind its quote.
func (p *plainJSON) text() bool {
	for i, c := range p.b[p.i:] {
		if c == '"' {
			p.i += i + 1
			return true
		}
		if c == '\\' || c < ' ' {
			return false
		}
	}
	return false
}

func (p *plainJSON) number() bool {
	start := p.i
	for p.i < len(p.b) && '0' <= p.b[p.i] && p.b[p.i] <= '9' {
		p.i++
	}
	return p.i == start+1 || p.i > start && p.b[start] != '0'
}

func (p *plainJSON) word(w string) bool {
	if n := p.i + len(w); n > len(p.b) || string(p.b[p.i:n]) != w {
		return false
	}
	p.i += len(w)
	return true
}

func (p *plainJSON) skip(c byte) bool {
	if p.i == len(p.b) || p.b[p.i] != c {
		return false
	}
	p.i++
	return true
}
