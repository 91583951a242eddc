package flags

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// reread is how often all flags are read again, in case the watch is blind: the bound within which a change is seen
// while NATS answers.
const reread = time.Second

// Flags is what the flags are at this moment. A nil *Flags has every flag on.
type Flags struct {
	kv     jetstream.KeyValue
	log    zerolog.Logger
	locked [len(names)]bool
	values [len(names)]atomic.Pointer[Value] // nil: the default

	seen  map[string]uint64 // revisions that were taken over; Run's own
	ready chan struct{}
	once  sync.Once
}

// New returns the flags of a bucket, all at their default until Run has read them. locked are those that stay off.
func New(kv jetstream.KeyValue, log zerolog.Logger, locked ...string) *Flags {
	f := &Flags{kv: kv, log: log.With().Str("component", "flags").Logger(), seen: map[string]uint64{}, ready: make(chan struct{})}
	for i, name := range names {
		f.locked[i] = slices.Contains(locked, name)
	}
	return f
}

// Enabled reports whether a flag is on. It costs nanoseconds. What is no flag is off.
func (f *Flags) Enabled(name string) bool {
	i := slices.Index(names[:], name)
	if i < 0 {
		return false
	}
	if f == nil {
		return true
	}
	if f.locked[i] {
		return false
	}
	v := f.values[i].Load()
	return v == nil || v.On(time.Now())
}

// Ready is closed when Run has read all flags once.
func (f *Flags) Ready() <-chan struct{} { return f.ready }

// Run follows the bucket until ctx ends, and then returns nil. It outlives every failure of NATS. It is called once.
func (f *Flags) Run(ctx context.Context) error {
	again := time.NewTicker(reread)
	defer again.Stop()
	var updates <-chan jetstream.KeyValueEntry
	failing := false
	for {
		if updates == nil {
			updates = f.watch(ctx)
		}
		err := f.readAll(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			f.log.Warn().Err(err).Msg("flags not read; the last ones hold")
		}
		failing = err != nil
		if err == nil {
			f.once.Do(func() { close(f.ready) })
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-again.C:
				waiting = false
			case entry, open := <-updates:
				switch {
				case !open:
					updates = nil // the next round makes another
				case entry != nil:
					f.watched(entry)
				}
			}
		}
	}
}

// watch returns nil when there is no watch to be had now: readAll sees the changes until there is one.
func (f *Flags) watch(ctx context.Context) <-chan jetstream.KeyValueEntry {
	ctx, cancel := context.WithCancel(ctx) // of the watch, for as long as it lives
	timeout := time.AfterFunc(2*reread, cancel)
	watcher, err := f.kv.WatchAll(ctx, jetstream.UpdatesOnly())
	if !timeout.Stop() || err != nil {
		cancel()
		return nil
	}
	return watcher.Updates()
}

// readAll asks the leader, so what it answers is newer than all that was seen before.
func (f *Flags) readAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*reread)
	defer cancel()
	for _, name := range names {
		entry, err := f.kv.Get(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			f.take(name, nil)
		case err != nil:
			return fmt.Errorf("read flag %s: %w", name, err)
		default:
			f.seen[name] = entry.Revision()
			f.take(name, entry.Value())
		}
	}
	return nil
}

// watched takes over what the watch brings, unless it was overtaken by readAll.
func (f *Flags) watched(entry jetstream.KeyValueEntry) {
	if entry.Revision() < f.seen[entry.Key()] {
		return
	}
	f.seen[entry.Key()] = entry.Revision()
	if entry.Operation() != jetstream.KeyValuePut {
		f.take(entry.Key(), nil)
		return
	}
	f.take(entry.Key(), entry.Value())
}

// take makes a stored value the one that holds; body nil is none.
func (f *Flags) take(name string, body []byte) {
	i := slices.Index(names[:], name)
	if i < 0 {
		return // of a newer program
	}
	var next *Value
	if body != nil {
		v, err := Decode(body)
		if err != nil {
			f.log.Error().Err(err).Str("flag", name).Msg("flag can't be read; its default holds")
		} else {
			next = &v
		}
	}
	old := f.values[i].Swap(next)
	if changed(old, next) {
		event := f.log.Info().Str("flag", name).Bool("enabled", f.Enabled(name))
		if next != nil {
			event = event.Str("actor", next.Actor).Str("reason", next.Reason).Time("expires_at", next.ExpiresAt)
		}
		event.Msg("flag changed")
	}
}

func changed(old, next *Value) bool {
	if old == nil || next == nil {
		return old != next
	}
	return *old != *next
}
