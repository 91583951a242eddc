package push

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// Drain is how long the hub's end is spread over at most.
const Drain = 10 * time.Second

// limits are the hub's sizes and times; tests make them smaller.
type limits struct {
	perUser       int           // sockets of one user, on this node
	perNode       int           // sockets of all
	queueMessages int           // of one socket
	queueBytes    int           // of one socket
	history       int           // bytes of events that the node keeps for clients that come back
	ping          time.Duration // between two pings of a socket
	write         time.Duration // for one message
	grace         time.Duration // for the goodbye
	memory        time.Duration // how old a session that was looked up may be when its socket opens
	reach         time.Duration // for the node to reach the end of the stream before a client resumes
	frames        int           // that a client may send
	framesWithin  time.Duration // in any stretch of this length
	check         time.Duration // between two checks of the sockets' sessions
	drain         time.Duration // for all goodbyes of the hub's end, at most
	drainEach     time.Duration // for one of them, when they are few
}

var defaults = limits{
	perUser:       32,
	perNode:       50_000,
	queueMessages: 256,
	queueBytes:    64 << 10,
	history:       16 << 20,
	ping:          25 * time.Second,
	write:         5 * time.Second,
	grace:         750 * time.Millisecond,
	memory:        time.Minute,
	reach:         2 * time.Second,
	frames:        10,
	framesWithin:  time.Second,
	check:         time.Minute,
	drain:         Drain,
	drainEach:     2 * time.Millisecond,
}

// Hub holds the sockets of one node. Run it, and serve.
type Hub struct {
	js     jetstream.JetStream
	nc     *nats.Conn
	log    zerolog.Logger
	limits limits

	open       *prometheus.GaugeVec
	delivered  *prometheus.CounterVec
	written    map[string]prometheus.Counter // of delivered, by a message's kind
	slow       prometheus.Counter
	flooded    prometheus.Counter
	refused    *prometheus.CounterVec
	unreadable prometheus.Counter

	ended EndedSessions

	wg    sync.WaitGroup // of the sockets' goroutines
	ready chan struct{}  // closed when the hub is live for the first time
	cut   chan struct{}  // closed when the end may take no more time
	once  sync.Once      // of cut

	mu      sync.Mutex // before any socket's
	ending  bool       // it takes nobody any more
	live    bool       // it has read the stream to its end
	epoch   int64      // of the stream
	pos     uint64     // of the last event that was given to the sockets
	sockets group
	places  map[string]int // taken by each user: by sockets, and by requests that may become some
	taken   int            // of all
	users   map[string]group
	spaces  map[string]group
	admins  group
	recent  []change
	history history

	replaying chan struct{} // has room for replayReaders
	waiters   []waiter
	slots     int // of ping rounds, given so far
}

type group map[*socket]struct{}

type waiter struct {
	seq  uint64
	done chan struct{}
}

// New returns a hub; it takes clients while Run runs.
func New(js jetstream.JetStream, nc *nats.Conn, log zerolog.Logger, metrics prometheus.Registerer) *Hub {
	h := &Hub{
		js: js, nc: nc, log: log.With().Str("component", "push").Logger(), limits: defaults,
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "push_sockets", Help: "Open sockets by transport.",
		}, []string{"transport"}),
		delivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "push_delivered_total", Help: "Messages written to sockets by type.",
		}, []string{"type"}),
		slow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "push_slow_total", Help: "Sockets closed because their client was too slow.",
		}),
		flooded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "push_flooded_total", Help: "WebSockets closed because their client sent too many frames.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "push_refused_total", Help: "Clients turned away before their connection became a socket, by reason.",
		}, []string{"reason"}),
		unreadable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "push_unreadable_total", Help: "Messages skipped because they are no valid event of their subject.",
		}),
		ready: make(chan struct{}), cut: make(chan struct{}), replaying: make(chan struct{}, replayReaders),
		sockets: group{}, places: map[string]int{}, users: map[string]group{}, spaces: map[string]group{}, admins: group{},
	}
	h.written = make(map[string]prometheus.Counter)
	for _, kind := range []string{kindReady, kindEvent, kindProgress, kindResync} {
		h.written[kind] = h.delivered.WithLabelValues(kind)
	}
	metrics.MustRegister(h.open, h.delivered, h.slow, h.flooded, h.refused, h.unreadable)
	return h
}

