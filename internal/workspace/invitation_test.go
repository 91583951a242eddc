package workspace_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/workspace"
)

func (o *office) invite(t *testing.T, actor, workspaceID, email, role string) workspace.Invitation {
	t.Helper()
	invited, err := o.Invite(t.Context(), by(actor), actor, workspaceID, email, role)
	require.NoError(t, err)
	return invited
}

// fill runs a statement that makes many rows.
func (o *office) fill(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := o.db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// expire ends the lifetime of an invitation.
func (o *office) expire(t *testing.T, id string) {
	t.Helper()
	o.fill(t, `UPDATE invitations SET expires_at = now() WHERE id = $1`, id)
}

// Nobody is a member before accepting, and the inviter can't tell a user's address from an unknown one: neither by the
// answer, nor by the list of members, nor by the payloads of the events.
func TestNobodyIsAMemberBeforeAccepting(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob := o.user(t, "alice@example.com"), o.user(t, "Bob@Example.com")
	w := o.make(t, alice)

	known := o.invite(t, alice, w, " bob@example.COM ", workspace.RoleAdmin)
	require.Equal(t, workspace.Invitation{ID: known.ID, Email: "bob@example.COM", Role: "ADMIN", ExpiresAt: known.ExpiresAt}, known)
	require.WithinDuration(t, time.Now().AddDate(0, 0, 30), known.ExpiresAt, time.Hour)
	unknown := o.invite(t, alice, w, "rob@example.COM", workspace.RoleAdmin)
	told := o.db.Told(t)
	require.Equal(t, []events.Payload{
		events.InvitationCreated{InvitationID: known.ID, WorkspaceID: w, Version: 1, Role: "ADMIN", Email: "b***@example.COM"},
		events.InvitationCreated{InvitationID: unknown.ID, WorkspaceID: w, Version: 1, Role: "ADMIN", Email: "r***@example.COM"},
	}, payloads(told))
	require.Equal(t, "evt.invitation.created.v1."+bob, told[0].NATSSubject(), "to the invitee")
	require.Equal(t, "evt.invitation.created.v1.system", told[1].NATSSubject())
	require.Equal(t, alice, told[0].ActorID)

	members, invitations, err := o.Members(t.Context(), alice, w)
	require.NoError(t, err)
	require.Len(t, members, 1)
	require.Equal(t, []workspace.Invitation{known, unknown}, invitations)
	_, err = o.Role(t.Context(), o.db.Pool, bob, w)
	requireKind(t, fault.NotFound, err)

	received, err := o.Received(t.Context(), bob)
	require.NoError(t, err)
	require.Equal(t, []workspace.Received{{
		ID: known.ID, WorkspaceID: w, WorkspaceName: "Demo", Role: "ADMIN", InvitedBy: "alice@example.com", ExpiresAt: known.ExpiresAt,
	}}, received)
	_, err = o.Accept(t.Context(), by(bob), bob, unknown.ID)
	requireKind(t, fault.NotFound, err)

	joined, err := o.Accept(t.Context(), by(bob), bob, known.ID)
	require.NoError(t, err)
	require.Equal(t, workspace.Workspace{ID: w, Role: "ADMIN"}, joined)
	told = o.db.Told(t)
	require.Equal(t, []events.Payload{
		events.InvitationAccepted{InvitationID: known.ID, WorkspaceID: w, Version: 2, Role: "ADMIN", UserID: bob},
		events.WorkspaceMemberAdded{WorkspaceID: w, Version: 2, UserID: bob, Role: "ADMIN", Status: "active"},
	}, payloads(told))
	require.Equal(t, []string{bob, bob}, []string{told[0].UserID, told[1].UserID})
	_, err = o.Accept(t.Context(), by(bob), bob, known.ID)
	requireKind(t, fault.NotFound, err)
	members, invitations, err = o.Members(t.Context(), bob, w)
	require.NoError(t, err)
	require.Equal(t, workspace.Member{UserID: bob, Email: "Bob@Example.com", Name: "Bob@Example.com", Role: "ADMIN"}, members[1])
	require.Equal(t, []workspace.Invitation{unknown}, invitations)

	for email, code := range map[string]string{
		"bob@example.com": "already-member", "ALICE@example.com": "already-member", "Rob@Example.com": "already-invited",
	} {
		_, err := o.Invite(t.Context(), by(alice), alice, w, email, workspace.RoleOwner)
		require.Equal(t, code, requireFault(t, fault.Conflict, err).Code)
	}
	for _, email := range []string{
		"", "x", "@example.com", "a@", "Alice <a@example.com>", "a@b, c@d", "a\n@b", "a\x00@example.com", "a@\xff.com",
		strings.Repeat("x", 250) + "@example.com",
	} {
		_, err := o.Invite(t.Context(), by(alice), alice, w, email, "BOSS")
		f := requireFault(t, fault.Invalid, err)
		require.Equal(t, []string{"/email", "/role"}, []string{f.Fields[0].Pointer, f.Fields[1].Pointer}, email)
	}
	o.requireTold(t)
	require.Equal(t, int64(2), o.version(t, w))
}

// An invitation ends by being declined, withdrawn or expired, and nobody can accept it then.
func TestInvitationsEnd(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob, eve := o.user(t, "alice@example.com"), o.user(t, "bob@example.com"), o.user(t, "eve@example.com")
	w := o.make(t, alice)
	var invited workspace.Invitation
	again := func() {
		t.Helper()
		invited = o.invite(t, alice, w, "bob@example.com", workspace.RoleMember)
		o.db.Told(t)
	}
	gone := func() {
		t.Helper()
		_, err := o.Accept(t.Context(), by(bob), bob, invited.ID)
		requireKind(t, fault.NotFound, err)
		requireKind(t, fault.NotFound, o.Decline(t.Context(), by(bob), bob, invited.ID))
		_, err = o.Resend(t.Context(), by(alice), alice, w, invited.ID)
		requireKind(t, fault.NotFound, err)
		requireKind(t, fault.NotFound, o.Withdraw(t.Context(), by(alice), alice, w, invited.ID))
		list, err := o.Received(t.Context(), bob)
		require.NoError(t, err)
		require.Empty(t, list)
		_, invitations, err := o.Members(t.Context(), alice, w)
		require.NoError(t, err)
		require.Empty(t, invitations)
		o.requireTold(t)
	}

	again()
	requireKind(t, fault.NotFound, o.Decline(t.Context(), by(eve), eve, invited.ID))
	_, err := o.Accept(t.Context(), by(eve), eve, invited.ID)
	requireKind(t, fault.NotFound, err)
	require.NoError(t, o.Decline(t.Context(), by(bob), bob, invited.ID))
	told := o.db.Told(t)
	require.Equal(t, []events.Payload{events.InvitationDeclined{InvitationID: invited.ID, Version: 2, UserID: bob}}, payloads(told))
	require.Empty(t, told[0].WorkspaceID, "the workspace's log does not hold the address of somebody who declined")
	gone()

	again()
	require.NoError(t, o.Withdraw(t.Context(), by(alice), alice, w, invited.ID))
	o.requireTold(t, events.InvitationWithdrawn{InvitationID: invited.ID, WorkspaceID: w, Version: 2, Reason: "withdrawn"})
	gone()

	again()
	o.expire(t, invited.ID)
	gone()
	swept, err := o.SweepInvitations(t.Context(), events.Meta{Source: "/fdc/api", ActorID: events.SystemActor})
	require.NoError(t, err)
	require.Equal(t, 1, swept)
	o.requireTold(t, events.InvitationWithdrawn{InvitationID: invited.ID, WorkspaceID: w, Version: 2, Reason: "expired"})
	gone()

	// An expired one that is not swept yet is in nobody's way.
	again()
	o.expire(t, invited.ID)
	before := invited
	again()
	require.NotEqual(t, before.ID, invited.ID)

	o.fill(t, `UPDATE invitations SET expires_at = now() + interval '1 hour'`)
	renewed, err := o.Resend(t.Context(), by(alice), alice, w, invited.ID)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().AddDate(0, 0, 30), renewed.ExpiresAt, time.Hour)
	o.requireTold(t, events.InvitationResent{InvitationID: invited.ID, WorkspaceID: w, Version: 2})
	_, err = o.Accept(t.Context(), by(bob), bob, invited.ID)
	require.NoError(t, err)
	o.requireTold(t,
		events.InvitationAccepted{InvitationID: invited.ID, WorkspaceID: w, Version: 3, Role: "MEMBER", UserID: bob},
		events.WorkspaceMemberAdded{WorkspaceID: w, Version: 2, UserID: bob, Role: "MEMBER", Status: "active"},
	)
}

