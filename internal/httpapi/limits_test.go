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
	got := map[string]int64{}
	for _, l := range limits() {
		got[l.key] = l.perMinute
	}
	require.Equal(t, map[string]int64{
		"auth/login": 10, "auth/callback": 10, "auth/session": 60, "workspaces/data": 120, "workspaces/data:write": 30, "tasks": 300,
		"tasks:write": 120, "calendar": 120, "org-chart": 60, "users/export": 2, "google/sync": 5, "ai/chat": 5, "push": 60, "push/address": 600, "default": 60,
	}, got)
}

func TestEveryRouteHasItsLimit(t *testing.T) {
	t.Parallel()
	special := map[string]string{
		"GET /api/auth/login": "auth/login", "GET /api/auth/callback": "auth/callback",
		"GET /api/workspaces/{id}/data": "workspaces/data", "PUT /api/workspaces/{id}/data": "workspaces/data:write",
		"PATCH /api/workspaces/{id}/data": "workspaces/data:write", "POST /api/google/sync": "google/sync",
		"GET /api/workspaces/{id}/org-chart": "org-chart", "PUT /api/workspaces/{id}/org-chart": "org-chart",
		"POST /api/ai/chat":              "ai/chat",
		"GET /api/workspaces/{id}/tasks": "tasks", "GET /api/workspaces/{id}/tasks/{taskId}": "tasks",
		"POST /api/workspaces/{id}/tasks": "tasks:write", "PATCH /api/workspaces/{id}/tasks/{taskId}": "tasks:write",
		"DELETE /api/workspaces/{id}/tasks/{taskId}": "tasks:write", "GET /api/calendar/events": "calendar",
		"GET /api/users/me/export": "users/export", "GET /api/ws": "push", "GET /api/events": "push",
		"GET /api/health": "", "GET /api/health/deep": "",
		"GET /api/openapi.json": "", "GET /api/schemas/{eventType}": "",
		"GET /": "", "GET /ops": "", "GET /ops/status": "", "GET /assets/{name}": "",
	}
	for _, r := range routes() {
		want, named := special[r.method+" "+r.path]
		if !named {
			want = defaultKey
		}
		require.Equal(t, want, r.limitKey(), r.id)
		require.Equal(t, want != "", slices.Contains(r.problems(), 429), r.id)
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
