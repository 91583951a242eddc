package httpapi

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/api-limits.md")

// access names who may call a route.
func (r *route) access() string {
	switch r.id {
	case "ops", "opsStatus":
		return "systemRole SA"
	case "listAuditLog", "addMember", "setMemberRole", "removeMember", "withdrawInvitation", "resendInvitation":
		return "OWNER and ADMIN of the workspace" // removing oneself is for every member
	case "renameWorkspace", "deleteWorkspace":
		return "OWNER of the workspace"
	case "restoreWorkspace":
		return "OWNER of the workspace when it was deleted"
	}
	switch {
	case r.public:
		return "anybody"
	case r.inWorkspace():
		return "members of the workspace"
	default:
		return "signed-in users, for what is their own"
	}
}

// docs/api-limits.md is what the route table says.
func TestAPILimitsDocument(t *testing.T) {
	t.Parallel()
	const file = "../../docs/api-limits.md"
	want := apiLimits(routes())
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644)) //nolint:gosec // a document for everybody
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, want, string(got),
		"The route table has changed. Check in access_test.go who may call the new route; then go test ./internal/httpapi -run TestAPILimitsDocument -update")
}

func apiLimits(table []route) string {
	var b strings.Builder
	b.WriteString(`# Limits of the API

A test writes this page from the route table and fails if it differs:
` + "`go test ./internal/httpapi -run TestAPILimitsDocument -update`" + `.

- *Who*: the session is checked first, the right in the transaction. ` + "`TestEveryRoleOnEveryRoute`" + ` tries each role of a workspace on each of
  its routes. "Again" marks routes that want a sign-in with Google within the last 10 minutes, always or in some cases.
- *Budget*: key and requests a minute, per user; before sign-in per client address. Every route is under ` + "`auth/session`" + `, too: failed
  look-ups of sessions per address.
- *Body*: bytes of the largest one. A larger one is answered with 413.
- *Cost*: the longest time a request may take, and what bounds its work. ` + "`TestCostOfBodiesIsLinear`" + ` measures the cost of bodies.

| route | who | budget | body | cost |
|---|---|---|---|---|
`)
	rates := make(map[string]int64)
	for _, l := range limits() {
		rates[l.key] = l.perMinute
	}
	table = slices.Clone(table)
	slices.SortFunc(table, func(a, b route) int { return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.method, b.method)) })
	for i := range table {
		r := &table[i]
		who, budget, size := r.access(), "none", "–"
		if r.reauth != nil {
			who += "; again"
		}
		if key := r.limitKey(); key != "" {
			budget = fmt.Sprintf("`%s` %d", key, rates[key])
		}
		if r.body != nil {
			size = fmt.Sprint(r.body.limit)
		}
		fmt.Fprintf(&b, "| `%s %s` | %s | %s | %s | %s |\n", r.method, r.path, who, budget, size, r.cost())
	}
	return b.String()
}

// cost is what bounds the work of a request.
func (r *route) cost() string {
	if r.stream {
		return "open sockets per user and node"
	}
	bounds := []string{cmp.Or(r.timeout, deadline).Round(time.Second).String()}
	if r.body != nil {
		bounds = append(bounds, "linear in the body")
	}
	if slices.ContainsFunc(r.query, func(p param) bool { return p.name == "limit" }) {
		bounds = append(bounds, fmt.Sprintf("%d items", maxLimit))
	}
	if r.id == "listCalendarEvents" {
		bounds = append(bounds, "a number of steps")
	}
	return strings.Join(bounds, ", ")
}
