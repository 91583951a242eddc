package nearcache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Entry is what a key holds. A tombstone has no data: the value of that version must be read from Postgres.
type Entry struct {
	Version   int64
	Tombstone bool
	Data      []byte
}

const (
	formatEntry     = 1
	formatTombstone = 2
	headerSize      = 1 + 8
)

// Encode writes an entry as one byte of format, the version in eight bytes, big endian, and the data.
func (e Entry) Encode() []byte {
	b := make([]byte, headerSize, headerSize+len(e.Data))
	b[0] = formatEntry
	if e.Tombstone {
		b[0] = formatTombstone
	}
	binary.BigEndian.PutUint64(b[1:], uint64(e.Version)) //nolint:gosec // the same bits come back
	return append(b, e.Data...)
}

// DecodeEntry reads what Encode wrote.
func DecodeEntry(b []byte) (Entry, error) {
	if len(b) < headerSize {
		return Entry{}, errors.New("decode cache entry: too short")
	}
	e := Entry{Version: int64(binary.BigEndian.Uint64(b[1:]))} //nolint:gosec // the same bits went in
	switch b[0] {
	case formatEntry:
		e.Data = b[headerSize:]
	case formatTombstone:
		if len(b) > headerSize {
			return Entry{}, errors.New("decode cache entry: a tombstone with data")
		}
		e.Tombstone = true
	default:
		return Entry{}, fmt.Errorf("decode cache entry: unknown format %d", b[0])
	}
	if e.Version < 0 {
		return Entry{}, errors.New("decode cache entry: negative version")
	}
	return e, nil
}

// replaces reports whether e may take the place of old: it is newer, or it withdraws the value of the same version.
func (e Entry) replaces(old Entry) bool {
	return e.Version > old.Version || e.Version == old.Version && e.Tombstone && !old.Tombstone
}

// current is the version that the row has at least.
func (e Entry) current() int64 {
	if e.Tombstone {
		return e.Version + 1
	}
	return e.Version
}

// Bucket is a key-value bucket of entries. It is safe for concurrent use, here and on any number of nodes.
type Bucket struct{ kv jetstream.KeyValue }

// NewBucket wraps a bucket that bus has declared.
func NewBucket(kv jetstream.KeyValue) *Bucket { return &Bucket{kv: kv} }

// Get returns the entry of a key; false when there is none that can be read.
func (b *Bucket) Get(ctx context.Context, key string) (Entry, bool, error) {
	entry, _, found, err := b.load(ctx, key)
	return entry, found, err
}

// load returns also the revision that a replacement must name: zero when the key is free.
func (b *Bucket) load(ctx context.Context, key string) (entry Entry, revision uint64, found bool, err error) {
	stored, err := b.kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return Entry{}, 0, false, nil
	case err != nil:
		return Entry{}, 0, false, fmt.Errorf("read %s/%s: %w", b.kv.Bucket(), key, err)
	}
	entry, err = DecodeEntry(stored.Value())
	if err != nil {
		// Whoever wrote this, the next write replaces it.
		return Entry{}, stored.Revision(), false, nil //nolint:nilerr // unreadable is absent, see the package's failure modes
	}
	return entry, stored.Revision(), true, nil
}

// PutIfNewer stores the entry unless the bucket holds the same version or a newer one; it reports whether it did. When it
// returns nil, the bucket held this version or a newer one at some moment during the call.
func (b *Bucket) PutIfNewer(ctx context.Context, key string, e Entry) (stored bool, err error) {
	return b.put(ctx, key, e, 0)
}

// put is PutIfNewer. It also stores a value again that the bucket holds since a revision up to doubted: it may have lost what
// came after that.
func (b *Bucket) put(ctx context.Context, key string, e Entry, doubted uint64) (stored bool, err error) {
	encoded := e.Encode()
	for {
		old, revision, found, err := b.load(ctx, key)
		if err != nil {
			return false, err
		}
		again := revision <= doubted && old.Version == e.Version && old.Tombstone == e.Tombstone
		if found && !again && !e.replaces(old) {
			return false, nil
		}
		if revision == 0 {
			_, err = b.kv.Create(ctx, key, encoded)
		} else {
			_, err = b.kv.Update(ctx, key, encoded, revision)
		}
		switch {
		case err == nil:
			return true, nil
		case !isConflict(err):
			return false, fmt.Errorf("write %s/%s: %w", b.kv.Bucket(), key, err)
		case ctx.Err() != nil:
			return false, fmt.Errorf("write %s/%s: %w", b.kv.Bucket(), key, ctx.Err())
		}
		// Somebody else wrote in between: compare with that.
	}
}

// Takes reports whether PutIfNewer would store the entry now, and which one is there; none when found is false.
func (b *Bucket) Takes(ctx context.Context, key string, e Entry) (takes bool, old Entry, found bool, err error) {
	old, found, err = b.Get(ctx, key)
	return err == nil && (!found || e.replaces(old)), old, found, err
}

// isConflict recognises both codes for a lost compare-and-set: 10071 from one server, 10164 from a replicated stream.
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	apiErr, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (apiErr.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		apiErr.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