// Ready is closed once the hub takes clients.
func (h *Hub) Ready() <-chan struct{} { return h.ready }

// Run reads the bus and serves the sockets until ctx ends; then it takes no more, closes all of them with 1012 within Drain,
// or as soon as Cut says, serves each until its turn comes, waits for them and returns nil. It outlives every failure of NATS.
func (h *Hub) Run(ctx context.Context) error {
	progress, err := h.nc.Subscribe(bus.Live, func(msg *nats.Msg) { h.progress(msg.Subject, msg.Data) })
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", bus.Live, err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var working sync.WaitGroup
	working.Go(func() { h.rounds(serving) })
	working.Go(func() { h.checks(serving) })
	working.Go(func() { h.feed(serving) })
	<-ctx.Done()
	h.drain()
	stop()
	working.Wait()
	_ = progress.Unsubscribe() // fails when the connection is closed, and then nothing comes either
	h.wg.Wait()
	return nil
}

// Cut lets the hub's end take no more time: whoever is still there is told goodbye at once. It may be called at any time, again
// and again.
func (h *Hub) Cut() { h.once.Do(func() { close(h.cut) }) }

// drain says goodbye to all sockets, evenly spread and in random order: they come back, and to those nodes that are left,
// which would otherwise have all of them to catch up in one moment.
func (h *Hub) drain() {
	h.mu.Lock()
	h.ending = true
	order := slices.Collect(maps.Keys(h.sockets))
	h.mu.Unlock()
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] }) //nolint:gosec // no secret either
	each := h.limits.drainEach
	if n := time.Duration(len(order)); n > 0 {
		each = min(each, h.limits.drain/n)
	}
	const often, seldom = time.Millisecond, 50 * time.Millisecond
	tick := time.NewTicker(min(max(each, often), seldom))
	defer tick.Stop()
	began := time.Now()
	for next := 0; next < len(order); {
		due := len(order)
		select {
		case <-h.cut:
		case now := <-tick.C:
			if each > 0 {
				due = min(due, int(now.Sub(began)/each))
			}
		}
		h.mu.Lock()
		for ; next < due; next++ {
			order[next].end(CodeRestart)
		}
		if len(h.sockets) == 0 {
			next = len(order) // they have left by themselves
		}
		h.mu.Unlock()
	}
}

// rounds pings the sockets, spread over the interval, ends those whose session has ended by itself, and forgets old
// changes.
func (h *Hub) rounds(ctx context.Context) {
	const perRound = 25
	tick := time.NewTicker(h.limits.ping / perRound)
	defer tick.Stop()
	for round := 0; ; round = (round + 1) % perRound {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			h.round(now, func(s *socket) bool { return s.slot%perRound == round })
		}
	}
}

func (h *Hub) round(now time.Time, due func(*socket) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sockets {
		switch {
		case !s.expires.IsZero() && now.After(s.expires):
			s.end(CodeSessionEnded)
		case due(s):
			s.pingLater()
		}
	}
	h.recent = slices.DeleteFunc(h.recent, func(c change) bool { return now.Sub(c.at) > h.limits.memory })
}

// dispatch gives an event to the sockets that it is for. Events come in the order of the stream.
func (h *Hub) dispatch(seq uint64, ev events.Event, raw []byte) {
	c, changes := changeOf(ev)
	if changes {
		c.at = time.Now()
	}
	to := addressOf(ev)
	m, err := eventMessage(Cursor{h.epoch, seq}, ev, raw) // only the feed, which calls, changes the epoch
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history.reach(seq)
	h.advance(seq)
	if changes {
		h.recent = append(h.recent, c)
		for s := range h.users[c.user] {
			h.widen(s, c)
		}
	}
	if err != nil {
		h.skip(ev.NATSSubject(), err)
	} else {
		h.history.add(to, m, h.limits.history)
		for s := range h.audience(to) {
			s.push(m)
		}
	}
	if changes {
		for s := range h.users[c.user] {
			h.narrow(s, c)
		}
	}
}

