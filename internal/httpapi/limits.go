package httpapi

import (
	"context"
	"math"
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
	routes    []string // operation ids
}

// Keys that are not charged by a route's entry alone.
const (
	defaultKey     = "default"
	lookupKey      = "auth/session" // to an address: look-ups of sessions that fail
	pushAddressKey = "push/address" // to an address, besides the user's own: sockets and streams that are opened
)

// limits is the one table of rate limits. What has no key of its own is under default. Limits below 20 are exact over all nodes:
// see ratelimit.
func limits() []limit {
	return []limit{
		{key: "auth/login", perMinute: 10, routes: []string{"login"}},
		{key: "auth/callback", perMinute: 10, routes: []string{"loginCallback"}},
		{key: lookupKey, perMinute: 60},
		{key: "workspaces/data", perMinute: 120, routes: []string{"getData"}},
		{key: "workspaces/data:write", perMinute: 30, routes: []string{"putData", "patchData"}},
		{key: "tasks", perMinute: 300, routes: []string{"listTasks", "getTask"}},
		{key: "tasks:write", perMinute: 120, routes: []string{"createTask", "patchTask", "deleteTask"}},
		{key: "calendar", perMinute: 120, routes: []string{"listCalendarEvents"}},
		{key: "org-chart", perMinute: 60, routes: []string{"getOrgChart", "putOrgChart"}},
		{key: "users/export", perMinute: 2, routes: []string{"exportUser"}},
		{key: "google/sync", perMinute: 5, routes: []string{"requestSync"}},
		{key: "ai/chat", perMinute: 5, routes: []string{"chat"}},
		{key: "push", perMinute: 60, routes: []string{"openWebSocket", "openEventStream"}},
		{key: pushAddressKey, perMinute: 600},
		{key: defaultKey, perMinute: 60},
	}
}

// unlimited are the operations without a limit: probes and documents.
func unlimited() []string {
	return []string{"getHealth", "getDeepHealth", "getOpenAPI", "getEventSchema"}
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
			policy: &ratelimit.Policy{Key: l.key, Limit: allowed},
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
	if c.route.stream {
		if err := c.take(c.ctx(), c.api.budgets[pushAddressKey], addressSubject(c.client)); err != nil {
			return err
		}
	}
	return c.take(c.ctx(), b, subject)
}

func (c *call) take(ctx context.Context, b *budget, subject string) error {
	return c.answerLimit(b, c.api.Limiter.Allow(ctx, b.policy, subject))
}

// answerLimit puts a decision into the answer's headers, and makes an error of a refusal.
func (c *call) answerLimit(b *budget, d ratelimit.Decision) error {
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
