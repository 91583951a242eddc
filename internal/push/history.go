package push

import (
	"cmp"
	"slices"
)

// history is the newest events of the stream as messages, so that clients which come back soon, as all of them do after a
// restart of their node's proxy or network, need not each read the stream. The hub's mutex guards it.
type history struct {
	known bool   // it has begun
	after uint64 // it holds everything after this event
	list  []past // in the order of the stream
	bytes int    // that they take, about
}

type past struct {
	to address
	m  *message
}

// reach notes that everything from this event on is going to be here.
func (p *history) reach(seq uint64) {
	if !p.known {
		p.known, p.after = true, seq-1
	}
}

// add takes in the next event, and lets go of the oldest ones beyond the limit. What since gave stays as it is: nothing is
// overwritten.
func (p *history) add(to address, m *message, limit int) {
	p.list = append(p.list, past{to, m})
	p.bytes += p.list[len(p.list)-1].size()
	n := 0
	for ; p.bytes > limit; n++ {
		p.bytes -= p.list[n].size()
		p.after = p.list[n].m.seq
	}
	p.list = p.list[n:]
}

func (e past) size() int {
	const rest = 256 // the message, its cursor, the address
	return len(e.m.frame) + rest
}

// since gives what came after seq and up to to, or false when that goes back further than the history.
func (p *history) since(seq, to uint64) ([]past, bool) {
	if !p.known || seq < p.after {
		return nil, false
	}
	at := func(seq uint64) int {
		i, _ := slices.BinarySearchFunc(p.list, seq+1, func(e past, seq uint64) int { return cmp.Compare(e.m.seq, seq) })
		return i
	}
	return p.list[at(seq):at(to)], true
}
