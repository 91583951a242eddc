package httpapi

import (
	"context"
	"sync"
	"time"
)

// deadlined is a context that ends at a time, like that of context.WithDeadline, but has no timer until somebody waits
// for it: an answer from memory is there before anyone does, and the timer would be a good part of what it costs.
type deadlined struct {
	context.Context //nolint:containedctx // it is a context; this is the parent
	until           time.Time

	mu     sync.Mutex
	timed  context.Context //nolint:containedctx // it is a context; nil: nobody has waited
	cancel context.CancelFunc
	over   bool
}

// withDeadline returns a context that ends at a time, with parent or when the returned function is called.
func withDeadline(parent context.Context, until time.Time) (context.Context, context.CancelFunc) {
	d := &deadlined{Context: parent, until: until}
	return d, d.end
}

// start returns the context that does the work.
func (d *deadlined) start() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timed == nil {
		d.timed, d.cancel = context.WithDeadline(d.Context, d.until)
		if d.over {
			d.cancel()
		}
	}
	return d.timed
}

func (d *deadlined) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	if d.cancel != nil {
		d.cancel()
	}
}

func (d *deadlined) Done() <-chan struct{} { return d.start().Done() }
func (d *deadlined) Err() error            { return d.start().Err() }

// Deadline is the earlier one of the parent's and its own.
func (d *deadlined) Deadline() (time.Time, bool) {
	if parent, ok := d.Context.Deadline(); ok && parent.Before(d.until) {
		return parent, true
	}
	return d.until, true
}

// Value asks the context that does the work, if there is one: so a child finds what cancels it, and needs no goroutine to
// watch.
func (d *deadlined) Value(key any) any {
	d.mu.Lock()
	timed := d.timed
	d.mu.Unlock()
	if timed != nil {
		return timed.Value(key)
	}
	return d.Context.Value(key)
}
