package identity

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"fdc/events"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/worker"
)

// Invalidator withdraws ended sessions from the cache bucket.
type Invalidator struct {
	pool   *pgxpool.Pool
	bucket *nearcache.Bucket
}

// NewInvalidator returns an Invalidator for the bucket of sessions. Its keys are hashes of tokens, which no event holds:
// they are looked up in pool.
func NewInvalidator(pool *pgxpool.Pool, bucket *nearcache.Bucket) *Invalidator {
	return &Invalidator{pool: pool, bucket: bucket}
}

// SessionRevoked leaves a tombstone of the session's last version. It may be called late, twice or out of order.
func (i *Invalidator) SessionRevoked(ctx context.Context, d *worker.Delivery) error {
	data, ok := d.Event.Data.(events.SessionRevoked)
	if !ok {
		return worker.Discard(fmt.Errorf("want session.revoked, got %s", d.Event.Type))
	}
	var hash []byte
	err := i.pool.QueryRow(ctx, `SELECT token_hash FROM sessions WHERE id = $1`, data.SessionID).Scan(&hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // swept: no token leads to it any more
	}
	if err != nil {
		return fmt.Errorf("look up session %s: %w", data.SessionID, err)
	}
	_, err = i.bucket.PutIfNewer(ctx, CacheKey(hash), nearcache.Entry{Version: data.Version, Tombstone: true})
	return err
}

// CacheKey is the bucket's key of a token's hash.
func CacheKey(hash []byte) string { return hex.EncodeToString(hash) }
