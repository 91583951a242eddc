package push

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fdc/events"
)

// Close codes of a WebSocket.
const (
	CodeSessionEnded = 4001
	CodeSlow         = 4008
	CodeRestart      = 1012 // also: try again, with the cursor
	CodeFlood        = 1008 // more frames than a client may send
	codeUnsupported  = 1003
)

// transport writes to one client. Its methods but abort are called by one goroutine at a time.
type transport interface {
	write(m *message, more bool) error // more: another message follows at once, and this one may wait for it
	ping() error
	end(code int) // says goodbye; the client hangs up, or abort comes
	abort()       // hangs up at once; any goroutine may call it, again and again
}

// socket is one client. It has no goroutine of its own for writing: whoever gives it something to do while nobody writes
// starts one, which ends when there is nothing left.
type socket struct {
	hub     *Hub
	user    string
	session string
	expires time.Time
	slot    int // of the ping round
	t       transport

	// Guarded by hub.mu.
	workspaces []string
	admin      bool
	version    atomic.Int64 // of these; read without it

	mu      sync.Mutex
	queue   []*message
	bytes   int    // in queue
	after   uint64 // events up to this one are not for the queue: it has them, or they are none of its own
	joining bool   // a replay is under way: an overflow means another replay
	behind  bool   // the queue overflowed; it goes on after that event, from the history or with the next replay
	writing bool   // someone holds the pen
	pinged  bool   // a ping is due
	code    int    // how it ends, once it does
	cancel  func() // its requests to NATS
	kill    *time.Timer
}

// push queues a message. The caller holds hub.mu, which keeps the order.
func (s *socket) push(m *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.code != 0 || m.seq != 0 && (m.seq <= s.after || s.behind) {
		return
	}
	switch {
	case m.topic != "" && s.replace(m):
	case s.take(m):
		s.wake()
	case m.seq == 0: // progress: the next one will fit
	case s.joining:
		s.behind = true
		s.queue, s.bytes = nil, 0
	default:
		s.behind = true
		s.after = m.seq - 1
	}
}

// take queues a message if it fits. One alone is taken at any size.
func (s *socket) take(m *message) bool {
	limit := &s.hub.limits
	if len(s.queue) >= limit.queueMessages || len(s.queue) > 0 && s.bytes+len(m.body) > limit.queueBytes {
		return false
	}
	s.queue = append(s.queue, m)
	s.bytes += len(m.body)
	return true
}

// refill goes on where the queue overflowed, once it is written: many events at once, such as those of a first sync, are more than a
// queue holds and no sign of a slow client. That one is left behind by the history, or by its own write's deadline.
func (s *socket) refill() {
	const atOnce = 1000 // looked at, others' too, while everybody waits
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.code != 0 {
		return
	}
	list, ok := h.history.since(s.after, h.pos)
	if !ok {
		s.slow()
		return
	}
	for i, e := range list {
		if _, sees := h.audience(e.to)[s]; sees && !s.take(e.m) || i == atOnce {
			return
		}
		s.after = e.m.seq
	}
	s.after, s.behind = h.pos, false
}

// slow ends a socket that can't keep up. Its client may come back with its cursor.
func (s *socket) slow() {
	s.hub.slow.Inc()
	s.stop(CodeSlow)
}

// turn notes that what the socket sees is changing. One that is behind can't tell which of the events that it goes on with were
// still, or already, its own; a client that comes back is told as much as it may see now. The caller holds hub.mu.
func (s *socket) turn() {
	s.version.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.behind && !s.joining && s.code == 0 {
		s.slow()
	}
}

// replace puts the message in the place of a queued one of the same topic.
func (s *socket) replace(m *message) bool {
	for i, old := range s.queue {
		if old.topic == m.topic {
			s.bytes += len(m.body) - len(old.body)
			s.queue[i] = m
			return true
		}
	}
	return false
}

// end lets nothing more than a goodbye go out. The caller holds hub.mu or is inside the socket's life.
func (s *socket) end(code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop(code)
}

func (s *socket) stop(code int) {
	if s.code != 0 {
		return
	}
	s.code = code
	s.queue, s.bytes = nil, 0
	s.cancel()
	// A client that reads nothing, or never hangs up, must not keep us.
	s.kill = time.AfterFunc(s.hub.limits.grace, s.t.abort)
	s.wake()
}

func (s *socket) pingLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pinged = true
	s.wake()
}

// wake makes sure that someone writes. The caller holds s.mu.
func (s *socket) wake() {
	if !s.writing {
		s.writing = true
		s.hub.wg.Go(s.flush)
	}
}

