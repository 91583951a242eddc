package workspace_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/workspace"
)

// office is a workspace service on a database of its own.
type office struct {
	*workspace.Service
	db *pgtest.DB
	ob *outbox.Outbox
}

func open(t *testing.T) *office {
	t.Helper()
	db := pgtest.New(t)
	ob := outbox.New(db.Pool, nil)
	return &office{Service: workspace.New(ob), db: db, ob: ob}
}

// user makes someone who has signed in.
func (o *office) user(t *testing.T, email string) string {
	t.Helper()
	id := events.NewID()
	_, err := o.db.Pool.Exec(t.Context(), `INSERT INTO users (id, email, name, google_id) VALUES ($1, $2, $2, 'g-' || $2)`, id, email)
	require.NoError(t, err)
	return id
}

func by(userID string) events.Meta {
	return events.Meta{Source: "/fdc/api", ActorID: userID, UserID: userID, RequestID: "r-1", IP: "192.0.2.1", UserAgent: "test"}
}

func payloads(list []events.Event) []events.Payload {
	var p []events.Payload
	for _, ev := range list {
		p = append(p, ev.Data)
	}
	return p
}

func (o *office) requireTold(t *testing.T, want ...events.Payload) {
	t.Helper()
	require.Equal(t, want, payloads(o.db.Told(t)))
}

func (o *office) make(t *testing.T, owner string) string {
	t.Helper()
	w, err := o.Create(t.Context(), by(owner), owner, "Demo")
	require.NoError(t, err)
	o.requireTold(t, events.WorkspaceCreated{WorkspaceID: w.ID, Version: 1})
	return w.ID
}

// makeQuietly is make among other events.
func (o *office) makeQuietly(t *testing.T, owner string) string {
	t.Helper()
	w, err := o.Create(t.Context(), by(owner), owner, "Demo")
	require.NoError(t, err)
	return w.ID
}

// seat puts someone into a workspace behind the service's back.
func (o *office) seat(t *testing.T, workspaceID, userID, role string) {
	t.Helper()
	_, err := o.db.Pool.Exec(t.Context(), `
		INSERT INTO workspace_members (workspace_id, user_id, role) VALUES ($1, $2, $3)
		ON CONFLICT (workspace_id, user_id) DO UPDATE SET role = excluded.role`, workspaceID, userID, role)
	require.NoError(t, err)
}

func (o *office) version(t *testing.T, workspaceID string) (v int64) {
	t.Helper()
	require.NoError(t, o.db.Pool.QueryRow(t.Context(), `SELECT version FROM workspaces WHERE id = $1`, workspaceID).Scan(&v))
	return v
}

func requireKind(t *testing.T, want fault.Kind, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, fault.KindOf(err), "%v", err)
}

func requireFault(t *testing.T, want fault.Kind, err error) *fault.Error {
	t.Helper()
	requireKind(t, want, err)
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	return f
}

func TestCreate(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	first, err := o.Create(t.Context(), by(alice), alice, "  Demo  ")
	require.NoError(t, err)
	require.Equal(t, "Demo", first.Name)
	require.Equal(t, workspace.RoleOwner, first.Role)

	told := o.db.Told(t)
	require.Equal(t, []events.Payload{events.WorkspaceCreated{WorkspaceID: first.ID, Version: 1}}, payloads(told))
	require.Equal(t, alice, told[0].UserID)
	require.Equal(t, alice, told[0].ActorID)
	require.Equal(t, "evt.workspace.created.v1."+first.ID, told[0].NATSSubject())

	second, err := o.Create(t.Context(), by(alice), alice, strings.Repeat("界", 200))
	require.NoError(t, err)
	list, err := o.List(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, []workspace.Workspace{first, second}, list)
	o.db.Told(t)

	for _, name := range []string{"", "   ", strings.Repeat("x", 201), "a\nb", "a\x00b", "a\xffb"} {
		_, err := o.Create(t.Context(), by(alice), alice, name)
		f := requireFault(t, fault.Invalid, err)
		require.Equal(t, "/name", f.Fields[0].Pointer)
	}
	o.requireTold(t)
	list, err = o.List(t.Context(), o.user(t, "nobody@example.com"))
	require.NoError(t, err)
	require.Empty(t, list)
}

