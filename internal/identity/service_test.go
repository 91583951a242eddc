package identity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/seal"
	"fdc/internal/workspace"
)

// door is an identity service on a database of its own.
type door struct {
	*identity.Service
	db         *pgtest.DB
	workspaces *workspace.Service
}

func open(t *testing.T) *door {
	t.Helper()
	db := pgtest.New(t)
	ob := outbox.New(db.Pool, nil)
	workspaces := workspace.New(ob)
	return &door{Service: identity.New(ob, workspaces, gsync.Access{}), db: db, workspaces: workspaces}
}

func (d *door) requireTold(t *testing.T, want ...events.Payload) {
	t.Helper()
	var got []events.Payload
	for _, ev := range d.db.Told(t) {
		got = append(got, ev.Data)
	}
	require.Equal(t, want, got)
}

func (d *door) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	tag, err := d.db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
	require.NotZero(t, tag.RowsAffected(), sql)
}

func (d *door) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, d.db.Pool.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func (d *door) signIn(t *testing.T, p identity.Profile) (seal.Secret, identity.Session) {
	t.Helper()
	token, sess, err := d.SignIn(t.Context(), meta, p)
	require.NoError(t, err)
	return token, sess
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

// meta is a request that nobody is known to have made yet.
var meta = events.Meta{
	Source: "/fdc/api", ActorID: events.AnonymousActor, RequestID: "r-1", IP: "192.0.2.7", UserAgent: "Mozilla/5.0",
}

func by(userID string) events.Meta {
	m := meta
	m.ActorID, m.UserID = userID, userID
	return m
}

func person(name string) identity.Profile {
	return identity.Profile{
		GoogleID: "g-" + name, Email: name + "@example.com", Name: strings.ToUpper(name[:1]) + name[1:], EmailVerified: true,
	}
}

func TestFirstSignIn(t *testing.T) {
	t.Parallel()
	d := open(t)
	p := person("alice")
	p.Name = " Ali\x00ce\n "
	token, sess, err := d.SignIn(t.Context(), meta, p)
	require.NoError(t, err)
	require.Equal(t, identity.User{ID: sess.User.ID, Email: "alice@example.com", Name: "Alice", SystemRole: "USER"}, sess.User)
	require.Equal(t, 7*24*time.Hour, sess.ExpiresAt.Sub(sess.CreatedAt))
	require.InDelta(t, 24*time.Hour, sess.IdleExpiresAt.Sub(sess.CreatedAt), float64(time.Minute))
	require.Len(t, sess.Memberships, 1)
	w := sess.Memberships[0]
	require.Equal(t, identity.Membership{WorkspaceID: w.WorkspaceID, Name: "Alice's workspace", Role: "OWNER"}, w)

	told := d.db.Told(t)
	require.Len(t, told, 3)
	require.Equal(t, events.UserCreated{UserID: sess.User.ID, Version: 1, Email: "a***@example.com"}, told[0].Data)
	require.Equal(t, events.WorkspaceCreated{WorkspaceID: w.WorkspaceID, Version: 1}, told[1].Data)
	require.Equal(t, events.SessionCreated{SessionID: sess.ID, UserID: sess.User.ID, Version: 1, Method: "google"}, told[2].Data)
	for _, ev := range told {
		require.Equal(t, sess.User.ID, ev.ActorID, "who signs in acts")
		require.Equal(t, sess.User.ID, ev.UserID)
		require.Equal(t, "r-1", ev.RequestID)
		require.Equal(t, "192.0.2.7", ev.IP)
	}

	found, err := d.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	requireSameSession(t, sess, found)
	require.GreaterOrEqual(t, len(token.Reveal()), 43, "256 bits")
	require.Zero(t, d.count(t, `SELECT count(*) FROM sessions s WHERE position($1 in s::text) > 0 OR encode(token_hash, 'escape') = $1`, token.Reveal()))
}

func requireSameSession(t *testing.T, want, got identity.Session) {
	t.Helper()
	for _, times := range [][2]*time.Time{
		{&want.CreatedAt, &got.CreatedAt}, {&want.ExpiresAt, &got.ExpiresAt},
	} {
		require.WithinDuration(t, *times[0], *times[1], 0)
		*times[1] = *times[0]
	}
	require.WithinDuration(t, want.IdleExpiresAt, got.IdleExpiresAt, time.Minute)
	got.IdleExpiresAt = want.IdleExpiresAt
	require.Equal(t, want, got)
}

func TestLaterSignIns(t *testing.T) {
	t.Parallel()
	d := open(t)
	token1, first := d.signIn(t, person("alice"))
	d.db.Told(t)

	// The person has another address and name now, and Google's id is what counts.
	p := identity.Profile{GoogleID: "g-alice", Email: "Alice.Smith@example.org", Name: "Alice Smith", EmailVerified: true}
	token2, second := d.signIn(t, p)
	require.NotEqual(t, token1, token2)
	require.NotEqual(t, first.ID, second.ID)
	require.Equal(t, identity.User{ID: first.User.ID, Email: p.Email, Name: p.Name, SystemRole: "USER"}, second.User)
	require.Equal(t, first.Memberships, second.Memberships)
	d.requireTold(t, events.SessionCreated{SessionID: second.ID, UserID: first.User.ID, Version: 1, Method: "google"})

	// Both devices stay signed in and see the change.
	sess, err := d.Authenticate(t.Context(), token1.Reveal())
	require.NoError(t, err)
	require.Equal(t, second.User, sess.User)

	// An address that isn't verified is not taken over, a name that is missing neither; the case of letters is.
	p.Email, p.Name, p.EmailVerified = "ceo@example.com", "", false
	_, third := d.signIn(t, p)
	require.Equal(t, second.User, third.User)
	p.Email, p.EmailVerified = "alice.smith@example.org", true
	_, fourth := d.signIn(t, p)
	require.Equal(t, "alice.smith@example.org", fourth.User.Email)
	require.Equal(t, "Alice Smith", fourth.User.Name)
	require.Equal(t, 1, d.count(t, `SELECT count(*) FROM workspaces`))
}

// join makes a guest a member, who accepts an invitation.
func join(t *testing.T, workspaces *workspace.Service, owner identity.User, workspaceID string, guest identity.User, role string) {
	t.Helper()
	invitation, err := workspaces.Invite(t.Context(), by(owner.ID), owner.ID, workspaceID, guest.Email, role)
	require.NoError(t, err)
	_, err = workspaces.Accept(t.Context(), by(guest.ID), guest.ID, invitation.ID)
	require.NoError(t, err)
}

// A sign-in accepts no invitation, neither the first one nor one with a new address. It makes the invitation the user's to
// answer, if Google has verified the address.
func TestASignInAcceptsNothing(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, alice := d.signIn(t, person("alice"))
	w := alice.Memberships[0].WorkspaceID
	invite := func(email string) {
		t.Helper()
		_, err := d.workspaces.Invite(t.Context(), by(alice.User.ID), alice.User.ID, w, email, "MEMBER")
		require.NoError(t, err)
	}
	received := func(userID string) int {
		t.Helper()
		list, err := d.workspaces.Received(t.Context(), userID)
		require.NoError(t, err)
		return len(list)
	}
	invite("Bob@Example.com")
	_, bob := d.signIn(t, person("bob"))
	require.Len(t, bob.Memberships, 1, "the own workspace only")
	require.Equal(t, 1, received(bob.User.ID))

	invite("robert@example.com")
	p := person("bob")
	p.Email, p.EmailVerified = "robert@example.com", false
	_, again := d.signIn(t, p)
	require.Equal(t, "bob@example.com", again.User.Email)
	require.Equal(t, 1, received(bob.User.ID), "Google has not verified the new address")
	p.EmailVerified = true
	_, again = d.signIn(t, p)
	require.Equal(t, bob.User.ID, again.User.ID)
	require.Len(t, again.Memberships, 1)
	require.Equal(t, 1, received(bob.User.ID), "that of the new address; the old one is not the user's any more")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	d := open(t)
	token, alice := d.signIn(t, person("alice"))
	d.db.Told(t)

	// Another account with the same address, proved or not, is another person.
	p := person("alice")
	p.GoogleID = "g-other"
	_, _, err := d.SignIn(t.Context(), meta, p)
	require.Equal(t, "email-taken", requireFault(t, fault.Forbidden, err).Code)
	d.requireTold(t, events.AuthLoginFailed{Reason: "email_taken", Email: "a***@example.com"})

	// Someone known whose new address is another's keeps the old one.
	_, bob := d.signIn(t, person("bob"))
	p = person("bob")
	p.Email = "ALICE@example.com"
	_, again := d.signIn(t, p)
	require.Equal(t, bob.User, again.User)
	d.db.Told(t)

	d.exec(t, `UPDATE users SET disabled_at = now() WHERE id = $1`, alice.User.ID)
	_, err = d.Authenticate(t.Context(), token.Reveal())
	requireKind(t, fault.Unauthenticated, err)
	_, _, err = d.SignIn(t.Context(), meta, person("alice"))
	require.Equal(t, "account-disabled", requireFault(t, fault.Forbidden, err).Code)
	told := d.db.Told(t)
	require.Len(t, told, 1)
	require.Equal(t, events.AuthLoginFailed{Reason: "account_disabled", Email: "a***@example.com"}, told[0].Data)
	require.Equal(t, events.AnonymousActor, told[0].ActorID)
	require.Equal(t, "evt.auth.login_failed.v1.system", told[0].NATSSubject())

	for _, p := range []identity.Profile{
		{GoogleID: "", Email: "x@example.com", EmailVerified: true},
		{GoogleID: "g\x00", Email: "x@example.com", EmailVerified: true},
		{GoogleID: "g", Email: "", EmailVerified: true},
		{GoogleID: "g", Email: "nobody", EmailVerified: true},
		{GoogleID: "g", Email: "X <x@example.com>", EmailVerified: true},
		{GoogleID: "g", Email: strings.Repeat("x", 250) + "@example.com", EmailVerified: true},
	} {
		_, _, err := d.SignIn(t.Context(), meta, p)
		requireKind(t, fault.Invalid, err)
	}
	d.requireTold(t)
	require.Equal(t, 2, d.count(t, `SELECT count(*) FROM users`))
}

// The first workspace needs a name whatever the profile says.
func TestWorkspaceNames(t *testing.T) {
	t.Parallel()
	d := open(t)
	for i, c := range []struct{ name, want string }{
		{"", "u0's workspace"},
		{" \n\x7f", "u1's workspace"},
		{"山田 太郎", "山田 太郎's workspace"},
		{strings.Repeat("界", 500), strings.Repeat("界", 180) + "'s workspace"},
	} {
		p := person(fmt.Sprintf("u%d", i))
		p.Name = c.name
		_, sess := d.signIn(t, p)
		require.Equal(t, c.want, sess.Memberships[0].Name)
	}
}

// One person, several devices, all at once for the first time: one user, one workspace.
func TestConcurrentFirstSignIns(t *testing.T) {
	t.Parallel()
	d := open(t)
	const devices = 4
	for round := range 4 {
		p := person(fmt.Sprintf("user%d", round))
		d.db.Told(t)
		sessions := make([]identity.Session, devices)
		errs := make([]error, devices)
		var wg sync.WaitGroup
		for i := range devices {
			wg.Go(func() { _, sessions[i], errs[i] = d.SignIn(t.Context(), meta, p) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		for _, sess := range sessions {
			require.Equal(t, sessions[0].User, sess.User)
			require.Equal(t, sessions[0].Memberships, sess.Memberships)
			require.Len(t, sess.Memberships, 1)
		}
		told := map[string]int{}
		for _, ev := range d.db.Told(t) {
			told[ev.Action()]++
		}
		require.Equal(t, map[string]int{"user.created": 1, "workspace.created": 1, "session.created": devices}, told)
	}
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	d := open(t)
	token, sess := d.signIn(t, person("alice"))
	other, _ := d.signIn(t, person("bob"))
	for _, token := range []string{
		"", "x", token.Reveal() + "A", token.Reveal()[1:], strings.ToUpper(token.Reveal()), other.Reveal()[:20] + token.Reveal()[20:],
		sess.ID, strings.Repeat("A", 43), strings.Repeat("A", 1<<20), token.Reveal() + "\n", "' OR 1=1 --",
	} {
		_, err := d.Authenticate(t.Context(), token)
		requireKind(t, fault.Unauthenticated, err)
	}

	// Memberships are those of this moment.
	_, err := d.workspaces.Create(t.Context(), by(sess.User.ID), sess.User.ID, `"quoted" \ ✓`)
	require.NoError(t, err)
	found, err := d.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	require.Len(t, found.Memberships, 2)
	require.Equal(t, `"quoted" \ ✓`, found.Memberships[1].Name)
	d.exec(t, `DELETE FROM workspace_members WHERE user_id = $1`, sess.User.ID)
	found, err = d.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	require.Empty(t, found.Memberships)
}

func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	d := open(t)
	lastSeen := func(id string) (at time.Time) {
		require.NoError(t, d.db.Pool.QueryRow(t.Context(), `SELECT last_seen_at FROM sessions WHERE id = $1`, id).Scan(&at))
		return at
	}
	aged := func(t *testing.T, created, seen time.Duration) (seal.Secret, identity.Session) {
		t.Helper()
		token, sess := d.signIn(t, person("alice"))
		d.exec(t, `
			UPDATE sessions SET created_at = now() - $2::interval, expires_at = now() - $2::interval + interval '7 days', last_seen_at = now() - $3::interval
			WHERE id = $1`, sess.ID, created, seen)
		return token, sess
	}
	seen := func(token seal.Secret) identity.Session {
		found, err := d.Authenticate(t.Context(), token.Reveal())
		require.NoError(t, err)
		require.NoError(t, d.NoteSeen(t.Context()))
		return found
	}
	const minute, hour, day = time.Minute, time.Hour, 24 * time.Hour

	t.Run("a minute is not noted", func(t *testing.T) {
		token, sess := aged(t, hour, minute/2)
		before := lastSeen(sess.ID)
		found := seen(token)
		require.Equal(t, before, lastSeen(sess.ID))
		require.WithinDuration(t, before.Add(day), found.IdleExpiresAt, 2*minute)
	})
	t.Run("more than a minute is", func(t *testing.T) {
		token, sess := aged(t, day, day-minute)
		found := seen(token)
		noted := lastSeen(sess.ID)
		require.WithinDuration(t, time.Now(), noted, minute)
		require.WithinDuration(t, noted.Add(day), found.IdleExpiresAt, minute)
		seen(token)
		require.Equal(t, noted, lastSeen(sess.ID))
	})
	t.Run("idle", func(t *testing.T) {
		token, _ := aged(t, 2*day, day+time.Second)
		_, err := d.Authenticate(t.Context(), token.Reveal())
		requireKind(t, fault.Unauthenticated, err)
	})
	t.Run("nearly a week old", func(t *testing.T) {
		token, _ := aged(t, 7*day-minute, 2*time.Second)
		found, err := d.Authenticate(t.Context(), token.Reveal())
		require.NoError(t, err)
		require.Equal(t, found.ExpiresAt, found.IdleExpiresAt, "idleness does not outlive the session")
	})
	t.Run("a week old", func(t *testing.T) {
		token, _ := aged(t, 7*day+time.Second, 2*time.Second)
		_, err := d.Authenticate(t.Context(), token.Reveal())
		requireKind(t, fault.Unauthenticated, err)
	})
}

func TestDevices(t *testing.T) {
	t.Parallel()
	d := open(t)
	m := meta
	m.UserAgent, m.IP = "curl/8 \xff\x01"+strings.Repeat("x", 600), "2001:db8::1"
	token1, first, err := d.SignIn(t.Context(), m, person("alice"))
	require.NoError(t, err)
	token2, second := d.signIn(t, person("alice"))
	token3, third := d.signIn(t, person("alice"))
	tokenBob, bob := d.signIn(t, person("bob"))
	d.db.Told(t)
	alice := first.User.ID
	ids := func() []string {
		list, err := d.Sessions(t.Context(), alice)
		require.NoError(t, err)
		var ids []string
		for _, device := range list {
			ids = append(ids, device.ID)
		}
		return ids
	}
	alive := func(token seal.Secret) bool {
		_, err := d.Authenticate(t.Context(), token.Reveal())
		if err != nil {
			requireKind(t, fault.Unauthenticated, err)
		}
		return err == nil
	}

	list, err := d.Sessions(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, []string{third.ID, second.ID, first.ID}, ids())
	require.Equal(t, "192.0.2.7", list[0].IP)
	require.Equal(t, "Mozilla/5.0", list[0].UserAgent)
	require.Equal(t, "2001:db8::1", list[2].IP)
	require.True(t, strings.HasPrefix(list[2].UserAgent, "curl/8 xxx"), "what Postgres can't hold is dropped")
	require.WithinDuration(t, first.ExpiresAt, list[2].ExpiresAt, 0)
	require.WithinDuration(t, first.CreatedAt, list[2].LastSeenAt, 0)

	// Another's session is not there, nor is nonsense.
	for _, id := range []string{bob.ID, events.NewID(), "", "nonsense"} {
		requireKind(t, fault.NotFound, d.Revoke(t.Context(), by(alice), alice, id))
	}
	d.requireTold(t)
	require.True(t, alive(tokenBob))

	// Ending twice is ending once.
	for range 2 {
		require.NoError(t, d.Revoke(t.Context(), by(alice), alice, second.ID))
	}
	told := d.db.Told(t)
	require.Len(t, told, 1)
	require.Equal(t, events.SessionRevoked{SessionID: second.ID, UserID: alice, Version: 2, Reason: "revoked"}, told[0].Data)
	require.Equal(t, alice, told[0].ActorID)
	require.Equal(t, "evt.session.revoked.v1."+alice, told[0].NATSSubject())
	require.Equal(t, []string{third.ID, first.ID}, ids())
	require.False(t, alive(token2))
	require.True(t, alive(token1))

	_, fourth := d.signIn(t, person("alice"))
	d.db.Told(t)
	for range 2 {
		require.NoError(t, d.RevokeOthers(t.Context(), by(alice), alice, third.ID))
	}
	var ended []events.Payload
	for _, ev := range d.db.Told(t) {
		ended = append(ended, ev.Data)
	}
	require.ElementsMatch(t, []events.Payload{
		events.SessionRevoked{SessionID: first.ID, UserID: alice, Version: 2, Reason: "revoked_others"},
		events.SessionRevoked{SessionID: fourth.ID, UserID: alice, Version: 2, Reason: "revoked_others"},
	}, ended)
	require.Equal(t, []string{third.ID}, ids())
	require.False(t, alive(token1))
	require.True(t, alive(tokenBob))

	for range 2 {
		require.NoError(t, d.Logout(t.Context(), by(alice), third.ID))
	}
	require.NoError(t, d.Logout(t.Context(), by(alice), events.NewID()))
	require.NoError(t, d.Logout(t.Context(), by(alice), "nonsense"))
	d.requireTold(t, events.SessionRevoked{SessionID: third.ID, UserID: alice, Version: 2, Reason: "logout"})
	require.False(t, alive(token3))
	require.Empty(t, ids())
}

// Devices that end each other at the same moment, over and over.
func TestDevicesEndEachOther(t *testing.T) {
	t.Parallel()
	d := open(t)
	for range 5 {
		var sessions []identity.Session
		for range 6 {
			_, sess := d.signIn(t, person("alice"))
			sessions = append(sessions, sess)
		}
		d.db.Told(t)
		alice := sessions[0].User.ID
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range 3 {
			wg.Go(func() { errs[i] = d.RevokeOthers(t.Context(), by(alice), alice, sessions[i].ID) })
		}
		wg.Go(func() { errs[3] = d.Logout(t.Context(), by(alice), sessions[1].ID) })
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		ended := map[string]bool{}
		for _, ev := range d.db.Told(t) {
			require.False(t, ended[ev.Subject], "told twice")
			require.Equal(t, int64(2), ev.Version())
			ended[ev.Subject] = true
		}
		left, err := d.Sessions(t.Context(), alice)
		require.NoError(t, err)
		require.Len(t, sessions, len(ended)+len(left))
		require.LessOrEqual(t, len(left), 1)
		require.NoError(t, d.RevokeOthers(t.Context(), by(alice), alice, ""))
		require.Len(t, d.db.Told(t), len(left))
		left, err = d.Sessions(t.Context(), alice)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func TestSystemRole(t *testing.T) {
	t.Parallel()
	d := open(t)
	token, sess := d.signIn(t, person("alice"))
	d.db.Told(t)
	system := events.Meta{Source: "/fdc/seed", ActorID: events.SystemActor}
	for range 2 {
		require.NoError(t, d.SetSystemRole(t.Context(), system, sess.User.ID, "SA"))
	}
	d.requireTold(t, events.UserRoleChanged{UserID: sess.User.ID, Version: 3, From: "USER", To: "SA"})
	found, err := d.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	require.Equal(t, "SA", found.User.SystemRole)
	_, again := d.signIn(t, person("alice"))
	require.Equal(t, "SA", again.User.SystemRole)
	d.db.Told(t)

	requireKind(t, fault.Invalid, d.SetSystemRole(t.Context(), system, sess.User.ID, "ROOT"))
	requireKind(t, fault.NotFound, d.SetSystemRole(t.Context(), system, events.NewID(), "SA"))
	requireKind(t, fault.NotFound, d.SetSystemRole(t.Context(), system, "nonsense", "SA"))
	d.requireTold(t)
}

func TestRecords(t *testing.T) {
	t.Parallel()
	d := open(t)
	anonymous := meta
	anonymous.ActorID = ""
	require.NoError(t, d.LoginFailed(t.Context(), anonymous, identity.FailedState))
	require.NoError(t, d.AccessDenied(t.Context(), meta, "POST", "/api/workspaces/:id/members/{userId}", identity.DeniedRole))
	require.NoError(t, d.AccessDenied(t.Context(), meta, strings.Repeat("X", 500), "", identity.DeniedCSRF))
	told := d.db.Told(t)
	require.Len(t, told, 3)
	require.Equal(t, events.AuthLoginFailed{Reason: "state_mismatch"}, told[0].Data)
	require.Equal(t, events.AnonymousActor, told[0].ActorID)
	require.Equal(t, events.AccessDenied{Method: "POST", Route: "/api/workspaces/:id/members/{userId}", Reason: "role"}, told[1].Data)
	require.Equal(t, "/api/workspaces/:id/members/userId", told[1].Subject)
	require.Equal(t, events.AccessDenied{Method: strings.Repeat("X", 32), Route: "unknown", Reason: "csrf"}, told[2].Data)
	require.Error(t, d.LoginFailed(t.Context(), meta, "Not A Word"))
}

// A sign-in that can't finish leaves nothing behind.
func TestSignInIsOneTransaction(t *testing.T) {
	t.Parallel()
	d := open(t)
	broken := identity.New(outbox.New(d.db.Pool, nil), brokenMaker{}, gsync.Access{})
	_, _, err := broken.SignIn(t.Context(), meta, person("bob"))
	require.ErrorIs(t, err, errBroken)
	d.requireTold(t)
	require.Zero(t, d.count(t, `SELECT count(*) FROM users`))
	require.Zero(t, d.count(t, `SELECT count(*) FROM sessions`))
}

var errBroken = errors.New("broken")

type brokenMaker struct{}

func (brokenMaker) LeaveAllTx(context.Context, pgx.Tx, events.Meta, string) error { return errBroken }

func (brokenMaker) CreateTx(context.Context, pgx.Tx, events.Meta, string, string) (string, error) {
	return "", errBroken
}

func TestOperatorsFindAndEndSessions(t *testing.T) {
	t.Parallel()
	d := open(t)
	token, first := d.signIn(t, person("alice"))
	_, second := d.signIn(t, person("alice"))
	_, other := d.signIn(t, person("bob"))
	d.db.Told(t)

	account, err := d.AccountByEmail(t.Context(), "Alice@Example.COM")
	require.NoError(t, err)
	require.Equal(t, identity.Account{User: first.User}, account)
	_, err = d.AccountByEmail(t.Context(), "nobody@example.com")
	requireKind(t, fault.NotFound, err)
	user, err := d.SessionUser(t.Context(), second.ID)
	require.NoError(t, err)
	require.Equal(t, first.User, user)
	for _, id := range []string{events.NewID(), "x", ""} {
		_, err = d.SessionUser(t.Context(), id)
		requireKind(t, fault.NotFound, err)
	}

	operator := events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}
	ids, err := d.RevokeAll(t.Context(), operator, user.ID)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{first.ID, second.ID}, ids)
	for _, ev := range d.db.Told(t) {
		require.Equal(t, events.RevokedByUser, ev.Data.(events.SessionRevoked).Reason) //nolint:forcetypeassert // nothing else happened
		require.Equal(t, events.OperatorActor, ev.ActorID)
		require.Equal(t, user.ID, ev.UserID)
	}
	_, err = d.Authenticate(t.Context(), token.Reveal())
	requireKind(t, fault.Unauthenticated, err)
	_, err = d.SessionUser(t.Context(), first.ID)
	requireKind(t, fault.NotFound, err)
	_, err = d.SessionUser(t.Context(), other.ID)
	require.NoError(t, err, "others' sessions stay")

	ids, err = d.RevokeAll(t.Context(), operator, user.ID)
	require.NoError(t, err)
	require.Empty(t, ids)
	d.requireTold(t)
}
