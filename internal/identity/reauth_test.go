package identity_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/seal"
)

// A sign-in with Google counts for ten minutes, on every node and whatever token the session has by then.
func TestReauthentication(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	a, b := startNode(t, db, server, 1<<20), startNode(t, db, server, 1<<20)
	token, alice, err := a.SignIn(t.Context(), meta, person("alice"))
	require.NoError(t, err)
	_, bob, err := a.SignIn(t.Context(), meta, person("bob"))
	require.NoError(t, err)
	counts := func(token seal.Secret, want bool) {
		t.Helper()
		s, err := a.Authenticate(t.Context(), token.Reveal())
		require.NoError(t, err)
		require.Equal(t, want, s.Reauthenticated())
		b.await(t, token, "the same on the other node", func(s identity.Session, err error) bool {
			return err == nil && s.Reauthenticated() == want
		})
	}
	older := func(column string) {
		t.Helper()
		_, err := db.Pool.Exec(t.Context(), `UPDATE sessions SET `+column+` = now() - $2::interval, version = version + 1 WHERE id = $1`,
			alice.ID, identity.ReauthenticatedFor)
		require.NoError(t, err)
		require.NoError(t, a.Changed(t.Context(), alice.User.ID))
	}
	require.True(t, alice.Reauthenticated(), "a sign-in is one")
	counts(token, true)
	older("created_at")
	counts(token, false)

	db.Told(t)
	err = a.Reauthenticate(t.Context(), by(alice.User.ID), alice.ID, person("bob").GoogleID)
	requireKind(t, fault.Forbidden, err)
	require.ErrorContains(t, err, "that you are signed in with")
	require.Empty(t, db.Told(t))
	counts(token, false)

	require.NoError(t, a.Reauthenticate(t.Context(), by(alice.User.ID), alice.ID, person("alice").GoogleID))
	told := db.Told(t)
	require.Len(t, told, 1)
	require.Equal(t, events.SessionReauthenticated{SessionID: alice.ID, UserID: alice.User.ID, Version: 3}, told[0].Data)
	counts(token, true)

	// The token is replaced; the session stays what it is.
	require.NoError(t, a.SetSystemRole(t.Context(), meta, alice.User.ID, events.SystemRoleAdmin))
	fresh, err := b.Rotate(t.Context(), by(alice.User.ID), alice.ID, token.Reveal())
	require.NoError(t, err)
	counts(fresh, true)
	counts(token, true)

	older("reauthenticated_at")
	counts(fresh, false)
	require.NoError(t, a.Logout(t.Context(), by(alice.User.ID), alice.ID))
	require.Error(t, a.Reauthenticate(t.Context(), by(alice.User.ID), alice.ID, person("alice").GoogleID), "it has ended")
	require.Error(t, a.Reauthenticate(t.Context(), by(bob.User.ID), bob.ID, ""))
}