// audience are the sockets that what goes there is for.
func (h *Hub) audience(to address) group {
	switch to.scope {
	case events.ScopeWorkspace:
		return h.spaces[to.id]
	case events.ScopeUser:
		return h.users[to.id]
	default:
		return h.admins
	}
}

// progress gives what is not stored to its user's sockets.
func (h *Hub) progress(subject string, raw []byte) {
	ev, err := decode(subject, raw)
	if err != nil {
		h.skip(subject, err)
		return
	}
	m, err := progressMessage(ev, raw)
	if err != nil {
		h.skip(subject, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.users[ev.UserID] {
		s.push(m)
	}
}

// decode reads an event and holds it against its subject: the subject is what a resuming client's filter goes by, so
// one that says something else would reach different people then and now.
func decode(subject string, raw []byte) (events.Event, error) {
	ev, err := events.Decode(raw)
	if err != nil {
		return events.Event{}, err
	}
	if want := ev.NATSSubject(); want != subject {
		return events.Event{}, fmt.Errorf("event %s belongs to subject %s", ev.ID, want)
	}
	return ev, nil
}

func (h *Hub) skip(subject string, err error) {
	h.unreadable.Inc()
	h.log.Debug().Err(err).Str("subject", subject).Msg("push skips what it can't read")
}

// advance moves the node's position. The caller holds h.mu.
func (h *Hub) advance(seq uint64) {
	h.pos = max(h.pos, seq)
	h.waiters = slices.DeleteFunc(h.waiters, func(w waiter) bool {
		if w.seq > h.pos {
			return false
		}
		close(w.done)
		return true
	})
}

// widen applies what lets a socket see more, or ends it, before the event itself is routed.
func (h *Hub) widen(s *socket, c change) {
	switch {
	case c.session != "" && c.session == s.session:
		s.end(CodeSessionEnded)
	case c.joins != "" && !slices.Contains(s.workspaces, c.joins):
		s.turn()
		s.workspaces = append(s.workspaces, c.joins)
		add(h.spaces, c.joins, s)
	case c.role && c.adminThen:
		s.turn()
		s.admin = true
		h.admins[s] = struct{}{}
	}
}

// narrow applies what lets a socket see less, after the event itself was routed.
func (h *Hub) narrow(s *socket, c change) {
	switch {
	case c.leaves != "":
		s.turn()
		s.workspaces = slices.DeleteFunc(s.workspaces, func(id string) bool { return id == c.leaves })
		remove(h.spaces, c.leaves, s)
	case c.role && !c.adminThen:
		s.turn()
		s.admin = false
		delete(h.admins, s)
	}
}

// enter takes a socket in, in the place that admit gave it, and starts it. What happened to its user since the session was
// looked up is applied first. It reports false when the hub takes nobody; the place is then still to be given back.
func (h *Hub) enter(ctx context.Context, s *socket, sub Subscriber, from start) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ending || !h.live || from.resume && from.epoch != h.epoch {
		return false
	}
	ctx, s.cancel = context.WithCancel(ctx)
	h.wg.Add(1) // until leave
	h.slots++
	s.slot = h.slots
	s.after = h.pos
	s.joining = from.resume
	s.writing = true // join's pen
	h.sockets[s] = struct{}{}
	add(h.users, s.user, s)
	for _, id := range sub.WorkspaceIDs {
		h.widen(s, change{joins: id})
	}
	if sub.Admin {
		h.widen(s, change{role: true, adminThen: true})
	}
	for _, c := range h.recent {
		if c.user == s.user {
			h.widen(s, c)
			h.narrow(s, c)
		}
	}
	at := Cursor{h.epoch, h.pos}
	h.wg.Go(func() { s.join(ctx, from, at) })
	return true
}

func (h *Hub) leave(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sockets, s)
	delete(h.admins, s)
	remove(h.users, s.user, s)
	for _, id := range s.workspaces {
		remove(h.spaces, id, s)
	}
	h.vacate(s.user)
	h.wg.Done()
}

func add(groups map[string]group, id string, s *socket) {
	if groups[id] == nil {
		groups[id] = group{}
	}
	groups[id][s] = struct{}{}
}

func remove(groups map[string]group, id string, s *socket) {
	delete(groups[id], s)
	if len(groups[id]) == 0 {
		delete(groups, id)
	}
}

