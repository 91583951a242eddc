package workspace_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/workspace"
)

// A deletion and a restoration state each membership that ends and begins, under versions without a gap.
func TestDeleteAndRestoreAreStated(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob := o.user(t, "alice@example.com"), o.user(t, "bob@example.com")
	w := o.make(t, alice)
	o.fill(t, `INSERT INTO workspace_members (workspace_id, user_id, role) VALUES ($1, $2, 'MEMBER')`, w, bob)
	members, err := o.Delete(t.Context(), by(alice), alice, w, "Demo")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{alice, bob}, members)
	told := payloads(o.db.Told(t))
	deleted := told[0].(events.WorkspaceDeleted) //nolint:forcetypeassert // else the test has failed
	require.WithinDuration(t, time.Now().Add(30*24*time.Hour), deleted.PurgeAt, time.Hour)
	gone := func(version int64, userID string) events.Payload {
		return events.WorkspaceMemberRemoved{WorkspaceID: w, Version: version, UserID: userID, Reason: events.MemberWorkspaceDeleted}
	}
	require.Equal(t, []events.Payload{
		events.WorkspaceDeleted{WorkspaceID: w, Version: 2, PurgeAt: deleted.PurgeAt}, gone(3, alice), gone(4, bob),
	}, told)
	_, _, err = o.Restore(t.Context(), by(bob), bob, w)
	requireKind(t, fault.Forbidden, err)
	_, _, err = o.Restore(t.Context(), by(alice), alice, w)
	require.NoError(t, err)
	back := func(version int64, userID, role string) events.Payload {
		return events.WorkspaceMemberAdded{WorkspaceID: w, Version: version, UserID: userID, Role: role, Status: events.MemberActive}
	}
	o.requireTold(t,
		events.WorkspaceRestored{WorkspaceID: w, Version: 5}, events.WorkspaceDataUpdated{WorkspaceID: w, Version: 1, Bytes: 2},
		back(6, alice, "OWNER"), back(7, bob, "MEMBER"),
	)
}

// After 30 days a deleted workspace can't be restored, and nothing of it is left. A live one stays.
func TestPurge(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	w, other := o.make(t, alice), o.make(t, alice)
	o.fill(t, `INSERT INTO tasks (id, workspace_id, title) SELECT gen_random_uuid(), $1, 'x' FROM generate_series(1, 1500)`, w)
	_, err := o.Delete(t.Context(), by(alice), alice, w, "Demo")
	require.NoError(t, err)
	more, err := o.Purge(t.Context())
	require.NoError(t, err)
	require.False(t, more, "it can still be restored")
	o.fill(t, `UPDATE workspaces SET purge_at = now() WHERE id = $1`, w)
	list, err := o.Deleted(t.Context(), alice)
	require.NoError(t, err)
	require.Empty(t, list)
	_, _, err = o.Restore(t.Context(), by(alice), alice, w)
	requireKind(t, fault.NotFound, err)
	for more = true; more; {
		more, err = o.Purge(t.Context())
		require.NoError(t, err)
	}
	var left int
	require.NoError(t, o.db.Pool.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM workspaces WHERE id <> $1) + (SELECT count(*) FROM former_members)
			+ (SELECT count(*) FROM workspace_data WHERE workspace_id <> $1)`, other).Scan(&left))
	require.Zero(t, left)
	require.Equal(t, workspace.RoleOwner, mustRole(t, o, alice, other))
}

func mustRole(t *testing.T, o *office, userID, workspaceID string) string {
	t.Helper()
	role, err := o.Role(t.Context(), o.db.Pool, userID, workspaceID)
	require.NoError(t, err)
	return role
}
