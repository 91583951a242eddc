package nearcache

import (
	"context"
	"time"

	"fdc/internal/platform/seal"
)

// Encode is what a writer with that key stores, at that time, under a key of a bucket.
func (e Entry) Encode(signer *seal.Signer, bucket, key string, at time.Time) ([]byte, error) {
	return e.encode(signer, bucket, key, at)
}

// Check makes the checks that are due at the given time.
func (m *Monitor) Check(ctx context.Context, now time.Time) error { return m.check(ctx, now) }

// Expect has a key checked as Withdraw does, and leaves the bucket alone.
func (m *Monitor) Expect(key string, outdated int64) { m.expect(key, outdated) }

// Owed returns the version of a key that the bucket has not taken yet, 0 for none.
func (c *Cache[V]) Owed(key string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owed[key]
}

// ErrAway is the error of a write while the bucket is left alone.
var ErrAway = errAway

// Wait replaces how long the bucket is waited for. Set it before the first use.
func (c *Cache[V]) Wait(d time.Duration) { c.limits = limits{read: d, write: d} }
