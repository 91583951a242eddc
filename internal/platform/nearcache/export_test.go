package nearcache

import (
	"context"
	"time"
)

// Check makes the checks that are due at the given time.
func (m *Monitor) Check(ctx context.Context, now time.Time) error { return m.check(ctx, now) }

// Expect has a key checked as Withdraw does, and leaves the bucket alone.
func (m *Monitor) Expect(key string, outdated int64) { m.expect(key, outdated) }