// The invitations of a member who loses the right to them end: a removed OWNER can't come back through one. Others stay.
func TestInvitationsOfWhoMayNotInviteEnd(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob, eve := o.user(t, "alice@example.com"), o.user(t, "bob@example.com"), o.user(t, "eve@example.com")
	w := o.make(t, alice)
	o.seat(t, w, bob, workspace.RoleOwner)
	asOwner := o.invite(t, bob, w, "eve@example.com", workspace.RoleOwner)
	asMember := o.invite(t, bob, w, "dave@example.com", workspace.RoleMember)
	other := o.invite(t, alice, w, "carol@example.com", workspace.RoleOwner)
	o.db.Told(t)

	_, err := o.SetRole(t.Context(), by(alice), alice, w, bob, workspace.RoleAdmin)
	require.NoError(t, err)
	o.requireTold(t,
		events.WorkspaceMemberRoleChanged{WorkspaceID: w, Version: 2, UserID: bob, From: "OWNER", To: "ADMIN"},
		events.InvitationWithdrawn{InvitationID: asOwner.ID, WorkspaceID: w, Version: 2, Reason: "inviter_left"},
	)
	_, err = o.Accept(t.Context(), by(eve), eve, asOwner.ID)
	requireKind(t, fault.NotFound, err)
	require.NoError(t, o.RemoveMember(t.Context(), by(alice), alice, w, bob))
	o.requireTold(t,
		events.WorkspaceMemberRemoved{WorkspaceID: w, Version: 3, UserID: bob, Reason: "removed"},
		events.InvitationWithdrawn{InvitationID: asMember.ID, WorkspaceID: w, Version: 2, Reason: "inviter_left"},
	)
	_, invitations, err := o.Members(t.Context(), alice, w)
	require.NoError(t, err)
	require.Equal(t, []workspace.Invitation{other}, invitations)
}

