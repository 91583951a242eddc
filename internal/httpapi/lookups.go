package httpapi

import (
	"context"
	"net/netip"
	"sync"

	"fdc/internal/identity"
	"fdc/internal/platform/fault"
)

// lookups lets one address have so many look-ups of sessions under way on this node as it may have fail, and a few at most: what
// has begun may fail, so it counts until it has ended. Further ones wait.
type lookups struct {
	mu    sync.Mutex
	gates map[string]*gate // by subject
}

// maxLookups is how many look-ups an address may have under way on a node. Two nodes can't know of each other's: together they
// exceed the budget by no more than this.
const maxLookups = 8

// gate is an address with look-ups under way, or waiting.
type gate struct {
	users int // of this value; lookups.mu guards it

	mu       sync.Mutex
	underWay int64
	ended    chan struct{} // closed when the next one ends
}

func newLookups() *lookups { return &lookups{gates: make(map[string]*gate)} }

func (l *lookups) open(subject string) *gate {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.gates[subject]
	if g == nil {
		g = &gate{ended: make(chan struct{})}
		l.gates[subject] = g
	}
	g.users++
	return g
}

func (l *lookups) close(subject string, g *gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.users--; g.users == 0 {
		delete(l.gates, subject)
	}
}

// enter waits until one more look-up may begin. left returns how many may fail still.
func (g *gate) enter(ctx context.Context, left func() (int64, error)) error {
	for {
		g.mu.Lock()
		n, err := left()
		if err != nil {
			g.mu.Unlock()
			return err
		}
		if g.underWay < min(n, maxLookups) {
			g.underWay++
			g.mu.Unlock()
			return nil
		}
		ended := g.ended
		g.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return fault.Wrap(ctx.Err(), fault.Unavailable, "", "The answer took too long.")
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.underWay--
	close(g.ended)
	g.ended = make(chan struct{})
}

// lookUp looks a token up, at the expense of the client's address if there is no session.
func (c *call) lookUp(token string) (session identity.Session, err error) {
	a, subject := c.api, addressSubject(c.client)
	b := a.budgets[lookupKey]
	g := a.lookups.open(subject)
	defer a.lookups.close(subject, g)
	err = g.enter(c.ctx(), func() (int64, error) {
		d := a.Limiter.Peek(c.ctx(), b.policy, subject)
		if !d.Allowed {
			return 0, c.answerLimit(b, d)
		}
		return d.Remaining + 1, nil
	})
	if err != nil {
		return identity.Session{}, err
	}
	defer g.leave()
	session, err = a.Identity.Authenticate(c.ctx(), token)
	if fault.KindOf(err) == fault.Unauthenticated {
		a.Limiter.Allow(c.ctx(), b.policy, subject)
	}
	return session, err
}

// addressSubject is whom an address stands for. One client has a whole /64 of IPv6.
func addressSubject(addr netip.Addr) string {
	if addr.Is6() {
		if network, err := addr.Prefix(64); err == nil {
			return "address:" + network.Addr().String()
		}
	}
	return "address:" + addr.String()
}