// flush writes until there is nothing left, for whoever holds the pen. After a goodbye or an error nobody gets it again.
func (s *socket) flush() {
	for {
		m, more, what := s.next()
		var err error
		switch what {
		case doNothing:
			return
		case doEnd:
			s.t.end(s.code) // it doesn't change any more
			return
		case doPing:
			err = s.t.ping()
		case doWrite:
			err = s.write(m, more)
		case doRefill:
			s.refill()
		}
		if err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				s.hub.slow.Inc()
			}
			s.t.abort()
			return
		}
	}
}

// What there is to do next.
const (
	doNothing = iota
	doEnd
	doPing
	doWrite  // the first of the queue
	doRefill // it with what did not fit
)

func (s *socket) next() (m *message, more bool, what int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.code != 0:
		return nil, false, doEnd
	case s.pinged:
		s.pinged = false
		return nil, false, doPing
	case len(s.queue) > 0:
		m = s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.bytes -= len(m.body)
		return m, len(s.queue) > 0, doWrite
	case s.behind:
		return nil, false, doRefill
	default:
		s.queue = nil // an idle socket keeps no array
		s.writing = false
		return nil, false, doNothing
	}
}

func (s *socket) write(m *message, more bool) error {
	if err := s.t.write(m, more); err != nil {
		return err
	}
	s.hub.written[m.kind].Inc()
	return nil
}

func (s *socket) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.code != 0
}

// finish is the end of the transport, whoever caused it.
func (s *socket) finish() {
	s.mu.Lock()
	if s.code == 0 {
		s.code = CodeRestart // never sent: keeps everything else away
	}
	s.queue, s.bytes = nil, 0
	s.cancel()
	if s.kill != nil {
		s.kill.Stop()
	}
	s.mu.Unlock()
	s.hub.leave(s)
}

// start is where a client wants to go on.
type start struct {
	resume bool // after seq, in the stream of epoch
	epoch  int64
	seq    uint64 // of the last event it has
	reason string // why it can't; then it starts anew
}

var errEnding = errors.New("the socket is ending")

// tell writes a message out of turn, for whoever holds the pen.
func (s *socket) tell(m *message, more bool) error {
	if s.ending() || s.write(m, more) != nil {
		return errEnding
	}
	return nil
}

// join tells the client where it starts, after everything that it missed if it resumes, and goes over to what is live,
// which is everything after at. It holds the pen from the socket's first moment.
func (s *socket) join(ctx context.Context, from start, at Cursor) {
	if err := s.catchUp(ctx, from, at); err != nil {
		if !errors.Is(err, errEnding) && ctx.Err() == nil {
			s.hub.log.Warn().Err(err).Str("user_id", s.user).Msg("push client could not be caught up")
		}
		s.end(CodeRestart)
	}
	s.mu.Lock()
	s.cancel()
	s.cancel = func() {} // no more requests: let go of the handler's context
	s.mu.Unlock()
	s.flush()
}

func (s *socket) catchUp(ctx context.Context, from start, at Cursor) error {
	if from.resume {
		missed := from.seq
		for done := false; !done; {
			if err := s.replay(ctx, missed, at); err != nil {
				return err
			}
			missed = at.Sequence
			at.Sequence, done = s.caughtUp(at.Sequence)
		}
		// What came after the cursor may have been dropped from the stream while it was read.
		state, err := s.hub.stream(ctx)
		if err != nil {
			return err
		}
		if from.seq+1 < state.State.FirstSeq {
			from.reason = reasonExpired
		}
	}
	if from.reason != "" {
		if err := s.tell(resync(at, from.reason), true); err != nil {
			return err
		}
	}
	return s.tell(ready(at), false)
}

// caughtUp reports whether the queue holds everything after at. If it overflowed meanwhile, it starts to hold again, from
// the returned position on.
func (s *socket) caughtUp(at uint64) (uint64, bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.behind {
		s.joining = false
		return at, true
	}
	s.behind = false
	s.queue, s.bytes = nil, 0
	return s.hub.pos, false
}

// view is what a socket sees, for whoever replays to it. Many may come back at once: the hub's mutex is taken when that has changed,
// not for each event.
type view struct {
	s       *socket
	version int64
	scopes  map[address]struct{}
}

func (v *view) has(to address) bool {
	if v.scopes == nil || v.s.version.Load() != v.version {
		v.read()
	}
	_, sees := v.scopes[to]
	return sees
}

func (v *view) read() {
	v.s.hub.mu.Lock()
	defer v.s.hub.mu.Unlock()
	v.version = v.s.version.Load()
	v.scopes = map[address]struct{}{{events.ScopeUser, v.s.user}: {}}
	for _, id := range v.s.workspaces {
		v.scopes[address{events.ScopeWorkspace, id}] = struct{}{}
	}
	if v.s.admin {
		v.scopes[address{scope: events.ScopeSystem}] = struct{}{}
	}
}
