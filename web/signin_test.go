package web_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
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
	defer db.Close(p.t.Context())
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

// A page of another site that sends its visitor to the sign-in gets a page with a button, which nobody has pressed yet.
func TestAnotherSiteSignsNobodyIn(t *testing.T) {
	t.Parallel()
	at := stack(t)
	email := account(t, at.Google, "Alice")
	login := at.HTTP + "/api/auth/login?redirect=/%23tasks&login_hint=" + url.QueryEscape(email)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<a href="`+strings.ReplaceAll(login, "&", "&amp;")+`">Win a prize</a>`) // the browser may have gone
	}))
	t.Cleanup(other.Close)
	alice := visit(t, at.HTTP)
	alice.do("another site", navigate(strings.Replace(other.URL, "127.0.0.1", "localhost", 1)))
	value[bool](alice, `(setTimeout(() => document.querySelector("a").click()), true)`)
	alice.sees(".welcome", "Another page has sent you here")
	require.Equal(t, 401, value[int](alice, `fetch("/api/auth/session").then(r => r.status)`))
	require.NotEqual(t, "rgba(0, 0, 0, 0)", value[string](alice, `getComputedStyle(document.querySelector("a.primary")).backgroundColor`), "in the console's dress")
	alice.click("a.primary")
	alice.sees("#live", "Live")
	require.Equal(t, email, value[string](alice, `fetch("/api/auth/session").then(r => r.json()).then(s => s.user.email)`))
	require.Empty(t, alice.complaints())
}

// What the console has stored goes with the session, whether the console or the browser has to do it.
func TestSignOutLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	alice, email := founder(t, stack(t), "tasks")
	const left = `Object.keys(localStorage).concat(Object.keys(sessionStorage)).sort().join()`
	const fill = `(localStorage.setItem("workspace", "x"), localStorage.setItem("syncs-x", "[]"), sessionStorage.setItem("y", "z"), localStorage.setItem("language", "en"), true)`
	value[bool](alice, fill)
	alice.press("Sign out")
	alice.sees(".welcome", "Sign in with Google")
	require.Contains(t, []string{"", "language"}, value[string](alice, left), "the header may come first")

	alice.signIn(email, "tasks")
	value[bool](alice, fill)
	require.Equal(t, 204, value[int](alice, `fetch("/api/auth/logout", { method: "POST" }).then(r => r.status)`))
	alice.holds(`!localStorage.getItem("workspace") && !localStorage.getItem("syncs-x")`, "the browser's, by Clear-Site-Data")

	// A session that is ended elsewhere takes it along as well.
	alice.signIn(email, "tasks")
	value[bool](alice, fill)
	elsewhere := visit(t, alice.base)
	elsewhere.signIn(email, "devices")
	value[int](elsewhere, `fetch("/api/auth/sessions", { method: "DELETE" }).then(r => r.status)`)
	alice.sees(".notice", "Your session has ended")
	require.Equal(t, "language", value[string](alice, left))
}