// Reasons for a refusal, as the metric names them.
const (
	refusedUser        = "user"        // it has too many sockets
	refusedNode        = "node"        // so has the node
	refusedUnavailable = "unavailable" // the hub takes nobody, or doesn't get at what was missed
)

// admit looks at a new client before its connection becomes a socket, while there is still an HTTP answer to give, and
// gives it one of its user's places: until the socket's end, or giveBack when it becomes none. An error leaves it none.
func (h *Hub) admit(ctx context.Context, user, cursor string) (start, error) {
	var asked Cursor
	if cursor != "" {
		var err error
		if asked, err = ParseCursor(cursor); err != nil {
			return start{}, err
		}
	}
	epoch, err := h.place(user)
	if err != nil || cursor == "" {
		return start{}, err
	}
	from, err := h.resume(ctx, asked, epoch)
	if err != nil {
		h.giveBack(user)
		h.refused.WithLabelValues(refusedUnavailable).Inc()
	}
	return from, err
}

// place takes a place for one more socket of the user. Places count what is on its way too: connects at the same moment
// would else all see room for one. It returns the stream's epoch.
func (h *Hub) place(user string) (epoch int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	reason := ""
	switch {
	case !h.live || h.ending:
		reason, err = refusedUnavailable, unavailable(nil)
	case h.places[user] >= h.limits.perUser:
		reason, err = refusedUser, tooMany(h.limits.perUser)
	case h.taken >= h.limits.perNode:
		reason, err = refusedNode, unavailable(nil)
	}
	if err != nil {
		h.refused.WithLabelValues(reason).Inc()
		return 0, err
	}
	h.places[user]++
	h.taken++
	return h.epoch, nil
}

// giveBack frees the place of a client that has become no socket.
func (h *Hub) giveBack(user string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vacate(user)
}

// vacate frees a place. The caller holds h.mu.
func (h *Hub) vacate(user string) {
	h.taken--
	if h.places[user]--; h.places[user] == 0 {
		delete(h.places, user)
	}
}

// resume says where a client goes on that has seen everything up to the cursor.
func (h *Hub) resume(ctx context.Context, asked Cursor, epoch int64) (start, error) {
	info, err := h.stream(ctx)
	switch {
	case err != nil:
		return start{}, unavailable(err)
	case epochOf(info.Created) != epoch:
		return start{}, unavailable(nil) // the feed is about to notice
	case asked.Epoch != epoch, asked.Sequence > info.State.LastSeq:
		return start{reason: reasonReset}, nil
	case asked.Sequence+1 < info.State.FirstSeq:
		return start{reason: reasonExpired}, nil
	}
	// Everything stored by now comes before "ready".
	h.reach(ctx, info.State.LastSeq)
	return start{resume: true, epoch: epoch, seq: asked.Sequence}, nil
}

// reach waits until the node has dispatched the event, but not long: later is no loss.
func (h *Hub) reach(ctx context.Context, seq uint64) {
	h.mu.Lock()
	if h.pos >= seq {
		h.mu.Unlock()
		return
	}
	w := waiter{seq, make(chan struct{})}
	h.waiters = append(h.waiters, w)
	h.mu.Unlock()
	late := time.NewTimer(h.limits.reach)
	defer late.Stop()
	select {
	case <-w.done:
	case <-late.C:
	case <-ctx.Done():
	}
}

func tooMany(limit int) error {
	return &fault.Error{
		Kind: fault.RateLimited, Code: "too-many-sockets",
		Detail: fmt.Sprintf("You have %d connections for live updates open already; close some, such as tabs that you no longer need.", limit),
		// A closed tab's connection is gone at once, a lost network's when its pings have stayed unanswered.
		RetryAfter: 10*time.Second + rand.N(10*time.Second), //nolint:gosec // jitter is no secret
	}
}

func unavailable(err error) error {
	return &fault.Error{
		Kind: fault.Unavailable, Code: "push-unavailable", Detail: "Live updates can't be had right now; try again in a moment.",
		RetryAfter: time.Second + rand.N(time.Second), Err: err, //nolint:gosec // jitter is no secret
	}
}