// Who may do what to whom: every role against every role.
func TestRights(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice := o.user(t, "alice@example.com")
	w := o.make(t, alice)
	actor, target := o.user(t, "actor@example.com"), o.user(t, "target@example.com")
	roles := []string{workspace.RoleOwner, workspace.RoleAdmin, workspace.RoleMember}
	may := func(actor, other string) bool { return actor == "OWNER" || actor == "ADMIN" && other != "OWNER" }
	check := func(t *testing.T, allowed bool, err error) {
		t.Helper()
		if allowed {
			require.NoError(t, err)
		} else {
			requireKind(t, fault.Forbidden, err)
		}
	}
	n := 0
	for _, a := range roles {
		for _, b := range roles {
			o.seat(t, w, actor, a)
			n++
			email := fmt.Sprintf("new%d@example.com", n)
			_, err := o.Invite(t.Context(), by(actor), actor, w, email, b)
			check(t, may(a, b), err)
			other, err := o.Invite(t.Context(), by(alice), alice, w, "other-"+email, b)
			require.NoError(t, err)
			_, err = o.Resend(t.Context(), by(actor), actor, w, other.ID)
			check(t, may(a, b), err)
			check(t, may(a, b), o.Withdraw(t.Context(), by(actor), actor, w, other.ID))

			for _, to := range roles {
				o.seat(t, w, target, b)
				_, err := o.SetRole(t.Context(), by(actor), actor, w, target, to)
				check(t, may(a, b) && may(a, to), err)
			}
			o.seat(t, w, target, b)
			check(t, may(a, b), o.RemoveMember(t.Context(), by(actor), actor, w, target))
		}
		// Everyone may read, and may leave.
		_, _, err := o.Members(t.Context(), actor, w)
		require.NoError(t, err)
		require.NoError(t, o.RemoveMember(t.Context(), by(actor), actor, w, actor))
	}
}

func TestSetRoleAndRemove(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob := o.user(t, "alice@example.com"), o.user(t, "bob@example.com")
	w := o.make(t, alice)
	o.seat(t, w, bob, workspace.RoleMember)

	m, err := o.SetRole(t.Context(), by(alice), alice, w, bob, workspace.RoleAdmin)
	require.NoError(t, err)
	require.Equal(t, workspace.RoleAdmin, m.Role)
	o.requireTold(t, events.WorkspaceMemberRoleChanged{WorkspaceID: w, Version: 2, UserID: bob, From: "MEMBER", To: "ADMIN"})

	m, err = o.SetRole(t.Context(), by(alice), alice, w, bob, workspace.RoleAdmin)
	require.NoError(t, err)
	require.Equal(t, workspace.RoleAdmin, m.Role)
	o.requireTold(t) // no change

	_, err = o.SetRole(t.Context(), by(alice), alice, w, bob, "admin")
	require.Equal(t, "/role", requireFault(t, fault.Invalid, err).Fields[0].Pointer)

	// Bob gives the role up by himself.
	_, err = o.SetRole(t.Context(), by(bob), bob, w, bob, workspace.RoleMember)
	require.NoError(t, err)
	o.requireTold(t, events.WorkspaceMemberRoleChanged{WorkspaceID: w, Version: 3, UserID: bob, From: "ADMIN", To: "MEMBER"})

	require.NoError(t, o.RemoveMember(t.Context(), by(bob), bob, w, bob))
	o.requireTold(t, events.WorkspaceMemberRemoved{WorkspaceID: w, Version: 4, UserID: bob, Reason: "left"})
	o.seat(t, w, bob, workspace.RoleMember)
	require.NoError(t, o.RemoveMember(t.Context(), by(alice), alice, w, bob))
	o.requireTold(t, events.WorkspaceMemberRemoved{WorkspaceID: w, Version: 5, UserID: bob, Reason: "removed"})

	for _, unknown := range []string{bob, events.NewID(), "", "nonsense"} {
		requireKind(t, fault.NotFound, o.RemoveMember(t.Context(), by(alice), alice, w, unknown))
		_, err = o.SetRole(t.Context(), by(alice), alice, w, unknown, workspace.RoleAdmin)
		requireKind(t, fault.NotFound, err)
	}
	o.requireTold(t)
	require.Equal(t, int64(5), o.version(t, w))
}