const atOnce = 6

// races runs act atOnce times at once and returns how often it succeeded; each other outcome is code.
func races(t *testing.T, code string, act func(i int) error) (done int) {
	t.Helper()
	errs := make([]error, atOnce)
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() { errs[i] = act(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err == nil {
			done++
			continue
		}
		require.Equal(t, code, requireFault(t, fault.Invalid, err).Code, "%v", err)
	}
	return done
}

// Each limit holds whatever happens at one moment.
func TestLimits(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	// workspaces are n of another user's.
	workspaces := func(n int, owner string) {
		o.fill(t, `
			WITH made AS (INSERT INTO workspaces (id, name, created_by) SELECT gen_random_uuid(), 'w', $2 FROM generate_series(1, $1::int) RETURNING id)
			INSERT INTO workspace_members (workspace_id, user_id, role) SELECT id, $2, 'OWNER' FROM made`, n, owner)
	}

	t.Run("owned workspaces", func(t *testing.T) {
		bob := o.user(t, "owner@example.com")
		workspaces(workspace.MaxOwned-2, bob)
		require.Equal(t, 2, races(t, "too-many-owned", func(int) error {
			_, err := o.Create(t.Context(), by(bob), bob, "x")
			return err
		}))
		w := o.makeQuietly(t, alice)
		invited := o.invite(t, alice, w, "owner@example.com", workspace.RoleOwner)
		_, err := o.Accept(t.Context(), by(bob), bob, invited.ID)
		require.Equal(t, "too-many-owned", requireFault(t, fault.Invalid, err).Code)
		o.seat(t, w, bob, workspace.RoleMember)
		_, err = o.SetRole(t.Context(), by(alice), alice, w, bob, workspace.RoleOwner)
		require.Equal(t, "too-many-owned", requireFault(t, fault.Invalid, err).Code)
	})
	t.Run("memberships", func(t *testing.T) {
		bob, other := o.user(t, "member@example.com"), o.user(t, "other@example.com")
		workspaces(workspace.MaxMemberships-2, other)
		o.fill(t, `INSERT INTO workspace_members (workspace_id, user_id, role) SELECT workspace_id, $1, 'MEMBER' FROM workspace_members WHERE user_id = $2`, bob, other)
		invited := make([]workspace.Invitation, atOnce)
		for i := range invited {
			invited[i] = o.invite(t, alice, o.makeQuietly(t, alice), "member@example.com", workspace.RoleMember)
		}
		require.Equal(t, 2, races(t, "too-many-memberships", func(i int) error {
			_, err := o.Accept(t.Context(), by(bob), bob, invited[i].ID)
			return err
		}))
		_, err := o.Create(t.Context(), by(bob), bob, "x")
		require.Equal(t, "too-many-memberships", requireFault(t, fault.Invalid, err).Code)
		received, err := o.Received(t.Context(), bob)
		require.NoError(t, err)
		require.Len(t, received, atOnce-2, "a refused one is still there to accept")
	})
	t.Run("members", func(t *testing.T) {
		w := o.makeQuietly(t, alice)
		o.fill(t, `
			WITH made AS (INSERT INTO users (id, email, google_id) SELECT gen_random_uuid(), 'm' || n || '@example.com', 'm' || n FROM generate_series(1, $1::int) n RETURNING id)
			INSERT INTO workspace_members (workspace_id, user_id, role) SELECT $2, id, 'MEMBER' FROM made`, workspace.MaxMembers-3, w)
		require.Equal(t, 2, races(t, "too-many-members", func(i int) error {
			_, err := o.Invite(t.Context(), by(alice), alice, w, fmt.Sprintf("full%d@example.com", i), workspace.RoleMember)
			return err
		}))
		_, invitations, err := o.Members(t.Context(), alice, w)
		require.NoError(t, err)
		for _, i := range invitations { // what is open finds room
			user := o.user(t, i.Email)
			_, err := o.Accept(t.Context(), by(user), user, i.ID)
			require.NoError(t, err)
		}
	})
	t.Run("invitations a day", func(t *testing.T) {
		w := o.makeQuietly(t, alice)
		o.fill(t, `UPDATE workspaces SET invitations_sent = $2, invitations_day = (now() AT TIME ZONE 'UTC')::date WHERE id = $1`, w, workspace.MaxInvitations-2)
		require.Equal(t, 2, races(t, "too-many-invitations", func(i int) error {
			_, err := o.Invite(t.Context(), by(alice), alice, w, fmt.Sprintf("day%d@example.com", i), workspace.RoleMember)
			return err
		}))
		_, invitations, err := o.Members(t.Context(), alice, w)
		require.NoError(t, err)
		require.Len(t, invitations, 2)
		_, err = o.Resend(t.Context(), by(alice), alice, w, invitations[0].ID)
		require.Equal(t, "too-many-invitations", requireFault(t, fault.Invalid, err).Code)
		require.NoError(t, o.Withdraw(t.Context(), by(alice), alice, w, invitations[0].ID))
		_, err = o.Invite(t.Context(), by(alice), alice, w, "more@example.com", workspace.RoleMember)
		require.Equal(t, "too-many-invitations", requireFault(t, fault.Invalid, err).Code, "withdrawing gives nothing back")
		o.fill(t, `UPDATE workspaces SET invitations_day = invitations_day - 1 WHERE id = $1`, w)
		o.invite(t, alice, w, "more@example.com", workspace.RoleMember)
	})
}

// One invitation is accepted, declined and withdrawn at one moment, over and over: one of them succeeds.
func TestAnInvitationIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob := o.user(t, "alice@example.com"), o.user(t, "bob@example.com")
	w := o.make(t, alice)
	for range 8 {
		invited := o.invite(t, alice, w, "bob@example.com", workspace.RoleMember)
		o.db.Told(t)
		errs := make([]error, 4)
		var wg sync.WaitGroup
		wg.Go(func() { _, errs[0] = o.Accept(t.Context(), by(bob), bob, invited.ID) })
		wg.Go(func() { errs[1] = o.Decline(t.Context(), by(bob), bob, invited.ID) })
		wg.Go(func() { errs[2] = o.Withdraw(t.Context(), by(alice), alice, w, invited.ID) })
		wg.Go(func() { _, errs[3] = o.Accept(t.Context(), by(bob), bob, invited.ID) })
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			requireKind(t, fault.NotFound, err)
		}
		require.Equal(t, 1, won)
		ended := 0
		for _, ev := range o.db.Told(t) {
			if ev.Aggregate() == "invitation/"+invited.ID {
				ended++
			}
		}
		require.Equal(t, 1, ended)
		o.fill(t, `DELETE FROM workspace_members WHERE user_id = $1`, bob)
	}
}
