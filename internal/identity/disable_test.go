package identity_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
)

func TestDisabledUsers(t *testing.T) {
	t.Parallel()
	d := open(t)
	phone, first := d.signIn(t, person("alice"))
	laptop, second := d.signIn(t, person("alice"))
	bystander, _ := d.signIn(t, person("bob"))
	alice := first.User.ID
	operator := events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}
	account := func() identity.Account {
		t.Helper()
		a, err := d.AccountByEmail(t.Context(), "ALICE@example.com")
		require.NoError(t, err)
		return a
	}
	require.Equal(t, identity.Account{User: first.User}, account())
	d.db.Told(t)

	for _, reason := range []string{"", "two\nlines"} {
		_, err := d.Disable(t.Context(), operator, alice, reason)
		requireKind(t, fault.Invalid, err)
	}
	d.requireTold(t)
	ids, err := d.Disable(t.Context(), operator, alice, "has left")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{first.ID, second.ID}, ids)
	ids, err = d.Disable(t.Context(), operator, alice, "has left, really")
	require.NoError(t, err)
	require.Empty(t, ids)
	told := d.db.Told(t)
	require.Len(t, told, 3)
	disabled := told[0].Data.(events.UserDisabled) //nolint:forcetypeassert // else the test has failed
	require.Equal(t, events.UserDisabled{UserID: alice, Version: disabled.Version, Reason: "has left"}, disabled)
	for _, ev := range told[1:] {
		require.Equal(t, events.RevokedDisabled, ev.Data.(events.SessionRevoked).Reason) //nolint:forcetypeassert // else the test has failed
		require.Equal(t, events.OperatorActor, ev.ActorID)
	}
	require.True(t, account().Disabled)
	gone := func() {
		t.Helper()
		_, err := d.Authenticate(t.Context(), phone.Reveal())
		requireKind(t, fault.Unauthenticated, err)
		_, err = d.Authenticate(t.Context(), laptop.Reveal())
		requireKind(t, fault.Unauthenticated, err)
	}
	gone()
	_, err = d.Authenticate(t.Context(), bystander.Reveal())
	require.NoError(t, err)
	_, _, err = d.SignIn(t.Context(), meta, person("alice"))
	require.Equal(t, "account-disabled", requireFault(t, fault.Forbidden, err).Code)
	d.db.Told(t)

	requireKind(t, fault.Invalid, d.Enable(t.Context(), operator, alice, ""))
	for range 2 {
		require.NoError(t, d.Enable(t.Context(), operator, alice, "is back"))
	}
	d.requireTold(t, events.UserEnabled{UserID: alice, Version: disabled.Version + 1, Reason: "is back"})
	gone()
	d.signIn(t, person("alice"))

	for _, id := range []string{events.NewID(), "nonsense"} {
		_, err = d.Disable(t.Context(), operator, id, "x")
		requireKind(t, fault.NotFound, err)
		requireKind(t, fault.NotFound, d.Enable(t.Context(), operator, id, "x"))
	}
	_, err = d.AccountByEmail(t.Context(), "nobody@example.com")
	requireKind(t, fault.NotFound, err)
}

// However operators go, and at whatever moment, one who can sign in is left.
func TestAnOperatorIsLeft(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, alice := d.signIn(t, person("alice"))
	_, bob := d.signIn(t, person("bob"))
	promote := func(who identity.Session) {
		t.Helper()
		require.NoError(t, d.SetSystemRole(t.Context(), meta, who.User.ID, events.SystemRoleAdmin))
	}
	promote(alice)
	lastOperator := func(err error) {
		t.Helper()
		require.Equal(t, "last-operator", requireFault(t, fault.Conflict, err).Code)
	}
	_, err := d.Disable(t.Context(), meta, alice.User.ID, "x")
	lastOperator(err)
	lastOperator(d.SetSystemRole(t.Context(), meta, alice.User.ID, events.SystemRoleUser))

	for range 5 {
		promote(alice)
		promote(bob)
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { _, errs[0] = d.Disable(t.Context(), meta, alice.User.ID, "x") })
		wg.Go(func() { errs[1] = d.SetSystemRole(t.Context(), meta, bob.User.ID, events.SystemRoleUser) })
		wg.Wait()
		require.Equal(t, 1, d.count(t, `SELECT count(*) FROM users WHERE system_role = 'SA' AND disabled_at IS NULL`))
		if errs[0] == nil {
			lastOperator(errs[1])
			require.NoError(t, d.Enable(t.Context(), meta, alice.User.ID, "x"))
		} else {
			lastOperator(errs[0])
			require.NoError(t, errs[1])
		}
	}
}