func TestLastOwnerStays(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob, carol := o.user(t, "alice@example.com"), o.user(t, "bob@example.com"), o.user(t, "carol@example.com")
	w := o.make(t, alice)
	o.seat(t, w, bob, workspace.RoleAdmin)
	o.seat(t, w, carol, workspace.RoleOwner)
	o.disable(t, carol, true)
	lastOwner := func(err error) {
		t.Helper()
		require.Equal(t, "last-owner", requireFault(t, fault.Conflict, err).Code)
	}

	// Carol is OWNER and can't sign in.
	lastOwner(o.RemoveMember(t.Context(), by(alice), alice, w, alice))
	_, err := o.SetRole(t.Context(), by(alice), alice, w, alice, workspace.RoleAdmin)
	lastOwner(err)
	o.requireTold(t)
	o.disable(t, carol, false)
	_, err = o.SetRole(t.Context(), by(alice), alice, w, alice, workspace.RoleAdmin)
	require.NoError(t, err)
	_, err = o.SetRole(t.Context(), by(carol), carol, w, alice, workspace.RoleOwner)
	require.NoError(t, err)
	o.disable(t, carol, true)
	require.NoError(t, o.RemoveMember(t.Context(), by(alice), alice, w, carol), "an OWNER who can't sign in may be removed")

	_, err = o.SetRole(t.Context(), by(alice), alice, w, bob, workspace.RoleOwner)
	require.NoError(t, err)
	require.NoError(t, o.RemoveMember(t.Context(), by(alice), alice, w, alice))
	list, _, err := o.Members(t.Context(), bob, w)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func (o *office) disable(t *testing.T, userID string, disabled bool) {
	t.Helper()
	_, err := o.db.Pool.Exec(t.Context(), `UPDATE users SET disabled_at = CASE WHEN $2 THEN now() END WHERE id = $1`, userID, disabled)
	require.NoError(t, err)
}

// Whatever the disabled OWNERs of a workspace are, an operator can appoint one: a member or anybody else who can sign in.
func TestAppointOwner(t *testing.T) {
	t.Parallel()
	o := open(t)
	operator := events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}
	alice, bob, eve := o.user(t, "alice@example.com"), o.user(t, "bob@example.com"), o.user(t, "eve@example.com")
	w := o.make(t, alice)
	o.seat(t, w, bob, workspace.RoleMember)
	alone, err := o.OwnedAlone(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, []string{w}, alone)
	o.disable(t, alice, true)
	before, err := o.Standing(t.Context(), w, bob)
	require.NoError(t, err)
	require.Equal(t, workspace.Standing{ID: w, Name: "Demo", Members: 2, Owners: 0, Role: "MEMBER"}, before)

	require.Equal(t, "account-disabled", requireFault(t, fault.Conflict, o.AppointOwner(t.Context(), operator, w, alice, "x")).Code)
	require.Equal(t, "bad-reason", requireFault(t, fault.Invalid, o.AppointOwner(t.Context(), operator, w, bob, "a\nb")).Code)
	requireKind(t, fault.NotFound, o.AppointOwner(t.Context(), operator, events.NewID(), bob, "x"))
	requireKind(t, fault.NotFound, o.AppointOwner(t.Context(), operator, w, events.NewID(), "x"))
	o.requireTold(t)

	require.NoError(t, o.AppointOwner(t.Context(), operator, w, bob, "Alice left"))
	o.requireTold(t,
		events.WorkspaceMemberRoleChanged{WorkspaceID: w, Version: 2, UserID: bob, From: "MEMBER", To: "OWNER"},
		events.WorkspaceOwnerAppointed{WorkspaceID: w, Version: 3, UserID: bob, Reason: "Alice left"},
	)
	require.NoError(t, o.AppointOwner(t.Context(), operator, w, bob, "again"))
	o.requireTold(t) // no change

	invited, err := o.Invite(t.Context(), by(bob), bob, w, "Eve@Example.com", workspace.RoleMember)
	require.NoError(t, err)
	o.db.Told(t)
	require.NoError(t, o.AppointOwner(t.Context(), operator, w, eve, "Bob is on leave"))
	o.requireTold(t,
		events.InvitationWithdrawn{InvitationID: invited.ID, WorkspaceID: w, Version: 2, Reason: "already_a_member"},
		events.WorkspaceMemberAdded{WorkspaceID: w, Version: 4, UserID: eve, Role: "OWNER", Status: "active"},
		events.WorkspaceOwnerAppointed{WorkspaceID: w, Version: 5, UserID: eve, Reason: "Bob is on leave"},
	)
	after, err := o.Standing(t.Context(), w, eve)
	require.NoError(t, err)
	require.Equal(t, workspace.Standing{ID: w, Name: "Demo", Members: 3, Owners: 2, Role: "OWNER"}, after)
	alone, err = o.OwnedAlone(t.Context(), bob)
	require.NoError(t, err)
	require.Empty(t, alone)
}

