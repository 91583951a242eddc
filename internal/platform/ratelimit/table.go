package ratelimit

import (
	"container/list"
	"crypto/sha256"
	"encoding/base64"
	"hash/maphash"
	"sync"
)

// tally is the count of one window.
type tally struct {
	shared   int64 // the newest total over all nodes that is known; what is in flight may be in it
	own      int64 // sent from here and answered
	unsent   int64 // charged here and not sent yet
	inflight int64 // sent and not answered yet
	lost     int64 // charged here without an answer from NATS
	others   bool  // other nodes have counted, too
}

// all is what has been counted for certain: exactly, when only this node counts.
func (t *tally) all() int64     { return max(t.shared, t.own+t.inflight) + t.unsent + t.lost }
func (t *tally) settled() int64 { return t.shared + t.lost }

// hear takes a total over all nodes.
func (t *tally) hear(total int64) {
	t.shared = max(t.shared, total)
	if total > t.own+t.inflight {
		t.others = true
	}
}

// entry is the budget of one subject under one key. Its shard's lock guards everything but policy, name and log.turn.
type entry struct {
	policy *Policy
	name   string // the key and the subject's hash, as in NATS subjects
	shard  *shard
	place  *list.Element
	log    *log // of an exact policy; the rest is of the others

	window   int64
	current  tally
	previous tally
	read     int64 // the window in which the totals of both were read from the stream
	queued   bool  // waits to be sent, or is being sent
}

// alone reports whether only this node charges the entry, as far as it knows.
func (e *entry) alone() bool { return !e.current.others && !e.previous.others }

// advance moves the entry to a window. A clock that steps back stays in the newer one.
func (e *entry) advance(window int64) {
	switch {
	case window <= e.window:
		return
	case window == e.window+1:
		e.previous = e.current
	default:
		e.previous = tally{}
	}
	e.current = tally{}
	e.window = window
}

// tally returns the count of a window, nil when it doesn't matter any more.
func (e *entry) tally(window int64) *tally {
	switch window {
	case e.window:
		return &e.current
	case e.window - 1:
		return &e.previous
	default:
		return nil
	}
}

// pair names an entry.
type pair struct {
	policy  *Policy
	subject string
}

const shardCount = 64

// table holds the entries, in shards so that requests seldom meet.
type table struct {
	seed   maphash.Seed
	shards [shardCount]shard
	byName sync.Map // of *entry
}

type shard struct {
	mu      sync.Mutex
	entries map[pair]*entry
	recent  list.List // of pairs, the one used last in front
	most    int
}

func newTable(most int) *table {
	t := &table{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].entries = make(map[pair]*entry)
		t.shards[i].most = max(1, most/shardCount)
	}
	return t
}

// acquire returns the entry, made when there is none, with its shard locked.
func (t *table) acquire(p *Policy, subject string, window int64) *entry {
	s := &t.shards[maphash.String(t.seed, subject)%shardCount]
	name := pair{p, subject}
	s.mu.Lock()
	e, known := s.entries[name]
	if known {
		s.recent.MoveToFront(e.place)
		e.advance(window)
		return e
	}
	if len(s.entries) >= s.most {
		oldest := s.recent.Remove(s.recent.Back()).(pair) //nolint:forcetypeassert // the list holds nothing else
		t.byName.CompareAndDelete(s.entries[oldest].name, s.entries[oldest])
		delete(s.entries, oldest)
	}
	sum := sha256.Sum256([]byte(subject))
	e = &entry{policy: p, name: p.Key + "." + base64.RawURLEncoding.EncodeToString(sum[:16]), shard: s, window: window}
	if p.exact() {
		e.log = newLog()
	}
	e.place = s.recent.PushFront(name)
	s.entries[name] = e
	t.byName.Store(e.name, e)
	return e
}

// named returns the entry of a name, nil when this node has none.
func (t *table) named(name string) *entry {
	e, ok := t.byName.Load(name)
	if !ok {
		return nil
	}
	return e.(*entry) //nolint:forcetypeassert // the map holds nothing else
}

// size is the number of entries.
func (t *table) size() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}
