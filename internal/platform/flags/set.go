package flags

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
)

// Store changes flags.
type Store struct {
	kv     jetstream.KeyValue
	outbox *outbox.Outbox
}

// NewStore returns a Store that writes the bucket flags and tells of it through ob.
func NewStore(kv jetstream.KeyValue, ob *outbox.Outbox) *Store { return &Store{kv: kv, outbox: ob} }

// Get returns what a flag was set to; false when it has its default. An expired value is returned as well.
func (s *Store) Get(ctx context.Context, name string) (Value, bool, error) {
	v, found, _, err := s.load(ctx, name)
	return v, found, err
}

// load returns also the revision that a change must name: zero when there is none.
func (s *Store) load(ctx context.Context, name string) (v Value, found bool, revision uint64, err error) {
	if !Known(name) {
		return Value{}, false, 0, fault.New(fault.Invalid, "unknown-flag", "There is no flag %.64q.", name)
	}
	entry, err := s.kv.Get(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return Value{}, false, 0, nil
	case err != nil:
		return Value{}, false, 0, fmt.Errorf("read flag %s: %w", name, err)
	}
	v, err = Decode(entry.Value())
	if err != nil {
		return Value{}, false, entry.Revision(), nil //nolint:nilerr // unreadable is none, see the package's failure modes
	}
	return v, true, entry.Revision(), nil
}

// Set turns a flag on or off, for a time or, when lasting is zero, until it is changed. The actor is meta's. See the
// package for what holds when it fails; fault.Conflict says that somebody else changed the flag at the same moment.
func (s *Store) Set(ctx context.Context, meta events.Meta, name string, on bool, reason string, lasting time.Duration) (Value, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	v := Value{Value: events.FlagOff, Reason: reason, Actor: meta.ActorID, SetAt: now}
	if on {
		v.Value = events.FlagOn
	}
	if lasting < 0 {
		return Value{}, fault.New(fault.Invalid, "bad-flag", "A flag can't be set for less than no time.")
	}
	if lasting > 0 {
		v.ExpiresAt = now.Add(lasting).Truncate(time.Microsecond)
	}
	body, err := v.Encode()
	if err != nil {
		return Value{}, fault.Wrap(err, fault.Invalid, "bad-flag", "The flag can't be set so")
	}
	_, _, revision, err := s.load(ctx, name)
	if err != nil {
		return Value{}, err
	}
	if err := s.tell(ctx, meta, events.FlagChanged{Name: name, Value: v.Value, Reason: reason, ExpiresAt: v.ExpiresAt}); err != nil {
		return Value{}, err
	}
	if revision == 0 {
		_, err = s.kv.Create(ctx, name, body)
	} else {
		_, err = s.kv.Update(ctx, name, body, revision)
	}
	return v, written(name, err)
}

// Clear puts a flag back to its default. It reports whether there was something to clear; if not, nothing is told.
func (s *Store) Clear(ctx context.Context, meta events.Meta, name string) (bool, error) {
	_, _, revision, err := s.load(ctx, name)
	if err != nil || revision == 0 {
		return false, err
	}
	if err := s.tell(ctx, meta, events.FlagChanged{Name: name, Value: events.FlagCleared}); err != nil {
		return false, err
	}
	return true, written(name, s.kv.Delete(ctx, name, jetstream.LastRevision(revision)))
}

func (s *Store) tell(ctx context.Context, meta events.Meta, fact events.FlagChanged) error {
	ev := events.New(meta, fact.Name, fact)
	if err := s.outbox.Tx(ctx, func(tx pgx.Tx) error { return outbox.Append(ctx, tx, ev) }); err != nil {
		return fmt.Errorf("tell of flag %s: %w", fact.Name, err)
	}
	return nil
}

// written explains the outcome of a write to the bucket.
func written(name string, err error) error {
	if err == nil {
		return nil
	}
	if bus.IsConflict(err) {
		return fault.Wrap(err, fault.Conflict, "flag-conflict", "Somebody else changed the flag at the same moment; look, and do it again")
	}
	return fmt.Errorf("write flag %s (told already; do it again): %w", name, err)
}
