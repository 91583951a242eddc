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
	shared   int64 // the newest total over all nodes that is known
	unsent   int64 // charged here and not sent yet
	inflight int64 // sent and not answered yet
	lost     int64 // charged here without an answer from NATS
}

func (t tally) all() int64     { return t.shared + t.unsent + t.inflight + t.lost }
func (t tally) settled() int64 { return t.shared + t.lost }

// entry is the budget of one subject under one key. Its shard's lock guards everything but policy and token.
type entry struct {
	policy *Policy
	token  string // the subject's hash
	shard  *shard

	window   int64
	current  tally
	previous tally
	read     int64 // the window in which previous was read from the stream
	queued   bool  // waits to be sent, or is being sent
	place    *list.Element
}

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
		oldest := s.recent.Back()
		delete(s.entries, s.recent.Remove(oldest).(pair)) //nolint:forcetypeassert // the list holds nothing else
	}
	sum := sha256.Sum256([]byte(subject))
	e = &entry{policy: p, token: base64.RawURLEncoding.EncodeToString(sum[:16]), shard: s, window: window}
	e.place = s.recent.PushFront(name)
	s.entries[name] = e
	return e
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
