package web_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack"
)

// age makes the sessions of an address ones that were at Google more than ten minutes ago.
func (p *person) age(at devstack.Addresses, email string) {
	p.t.Helper()
	db, err := pgx.Connect(p.t.Context(), at.Postgres)
	require.NoError(p.t, err)
	defer db.Close(p.t.Context()) //nolint:errcheck // the test's own
	_, err = db.Exec(p.t.Context(), `
		UPDATE sessions SET created_at = now() - interval '10 minutes', version = version + 1
		WHERE user_id = (SELECT id FROM users WHERE email = $1)`, email)
	require.NoError(p.t, err)
	value[bool](p, `fetch("/api/workspaces", { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"name":"x"}' })
		.then((r) => { if (!r.ok) throw new Error(r.status); return true; })`) // withdraws what is cached of them
}

// A page that is refused for want of a re-authentication takes its user to Google's account chooser and gets them back where they were.
func TestReauthenticationInABrowser(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice, email := founder(t, at, "devices")
	mallory := account(t, at.Google, "Mallory")
	alice.age(at, email)
	ask := func() string {
		t.Helper()
		return value[string](alice, fmt.Sprintf(`import(%q).then(({ api, reauthenticate }) =>
			api("/api/workspaces/" + document.querySelector("#workspace").value + "/members/%s", { method: "PUT", body: { role: "ADMIN" } })
				.catch((problem) => { reauthenticate(problem); return problem.code; }))`, assetPath(t, "client-fdc"), events.NewID()))
	}
	choose := func(email string) {
		t.Helper()
		account := fmt.Sprintf(`[...document.querySelectorAll("a")].find((a) => new URL(a.href).searchParams.get("login_hint") === %q)`, email)
		alice.holds(account, "the account chooser")
		value[bool](alice, `(setTimeout(() => `+account+`.click()), true)`)
		alice.holds(`location.href === `+quote(at.HTTP+"/#devices"), "back where the user was")
		alice.sees("#live", "Live")
	}

	require.Equal(t, "reauthentication-required", ask())
	choose(mallory)
	alice.sees("#toasts", "Confirm with the Google account")
	require.Equal(t, "reauthentication-required", ask(), "another account does not count")
	choose(email)
	require.Equal(t, "not-found", ask(), "there is no such member")
	require.Empty(t, alice.complaints())
}
