package httpapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// age makes the visitor's session one that was at Google more than ten minutes ago.
func (v *visitor) age() {
	v.t.Helper()
	id := v.get("/api/auth/session").str("session", "id")
	_, err := v.db.Pool.Exec(v.t.Context(), `
		UPDATE sessions SET created_at = now() - interval '10 minutes', reauthenticated_at = NULL, version = version + 1 WHERE id = $1`, id)
	require.NoError(v.t, err)
	require.NoError(v.t, v.identity.Changed(v.t.Context(), v.id()))
}

func TestWhatNeedsAReauthentication(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	members := "/api/workspaces/" + alice.home() + "/members"
	alice.takeIn(bob, alice.home())
	promote := func() *result { return alice.send(http.MethodPut, members+"/"+bob.id(), object{"role": "ADMIN"}) }
	require.Equal(t, http.StatusOK, promote().status, "the sign-in was a moment ago")

	alice.age()
	refused := promote()
	require.Equal(t, http.StatusForbidden, refused.status)
	require.Equal(t, "reauthentication-required", refused.code())
	require.Equal(t, "/api/auth/login?reauthenticate=true&redirect=%2F", refused.str("loginUrl"))
	require.NotEqual(t, "reauthentication-required", alice.send(http.MethodPut, members+"/"+alice.id(), object{"role": "MEMBER"}).code(), "one's own role")
	require.Equal(t, "reauthentication-required", alice.get("/api/google/connect?switch=true&redirect=/p").code())
	require.Equal(t, http.StatusFound, alice.get("/api/google/connect").status, "the same account as before")

	// A browser that navigates gets a page with the way on.
	page := alice.get("/api/google/connect?switch=true&redirect=/p", "Accept", "text/html,application/xhtml+xml")
	require.Equal(t, http.StatusForbidden, page.status)
	require.Contains(t, page.text, `href="/api/auth/login?reauthenticate=true&amp;redirect=%2Fapi%2Fgoogle%2Fconnect%3Fswitch%3Dtrue%26redirect%3D%2Fp"`)
	require.Empty(t, w.facts("access.denied"), "it is a question, no refusal of a right")
}

func TestReauthentication(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	before, token := alice.get("/api/auth/session").str("session", "id"), alice.cookie()
	needed := func() bool { return alice.get("/api/google/connect?switch=true").status == http.StatusForbidden }
	begin := func(account string) (callback string) {
		start := alice.get("/api/auth/login?reauthenticate=true&redirect=/%23members")
		require.Equal(t, http.StatusFound, start.status, start.text)
		to, err := url.Parse(start.header.Get("Location"))
		require.NoError(t, err)
		require.Equal(t, "select_account", to.Query().Get("prompt"))
		require.Empty(t, to.Query().Get("login_hint"), "a hint could save the user the account chooser")
		return alice.consent(to.String() + "&login_hint=" + url.QueryEscape(account))
	}

	for name, test := range map[string]struct {
		back func() *result
		to   string // where it leads
		done bool
	}{
		"another account": {func() *result { return alice.get(begin(w.email("bob"))) }, "/?problem=reauthentication-another-account#members", false},
		"cancelled": {func() *result {
			return alice.get(strings.Replace(begin(w.email("alice")), "code=", "error=", 1))
		}, "/?problem=reauthentication-cancelled#members", false},
		"a code of somebody's": {func() *result {
			other := w.visitor()
			start := other.get("/api/auth/login?login_hint=" + w.email("alice"))
			stolen, err := url.Parse(other.consent(start.header.Get("Location")))
			require.NoError(t, err)
			mine, err := url.Parse(begin(w.email("alice")))
			require.NoError(t, err)
			return alice.get("/api/auth/callback?state=" + mine.Query().Get("state") + "&code=" + url.QueryEscape(stolen.Query().Get("code")))
		}, "", false},
		"another browser's callback": {func() *result { return w.signIn("alice").get(begin(w.email("alice"))) }, "", false},
		"the same account":           {func() *result { return alice.get(begin(w.email("alice"))) }, "/#members", true},
	} {
		t.Run(name, func(t *testing.T) {
			alice.age()
			require.True(t, needed())
			back := test.back()
			if test.to != "" {
				require.Equal(t, http.StatusFound, back.status, back.text)
				require.Equal(t, test.to, back.header.Get("Location"))
			}
			require.Empty(t, back.sessionCookies(), "the session stays")
			require.Equal(t, !test.done, needed())
		})
	}
	require.Equal(t, before, alice.get("/api/auth/session").str("session", "id"))
	require.Equal(t, token, alice.cookie())
	require.Equal(t, w.email("alice"), alice.get("/api/auth/session").str("user", "email"))
	told := w.facts("session.reauthenticated")
	require.Len(t, told, 1)
	require.Equal(t, before, told[0].data["sessionId"])

	// Without a session it is a sign-in.
	v := w.visitor()
	back := v.toGoogleAndBack("/api/auth/login?reauthenticate=true&redirect=/p&login_hint=" + w.email("bob"))
	require.Equal(t, "/p", back.header.Get("Location"))
	require.Equal(t, w.email("bob"), v.get("/api/auth/session").str("user", "email"))
}

// Somebody else signs in while the user is at Google: it counts for neither.
func TestAReauthenticationIsForWhoBeganIt(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.signIn("alice")
	start := v.get("/api/auth/login?reauthenticate=true")
	callback := v.consent(start.header.Get("Location") + "&login_hint=" + url.QueryEscape(w.email("alice")))
	require.Equal(t, http.StatusFound, v.toGoogleAndBack("/api/auth/login?login_hint="+w.email("bob")).status)
	v.age()
	require.Equal(t, "sign-in-expired", v.get(callback).code())
	require.Equal(t, "reauthentication-required", v.get("/api/google/connect?switch=true").code())
}
