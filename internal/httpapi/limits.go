package httpapi

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/ratelimit"
)

// limit is how many requests a minute a key allows: to a user, before sign-in to a client's address.
type limit struct {
	key       string
	perMinute int64
	exact     bool     // the request waits for the count over all nodes
	routes    []string // operation ids
}

const defaultKey = "default"

// limits is the one table of rate limits. What has no key of its own is under default.
func limits() []limit {
	return []limit{
		{key: "auth/login", perMinute: 10, exact: true, routes: []string{"login"}},
		{key: "auth/callback", perMinute: 10, exact: true, routes: []string{"loginCallback"}},
		{key: "workspaces/data", perMinute: 120, routes: []string{"getData"}},
		{key: "workspaces/data:write", perMinute: 30, routes: []string{"putData", "patchData"}},
		{key: "org-chart", perMinute: 60, routes: []string{"getOrgChart", "putOrgChart"}},
		{key: "users/export", perMinute: 2, exact: true, routes: []string{"exportUser"}},
		{key: "google/sync", perMinute: 5, routes: []string{"requestSync"}},
		{key: "ai/chat", perMinute: 5, exact: true, routes: []string{"chat"}},
		{key: defaultKey, perMinute: 60},
	}
}

// unlimited are the operations without a limit: probes, streams, documents.
func unlimited() []string {
	return []string{"getHealth", "getDeepHealth", "openWebSocket", "openEventStream", "getOpenAPI", "getEventSchema"}
}

// limitKey is the key of the route's limit, empty when it has none.
func (r *route) limitKey() string {
	if r.id == "" || r.isPage() || slices.Contains(unlimited(), r.id) {
		return ""
	}
	for _, l := range limits() {
		if slices.Contains(l.routes, r.id) {
			return l.key
		}
	}
	return defaultKey
}

const (
	headerPolicy = "RateLimit-Policy"
	headerLimit  = "RateLimit"
)

// limitHeaders are the headers that every limited answer has.
func (r *route) limitHeaders() []string {
	if r.limitKey() == "" {
		return nil
	}
	return []string{headerPolicy, headerLimit}
}

// budget is a limit in force.
type budget struct {
	policy *ratelimit.Policy
	header []string // RateLimit-Policy; shared between answers, never changed
	prefix string   // of RateLimit
}

// newBudgets makes the table's limits, multiplied, by key.
func newBudgets(factor float64) map[string]*budget {
	if factor == 0 {
		factor = 1
	}
	budgets := make(map[string]*budget)
	for _, l := range limits() {
		allowed := max(1, int64(math.Round(float64(l.perMinute)*factor)))
		key := strconv.Quote(l.key)
		budgets[l.key] = &budget{
			policy: &ratelimit.Policy{Key: l.key, Limit: allowed, Exact: l.exact},
			header: []string{key + ";q=" + strconv.FormatInt(allowed, 10) + ";w=" + strconv.Itoa(int(ratelimit.Window/time.Second))},
			prefix: key + ";r=",
		}
	}
	return budgets
}

// charge takes the request from its budget: the user's under the route's key, a client's address under default where a
// session is wanted and missing. When that couldn't be found out nobody is charged: the answer says so.
func (c *call) charge(unauthenticated error) error {
	b := c.route.budget
	if b == nil {
		return nil
	}
	subject := "user:" + c.user()
	switch {
	case c.user() != "":
	case unauthenticated == nil: // public
		subject = addressSubject(c.client)
	case fault.KindOf(unauthenticated) == fault.Unauthenticated:
		b, subject = c.api.budgets[defaultKey], addressSubject(c.client)
	default:
		return nil
	}
	return c.take(c.ctx(), b, subject)
}

func (c *call) take(ctx context.Context, b *budget, subject string) error {
	d := c.api.Limiter.Allow(ctx, b.policy, subject)
	seconds := min(max(1, int64(math.Ceil(d.Reset.Seconds()))), int64(ratelimit.Window/time.Second))
	h := c.gin.Writer.Header()
	h[headerPolicy] = b.header // as the draft spells it, not as Go would
	value := append(make([]byte, 0, len(b.prefix)+24), b.prefix...)
	value = strconv.AppendInt(value, d.Remaining, 10)
	value = strconv.AppendInt(append(value, ";t="...), seconds, 10)
	h[headerLimit] = []string{string(value)}
	if d.Allowed {
		return nil
	}
	return &fault.Error{
		Kind: fault.RateLimited, Detail: "Too many requests; try again in " + strconv.FormatInt(seconds, 10) + " s.",
		RetryAfter: time.Duration(seconds) * time.Second,
	}
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
