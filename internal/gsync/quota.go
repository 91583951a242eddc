package gsync

import (
	"context"
	"errors"
	"time"

	"fdc/internal/platform/ratelimit"
)

// Google's quotas. Every process that asks Google charges them before it does, and counts are shared over NATS, so that all
// together keep to them; without NATS each keeps to them by its own count.
//
// https://developers.google.com/workspace/calendar/api/guides/quota
var (
	userQuota    = &ratelimit.Policy{Key: "google/user", Limit: 600}
	projectQuota = &ratelimit.Policy{Key: "google/project", Limit: 10_000}
)

// maxQuotaWait is how long a request waits for its turn. What would take longer gives the job back, so that it keeps no other
// user's from a slot.
const maxQuotaWait = 10 * time.Second

var errQuota = errors.New("Google's quota is used up for the moment") //nolint:staticcheck // Google is a name

// turn waits until a request of the user's is within the quotas, and charges them.
func (s *Service) turn(ctx context.Context, userID string) error {
	if s.limiter == nil {
		return nil
	}
	until := time.Now().Add(maxQuotaWait)
	for _, q := range []struct {
		policy  *ratelimit.Policy
		subject string
	}{{userQuota, userID}, {projectQuota, "project"}} {
		for {
			d := s.limiter.Allow(ctx, q.policy, q.subject)
			if d.Allowed {
				break
			}
			wait := d.Reset + s.jitter(1)
			if time.Now().Add(wait).After(until) {
				return &failure{verdict: verdict{class: classRate, retryAfter: wait}, err: errQuota}
			}
			if err := pause(ctx, wait); err != nil {
				return err
			}
		}
	}
	return nil
}
