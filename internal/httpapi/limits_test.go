package httpapi

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The numbers are what users rely on.
func TestTheLimits(t *testing.T) {
	t.Parallel()
	type numbers struct {
		perMinute int64
		exact     bool
	}
	got := map[string]numbers{}
	for _, l := range limits() {
		got[l.key] = numbers{l.perMinute, l.exact}
	}
	require.Equal(t, map[string]numbers{
		"auth/login": {10, true}, "auth/callback": {10, true}, "workspaces/data": {120, false}, "workspaces/data:write": {30, false},
		"org-chart": {60, false}, "users/export": {2, true}, "google/sync": {5, false}, "ai/chat": {5, true}, "default": {60, false},
	}, got)
}

func TestEveryRouteHasItsLimit(t *testing.T) {
	t.Parallel()
	special := map[string]string{
		"GET /api/auth/login": "auth/login", "GET /api/auth/callback": "auth/callback",
		"GET /api/workspaces/{id}/data": "workspaces/data", "PUT /api/workspaces/{id}/data": "workspaces/data:write",
		"PATCH /api/workspaces/{id}/data": "workspaces/data:write", "POST /api/google/sync": "google/sync",
		"GET /api/workspaces/{id}/org-chart": "org-chart", "PUT /api/workspaces/{id}/org-chart": "org-chart",
		"POST /api/ai/chat": "ai/chat", "GET /api/users/me/export": "users/export",
		"GET /api/health": "", "GET /api/health/deep": "", "GET /api/ws": "", "GET /api/events": "",
		"GET /api/openapi.json": "", "GET /api/schemas/{eventType}": "",
		"GET /": "", "GET /ops": "", "GET /ops/status": "", "GET /assets/{name}": "",
	}
	for _, r := range routes() {
		want, named := special[r.method+" "+r.path]
		if !named {
			want = defaultKey
		}
		require.Equal(t, want, r.limitKey(), r.id)
		// The streams have no limit of requests, but one of how many are open.
		require.Equal(t, want != "" || r.stream, slices.Contains(r.problems(), 429), r.id)
	}
}

func TestTheFactor(t *testing.T) {
	t.Parallel()
	for factor, want := range map[float64]int64{0: 5, 1: 5, 0.5: 3, 0.001: 1, 100: 500, 1e6: 5_000_000} {
		b := newBudgets(factor)["google/sync"]
		require.Equal(t, want, b.policy.Limit, "%v", factor)
	}
	require.Equal(t, []string{`"workspaces/data:write";q=60;w=60`}, newBudgets(2)["workspaces/data:write"].header)
}

func TestAddressSubject(t *testing.T) {
	t.Parallel()
	of := func(s string) string { return addressSubject(netip.MustParseAddr(s)) }
	require.NotEqual(t, of("192.0.2.1"), of("192.0.2.2"))
	require.Equal(t, of("2001:db8::1"), of("2001:db8::ffff:1"), "one network")
	require.NotEqual(t, of("2001:db8::1"), of("2001:db8:0:1::1"))
	require.NotEmpty(t, addressSubject(netip.Addr{}))
}
