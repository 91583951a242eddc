package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/httpapi"
)

// Each role of a workspace calls each of its routes, and is refused exactly where docs/api-limits.md says so. Callers without a
// session and those of other workspaces have tests of their own, and so has the restoring of what is deleted.
func TestEveryRoleOnEveryRoute(t *testing.T) {
	t.Parallel()
	w := shared(t)
	access := httpapi.AccessInWorkspace()
	for _, role := range []string{"MEMBER", "ADMIN", "OWNER"} {
		owner, actor, third := w.signIn("alice"), w.signIn("bob"), w.signIn("carol")
		home := owner.send(http.MethodPost, "/api/workspaces", object{"name": role}).str("id")
		members := "/api/workspaces/" + home + "/members"
		owner.takeIn(actor, home)
		owner.takeIn(third, home)
		require.Equal(t, http.StatusOK, owner.send(http.MethodPut, members+"/"+actor.id(), object{"role": role}).status)
		invited := owner.send(http.MethodPost, members, object{"email": w.email("dora"), "role": "MEMBER"}).str("invitationId")
		task := owner.send(http.MethodPost, "/api/workspaces/"+home+"/tasks", object{"title": "x"}).str("id")
		actual := strings.NewReplacer("{id}", home, "{taskId}", task, "{userId}", third.id(), "{invitationId}", invited)
		tried := 0
		for _, o := range w.operations() {
			who, ok := access[o.op.ID]
			if !ok || o.op.ID == "restoreWorkspace" {
				continue
			}
			tried++
			path := actual.Replace(o.path)
			require.NotContains(t, path, "{", "operation %s: what is in its path?", o.op.ID)
			answer := actor.send(o.method, path, bodyFor(o.op.ID, actor))
			may := strings.Contains(who, "members") || strings.Contains(who, role)
			require.Equal(t, !may, answer.status == http.StatusForbidden, "%s calls %s, which is for %s: %d %s", role, o.op.ID, who, answer.status, answer.text)
		}
		require.Equal(t, len(access)-1, tried, "routes of a workspace that are not in the OpenAPI document")
	}
}