// Two owners let go at the same moment, in every pair of ways: one is refused.
func TestTwoOwnersCantBothGo(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, bob := o.user(t, "alice@example.com"), o.user(t, "bob@example.com")
	leave := func(ctx context.Context, w, me, _ string) error { return o.RemoveMember(ctx, by(me), me, w, me) }
	stepDown := func(ctx context.Context, w, me, _ string) error {
		_, err := o.SetRole(ctx, by(me), me, w, me, workspace.RoleMember)
		return err
	}
	oust := func(ctx context.Context, w, me, other string) error { return o.RemoveMember(ctx, by(me), me, w, other) }
	type act = func(ctx context.Context, w, me, other string) error
	for name, pair := range map[string][2]act{
		"leave": {leave, leave}, "step down": {stepDown, stepDown}, "leave and step down": {leave, stepDown}, "oust": {oust, oust},
	} {
		t.Run(name, func(t *testing.T) {
			w := o.make(t, alice)
			o.seat(t, w, bob, workspace.RoleOwner)
			// Both wait for the lock before either may go on.
			lock, err := o.db.Pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = lock.Exec(t.Context(), `SELECT FROM workspaces WHERE id = $1 FOR UPDATE`, w)
			require.NoError(t, err)
			var wg sync.WaitGroup
			errs := make([]error, 2)
			wg.Go(func() { errs[0] = pair[0](t.Context(), w, alice, bob) })
			wg.Go(func() { errs[1] = pair[1](t.Context(), w, bob, alice) })
			require.Eventually(t, func() bool {
				var waiting int
				err := o.db.Pool.QueryRow(t.Context(), `
					SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
				return err == nil && waiting == 2
			}, time.Minute, 5*time.Millisecond)
			require.NoError(t, lock.Rollback(t.Context()))
			wg.Wait()

			won := slices.Index(errs, nil)
			require.NotEqual(t, -1, won, "%v", errs)
			lost := errs[1-won]
			require.Error(t, lost)
			require.Contains(t, []fault.Kind{fault.Conflict, fault.NotFound}, fault.KindOf(lost), "%v", lost)
			var owners int
			require.NoError(t, o.db.Pool.QueryRow(t.Context(),
				`SELECT count(*) FROM workspace_members WHERE workspace_id = $1 AND role = 'OWNER'`, w).Scan(&owners))
			require.Equal(t, 1, owners)
			require.Len(t, o.db.Told(t), 1)
		})
	}
}

// To someone who isn't in it, a workspace is not there, whatever they ask.
func TestAnotherTenantsWorkspaceIsNotThere(t *testing.T) {
	t.Parallel()
	o := open(t)
	alice, eve := o.user(t, "alice@example.com"), o.user(t, "eve@example.com")
	w := o.make(t, alice)
	own := o.make(t, eve)
	invited, err := o.Invite(t.Context(), by(alice), alice, w, "bob@example.com", workspace.RoleMember)
	require.NoError(t, err)
	o.db.Told(t)
	for _, id := range []string{w, events.NewID(), "", "nonsense", strings.ToUpper(own)} {
		_, err := o.Role(t.Context(), o.db.Pool, eve, id)
		requireKind(t, fault.NotFound, err)
		_, _, err = o.Members(t.Context(), eve, id)
		requireKind(t, fault.NotFound, err)
		_, err = o.Invite(t.Context(), by(eve), eve, id, "eve@example.com", "nonsense")
		requireKind(t, fault.NotFound, err)
		_, err = o.Resend(t.Context(), by(eve), eve, id, invited.ID)
		requireKind(t, fault.NotFound, err)
		requireKind(t, fault.NotFound, o.Withdraw(t.Context(), by(eve), eve, id, invited.ID))
		_, err = o.SetRole(t.Context(), by(eve), eve, id, eve, "nonsense")
		requireKind(t, fault.NotFound, err)
		requireKind(t, fault.NotFound, o.RemoveMember(t.Context(), by(eve), eve, id, alice))
		requireKind(t, fault.NotFound, o.RemoveMember(t.Context(), by(eve), eve, id, eve))
		_, err = o.Data(t.Context(), eve, id)
		requireKind(t, fault.NotFound, err)
		_, err = o.PutData(t.Context(), by(eve), eve, id, []byte(`{}`), workspace.Expect{})
		requireKind(t, fault.NotFound, err)
		_, err = o.PatchData(t.Context(), by(eve), eve, id, []byte(`{"a":1}`), workspace.Expect{})
		requireKind(t, fault.NotFound, err)
	}
	o.requireTold(t)
	doc, err := o.Data(t.Context(), alice, w)
	require.NoError(t, err)
	require.Zero(t, doc.Version)
	require.Equal(t, int64(1), o.version(t, w))
}
