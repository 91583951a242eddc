package nearcache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/seal"
)

// Entry is what a key holds. A tombstone has no data: the value of that version must be read from Postgres.
type Entry struct {
	Version   int64
	Tombstone bool
	Data      []byte
}

const (
	formatTombstone = 2
	formatSigned    = 3 // 1 was a value without a signature

	headerSize = 1 + 8                               // format, version
	signedSize = headerSize + 8 + seal.SignatureSize // and when it was signed, in Unix seconds, and the signature

	// signedFor is how long a signature is valid: as long as the oldest entry that a bucket keeps, so that an old entry which
	// somebody writes again lives no longer than it would have lived untouched.
	signedFor = 5 * time.Minute
	// clockSkew is how far ahead of this node's clock the clock of the signing node may be.
	clockSkew = time.Minute
)

var (
	errUnsigned = errors.New("decode cache entry: no valid signature")
	errReadOnly = errors.New("write cache entry: a value without a key to sign it")
)

// encode writes an entry as one byte of format and the version in eight bytes, big endian. A value goes on with the time,
// the signature over bucket, key, version, time and data, and the data.
func (e Entry) encode(signer *seal.Signer, bucket, key string, at time.Time) ([]byte, error) {
	b := make([]byte, headerSize, signedSize+len(e.Data))
	b[0] = formatTombstone
	binary.BigEndian.PutUint64(b[1:], uint64(e.Version)) //nolint:gosec // the same bits come back
	if e.Tombstone {
		return b, nil
	}
	if signer == nil {
		return nil, errReadOnly
	}
	b[0] = formatSigned
	b = binary.BigEndian.AppendUint64(b, uint64(at.Unix())) //nolint:gosec // the same bits come back
	b = append(b, signer.Sign([]byte(bucket), []byte(key), b[1:], e.Data)...)
	return append(b, e.Data...), nil
}

// DecodeEntry reads an entry and does not look at its signature: nothing may be served from it.
func DecodeEntry(b []byte) (Entry, error) {
	if len(b) < headerSize {
		return Entry{}, errors.New("decode cache entry: too short")
	}
	e := Entry{Version: int64(binary.BigEndian.Uint64(b[1:]))} //nolint:gosec // the same bits went in
	switch {
	case b[0] == formatSigned && len(b) >= signedSize:
		e.Data = b[signedSize:]
	case b[0] == formatTombstone && len(b) == headerSize:
		e.Tombstone = true
	default:
		return Entry{}, fmt.Errorf("decode cache entry: unknown format %d, or a wrong length", b[0])
	}
	if e.Version < 0 || e.Version == math.MaxInt64 { // the row of a tombstone has the next version
		return Entry{}, errors.New("decode cache entry: version out of range")
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
type Bucket struct {
	kv       jetstream.KeyValue
	signer   *seal.Signer // nil: signatures are neither made nor looked at
	rejected prometheus.Counter
}

// NewBucket wraps a bucket that bus has declared, for those who have no key: it writes tombstones only, and what it reads may be
// forged.
func NewBucket(kv jetstream.KeyValue) *Bucket { return NewSignedBucket(kv, nil) }

// NewSignedBucket wraps a bucket that bus has declared. It signs what it writes; a value without a valid signature is absent.
func NewSignedBucket(kv jetstream.KeyValue, signer *seal.Signer) *Bucket {
	return &Bucket{kv: kv, signer: signer, rejected: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "cache_unsigned_total", ConstLabels: prometheus.Labels{"cache": kv.Bucket()},
		Help: "Entries of the bucket that were ignored because they have no valid signature, or one that is too old.",
	})}
}

// stored is what a bucket has of a key.
type stored struct {
	Entry
	revision uint64 // that a replacement must name: zero when the key is free
	found    bool   // there is an entry, and it is authentic
	fresh    bool   // its signature is not too old to be served
}

// Get returns the entry of a key; false when there is none that can be read.
func (b *Bucket) Get(ctx context.Context, key string) (Entry, bool, error) {
	s, err := b.load(ctx, key)
	return s.Entry, s.found, err
}

func (b *Bucket) load(ctx context.Context, key string) (stored, error) {
	got, err := b.kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return stored{}, nil
	case err != nil:
		return stored{}, fmt.Errorf("read %s/%s: %w", b.kv.Bucket(), key, err)
	}
	s := stored{revision: got.Revision()}
	if s.Entry, s.fresh, err = b.open(key, got.Value()); err != nil {
		// Whoever wrote this, the next write replaces it.
		return stored{revision: s.revision}, nil //nolint:nilerr // unreadable is absent, see the package's failure modes
	}
	s.found = true
	return s, nil
}

// open decodes an entry and verifies it. A valid signature that is too old is no error, because the version still counts when
// entries are compared, but the value must not be served: fresh is false.
func (b *Bucket) open(key string, encoded []byte) (e Entry, fresh bool, err error) {
	if e, err = DecodeEntry(encoded); err != nil {
		if len(encoded) > 0 { // else a marker: the entry has expired or was purged
			b.rejected.Inc()
		}
		return Entry{}, false, err
	}
	if e.Tombstone || b.signer == nil {
		return e, true, nil
	}
	signature := encoded[signedSize-seal.SignatureSize : signedSize]
	if !b.signer.Valid(signature, []byte(b.kv.Bucket()), []byte(key), encoded[1:signedSize-seal.SignatureSize], e.Data) {
		b.rejected.Inc()
		return Entry{}, false, errUnsigned
	}
	age := time.Since(time.Unix(int64(binary.BigEndian.Uint64(encoded[headerSize:])), 0)) //nolint:gosec // the same bits went in
	if fresh = age <= signedFor && age >= -clockSkew; !fresh {
		b.rejected.Inc()
	}
	return e, fresh, nil
}

// PutIfNewer stores the entry unless the bucket holds the same version or a newer one; it reports whether it did. When it
// returns nil, the bucket held this version or a newer one at some moment during the call.
func (b *Bucket) PutIfNewer(ctx context.Context, key string, e Entry) (done bool, err error) {
	return b.put(ctx, key, e, 0)
}

// put is PutIfNewer. It also stores a value again that the bucket holds since a revision up to doubted: it may have lost what
// came after that.
func (b *Bucket) put(ctx context.Context, key string, e Entry, doubted uint64) (done bool, err error) {
	encoded, err := e.encode(b.signer, b.kv.Bucket(), key, time.Now())
	if err != nil {
		return false, err
	}
	for {
		old, err := b.load(ctx, key)
		if err != nil {
			return false, err
		}
		again := (old.revision <= doubted || !old.fresh) && old.Version == e.Version && old.Tombstone == e.Tombstone
		if old.found && !again && !e.replaces(old.Entry) {
			return false, nil
		}
		if old.revision == 0 {
			_, err = b.kv.Create(ctx, key, encoded)
		} else {
			_, err = b.kv.Update(ctx, key, encoded, old.revision)
		}
		switch {
		case err == nil:
			return true, nil
		case !bus.IsConflict(err):
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
