package httpapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

func TestSignInMakesTheUserAndAWorkspace(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.visitor()
	require.Equal(t, "unauthenticated", v.get("/api/auth/session").code())

	start := v.get("/api/auth/login?redirect=/tasks%3Fa=b&login_hint=" + w.email("alice"))
	to, err := url.Parse(start.header.Get("Location"))
	require.NoError(t, err)
	q := to.Query()
	require.Equal(t, "S256", q.Get("code_challenge_method"))
	require.Equal(t, w.url+"/api/auth/callback", q.Get("redirect_uri"))
	require.ElementsMatch(t, []string{"openid", "email", "profile"}, strings.Fields(q.Get("scope")))
	require.GreaterOrEqual(t, len(q.Get("state")), 22)

	back := v.get(v.consent(start.header.Get("Location")))
	require.Equal(t, http.StatusFound, back.status)
	require.Equal(t, "/tasks?a=b", back.header.Get("Location"))
	require.Empty(t, back.text)
	cookies := (&http.Response{Header: back.header}).Cookies()
	require.Len(t, cookies, 2)
	require.True(t, strings.HasPrefix(cookies[0].Name, "fdc_oauth_"))
	require.Negative(t, cookies[0].MaxAge)
	session := cookies[1]
	require.Equal(t, "fdc_session", session.Name)
	require.True(t, session.HttpOnly)
	require.Equal(t, http.SameSiteLaxMode, session.SameSite)
	require.Equal(t, "/", session.Path)
	require.False(t, session.Secure, "PUBLIC_URL is loopback")
	require.InDelta(t, (7 * 24 * time.Hour).Seconds(), session.MaxAge, 60)

	me := v.get("/api/auth/session")
	require.Equal(t, w.email("alice"), me.str("user", "email"))
	require.Equal(t, "USER", me.str("user", "systemRole"))
	require.Equal(t, "OWNER", me.str("workspaces", 0, "role"))
	require.Equal(t, map[string]any{"state": "disconnected", "scopes": []any{}}, me.field("google"))
	require.Equal(t, me.str("session", "id"), v.get("/api/auth/sessions").str("items", 0, "id"))

	again := w.signIn("alice")
	require.Equal(t, me.str("user", "id"), again.id(), "the same person")
	require.NotContains(t, w.log.String(), session.Value)
	require.NotContains(t, w.log.String(), q.Get("state"))
	require.NotContains(t, w.log.String(), strings.TrimSuffix(w.email("alice"), "@example.com"))
}

func TestConnectWithTheSignIn(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.signIn("alice", "connect=true")
	google := v.get("/api/auth/session").field("google")
	require.Equal(t, "connected", google.(map[string]any)["state"])
	require.Contains(t, google.(map[string]any)["scopes"], "https://www.googleapis.com/auth/tasks")
}

func TestConnectLater(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.signIn("alice")
	require.Equal(t, "unauthenticated", w.visitor().get("/api/google/connect").code())
	before := v.get("/api/auth/session").str("session", "id")
	back := v.toGoogleAndBack("/api/google/connect?redirect=/settings")
	require.Equal(t, "/settings", back.header.Get("Location"))
	after := v.get("/api/auth/session")
	require.Equal(t, before, after.str("session", "id"), "connecting is no sign-in")
	require.Equal(t, "connected", after.str("google", "state"))

	// Another Google account than before is a question, and nothing changes.
	start := v.get("/api/google/connect?redirect=/settings%3Fa%3Db")
	other := strings.Replace(start.header.Get("Location"), url.QueryEscape(w.email("alice")), url.QueryEscape(w.email("bob")), 1)
	asked := v.get(v.consent(other))
	require.Equal(t, http.StatusFound, asked.status)
	require.Equal(t, "/settings?a=b&error=google_account_differs", asked.header.Get("Location"))
	require.Equal(t, "connected", v.get("/api/auth/session").str("google", "state"))
	// This is the answer to it.
	start = v.get("/api/google/connect?redirect=/settings&switch=true")
	chosen := v.get(v.consent(start.header.Get("Location") + "&login_hint=" + url.QueryEscape(w.email("bob"))))
	require.Equal(t, "/settings", chosen.header.Get("Location"), chosen.text)
	require.Equal(t, "connected", v.get("/api/auth/session").str("google", "state"))
	require.Len(t, w.facts("google.disconnected"), 1)
	require.Len(t, w.facts("google.connected"), 2)

	require.Equal(t, http.StatusNoContent, v.send(http.MethodPost, "/api/google/disconnect", nil).status)
	require.Equal(t, "disconnected", v.get("/api/auth/session").str("google", "state"))
}

func TestConnectIsForWhoStartedIt(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.signIn("alice")
	start := v.get("/api/google/connect")
	callback := v.consent(start.header.Get("Location"))
	// Meanwhile somebody else signs in with the same browser.
	require.Equal(t, http.StatusFound, v.toGoogleAndBack("/api/auth/login?login_hint="+w.email("bob")).status)
	require.Equal(t, "sign-in-expired", v.get(callback).code())
	require.Equal(t, "disconnected", v.get("/api/auth/session").str("google", "state"))

	start = v.get("/api/google/connect")
	callback = v.consent(start.header.Get("Location"))
	require.Equal(t, http.StatusNoContent, v.send(http.MethodPost, "/api/auth/logout", nil).status)
	require.Equal(t, "unauthenticated", v.get(callback).code())
}

func TestRefusedSignIns(t *testing.T) {
	t.Parallel()
	w := shared(t)
	begin := func(v *visitor) (callback string) {
		start := v.get("/api/auth/login?login_hint=" + w.email("alice") + "&redirect=/p")
		return v.consent(start.header.Get("Location"))
	}
	with := func(callback, name, value string) string {
		u, err := url.Parse(callback)
		require.NoError(t, err)
		q := u.Query()
		q.Del(name)
		if value != "" {
			q.Set(name, value)
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	for name, test := range map[string]struct {
		visit  func(v *visitor) *result
		code   string
		reason string // of auth.login_failed
	}{
		"nobody began it": {func(v *visitor) *result { return v.get("/api/auth/callback?state=x&code=y") }, "sign-in-expired", "state_mismatch"},
		"no query":        {func(v *visitor) *result { return v.get("/api/auth/callback") }, "sign-in-expired", "state_mismatch"},
		"another browser": {func(v *visitor) *result { return w.visitor().get(begin(v)) }, "sign-in-expired", "state_mismatch"},
		"another state":   {func(v *visitor) *result { return v.get(with(begin(v), "state", strings.Repeat("A", 26))) }, "sign-in-expired", "state_mismatch"},
		"no code":         {func(v *visitor) *result { return v.get(with(begin(v), "code", "")) }, "bad-query", "code_refused"},
		"wrong code":      {func(v *visitor) *result { return v.get(with(begin(v), "code", "4/0abc")) }, "google-code-refused", "code_refused"},
		"the same again, signed out": {func(v *visitor) *result {
			callback := begin(v)
			v.get(callback)
			v.send(http.MethodPost, "/api/auth/logout", nil)
			return v.get(callback)
		}, "sign-in-expired", "state_mismatch"},
		"somebody's code": {func(v *visitor) *result {
			other := begin(w.visitor())
			u, _ := url.Parse(other)
			return v.get(with(begin(v), "code", u.Query().Get("code")))
		}, "google-code-refused", "code_refused"},
		"cookie made up": {func(v *visitor) *result {
			return v.get("/api/auth/callback?state="+strings.Repeat("A", 26)+"&code=y", "Cookie", "fdc_oauth_AAAAAAAA=AAAA")
		}, "sign-in-expired", "state_mismatch"},
		"state given twice": {func(v *visitor) *result { return v.get("/api/auth/callback?state=a&state=b") }, "bad-query", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := w.visitor()
			before := w.facts("auth.login_failed")
			r := test.visit(v)
			require.Equal(t, http.StatusBadRequest, r.status)
			require.Equal(t, test.code, r.code())
			told := w.facts("auth.login_failed")[len(before):]
			if test.reason == "" {
				require.Empty(t, told)
				return
			}
			require.Len(t, told, 1)
			require.Equal(t, test.reason, told[0].data["reason"])
			require.Equal(t, r.header.Get("X-Request-Id"), told[0].requestID)
		})
	}

	v := w.visitor()
	before := len(w.facts("auth.login_failed"))
	refused := v.get(with(with(begin(v), "code", ""), "error", "access_denied"))
	require.Equal(t, "/p?error=access_denied", refused.header.Get("Location"))
	require.Equal(t, "consent_denied", w.facts("auth.login_failed")[before].data["reason"])
	require.Equal(t, "unauthenticated", v.get("/api/auth/session").code())
}

func TestGoogleAwayIsNoRefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.visitor()
	start := v.get("/api/auth/login?login_hint=" + w.email("alice"))
	callback := v.consent(start.header.Get("Location"))
	w.emu.CloseClientConnections()
	require.NoError(t, w.emu.Listener.Close())
	r := v.get(callback)
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.Equal(t, "google-unavailable", r.code())
	require.NotEmpty(t, r.header.Get("Retry-After"))
	require.Empty(t, w.facts("auth.login_failed"))
}

func TestSessions(t *testing.T) {
	t.Parallel()
	w := shared(t)
	phone, laptop, tablet := w.signIn("alice"), w.signIn("alice"), w.signIn("alice")
	bob := w.signIn("bob")

	list := laptop.get("/api/auth/sessions")
	require.Len(t, list.field("items"), 3)
	require.Nil(t, list.field("nextCursor"))
	require.Equal(t, tablet.get("/api/auth/session").str("session", "id"), list.str("items", 0, "id"), "newest first")
	require.Equal(t, []any{false, true, false}, []any{
		list.field("items", 0, "current"), list.field("items", 1, "current"), list.field("items", 2, "current"),
	})
	require.Equal(t, "127.0.0.1", list.str("items", 0, "ip"))

	first := laptop.get("/api/auth/sessions?limit=2")
	require.Len(t, first.field("items"), 2)
	second := laptop.get("/api/auth/sessions?limit=2&cursor=" + first.str("nextCursor"))
	require.Len(t, second.field("items"), 1)
	require.Equal(t, list.str("items", 2, "id"), second.str("items", 0, "id"))
	require.Equal(t, http.StatusBadRequest, laptop.get("/api/workspaces?cursor="+first.str("nextCursor")).status, "a cursor of another list")

	tabletID := list.str("items", 0, "id")
	require.Equal(t, http.StatusNotFound, bob.send(http.MethodDelete, "/api/auth/sessions/"+tabletID, nil).status)
	require.Equal(t, http.StatusOK, tablet.get("/api/auth/session").status)
	other := laptop.send(http.MethodDelete, "/api/auth/sessions/"+tabletID, nil)
	require.Equal(t, http.StatusNoContent, other.status)
	require.Empty(t, other.header.Get("Clear-Site-Data"), "this device stays signed in")
	require.Equal(t, http.StatusUnauthorized, tablet.get("/api/auth/session").status)

	require.Equal(t, http.StatusNoContent, laptop.send(http.MethodDelete, "/api/auth/sessions", nil).status)
	require.Equal(t, http.StatusUnauthorized, phone.get("/api/auth/session").status)
	require.Equal(t, http.StatusOK, laptop.get("/api/auth/session").status)
	require.Equal(t, http.StatusOK, bob.get("/api/auth/session").status)

	out := laptop.send(http.MethodPost, "/api/auth/logout", nil)
	require.Equal(t, http.StatusNoContent, out.status)
	require.Contains(t, out.header.Get("Set-Cookie"), "fdc_session=;")
	require.Equal(t, `"cache", "storage"`, out.header.Get("Clear-Site-Data"))
	require.Equal(t, http.StatusUnauthorized, laptop.get("/api/auth/session").status)

	bobID := bob.get("/api/auth/session").str("session", "id")
	gone := bob.send(http.MethodDelete, "/api/auth/sessions/"+bobID, nil)
	require.Contains(t, gone.header.Get("Set-Cookie"), "fdc_session=;", "this one is over too")
	require.Equal(t, `"cache", "storage"`, gone.header.Get("Clear-Site-Data"))
}

// A cookie is its user's session or nothing: whatever else a request brings, it reads nothing and writes nothing.
func TestCookies(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	home := alice.home()
	good, his := "fdc_session="+alice.token(), "fdc_session="+bob.token()
	var expired, idle *visitor
	for end, v := range map[string]**visitor{"expires_at": &expired, "last_seen_at": &idle} {
		*v = w.signIn("carol") // who has asked nothing yet, so nobody has cached it
		_, err := w.db.Pool.Exec(t.Context(), `UPDATE sessions SET `+end+` = now() - interval '25 hours' WHERE token_hash = sha256($1)`,
			[]byte((*v).token()))
		require.NoError(t, err)
	}
	gone := w.signIn("alice")
	goneToken := gone.token()
	require.Equal(t, http.StatusNoContent, gone.send(http.MethodPost, "/api/auth/logout", nil).status)

	before := w.document(home)
	for name, test := range map[string]struct {
		cookie       string
		read, status int // of GET /api/auth/session, of PUT data
	}{
		"none":                       {"other=x", 401, 401},
		"empty":                      {"fdc_session=", 401, 401},
		"no value":                   {"fdc_session", 401, 401},
		"short":                      {"fdc_session=x", 401, 401},
		"of another cluster":         {"fdc_session=" + strings.Repeat("A", 43), 401, 401},
		"a session's id":             {"fdc_session=" + alice.get("/api/auth/session").str("session", "id"), 401, 401},
		"too long":                   {good + "A", 401, 401},
		"too short":                  {good[:len(good)-1], 401, 401},
		"padded":                     {good + "=", 401, 401},
		"oversized":                  {"fdc_session=" + strings.Repeat("A", 5000), 401, 401},
		"escaped NUL":                {"fdc_session=%00", 401, 401},
		"a path":                     {"fdc_session=../..", 401, 401},
		"with a space":               {"fdc_session=a b", 401, 401},
		"another case":               {strings.ToUpper(good[:11]) + good[11:], 401, 401},
		"expired":                    {"fdc_session=" + expired.token(), 401, 401},
		"idle":                       {"fdc_session=" + idle.token(), 401, 401},
		"signed out":                 {"fdc_session=" + goneToken, 401, 401},
		"another user's":             {his, 200, 404},
		"two users'":                 {good + "; " + his, 401, 401},
		"two users', turned round":   {his + "; a=b; " + good, 401, 401},
		"and an empty one":           {good + "; fdc_session=", 401, 401},
		"and nonsense":               {"fdc_session=x; " + good, 401, 401},
		"more cookies than are read": {strings.Repeat("a=b; ", 5000) + good, 401, 401},
		"the same twice":             {good + "; " + good, 200, 422},
		"and one that is no cookie":  {`fdc_session=a\b; ` + good, 200, 422},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.visitor().get("/api/auth/session", "Cookie", test.cookie)
			require.Equal(t, test.read, r.status, r.text)
			body := `{"data":{"a":1}}`
			if test.status == http.StatusUnprocessableEntity {
				body = `{"data":1}` // let in, and refused for this
			}
			put := w.visitor().send(http.MethodPut, "/api/workspaces/"+home+"/data", body, "Cookie", test.cookie)
			require.Equal(t, test.status, put.status, put.text)
			require.Equal(t, "application/problem+json", put.header.Get("Content-Type"))
			if test.status == http.StatusUnauthorized {
				require.Equal(t, "unauthenticated", put.code())
				require.NotEmpty(t, r.header.Get("WWW-Authenticate"))
			}
			require.Equal(t, before, w.document(home), "nothing was written")
		})
	}
	require.Empty(t, w.facts("workspace.data_updated"))
}

// token is the visitor's session cookie.
func (v *visitor) token() string {
	v.t.Helper()
	home, err := url.Parse(v.url)
	require.NoError(v.t, err)
	for _, cookie := range v.client.Jar.Cookies(home) {
		if cookie.Name == "fdc_session" {
			return cookie.Value
		}
	}
	v.t.Fatal("not signed in")
	return ""
}

// sessionCookies are the session's cookies that an answer sets.
func (r *result) sessionCookies() (set []*http.Cookie) {
	for _, cookie := range (&http.Response{Header: r.header}).Cookies() {
		if cookie.Name == "fdc_session" {
			set = append(set, cookie)
		}
	}
	return set
}

// cookie is the visitor's session as a header, for requests of a browser that has not heard of a newer one.
func (v *visitor) cookie() string {
	v.t.Helper()
	home, err := url.Parse(v.url)
	require.NoError(v.t, err)
	for _, cookie := range v.client.Jar.Cookies(home) {
		if cookie.Name == "fdc_session" {
			return "fdc_session=" + cookie.Value
		}
	}
	v.t.Fatal("no session")
	return ""
}

// A browser has one session: a sign-in ends the one that somebody may have planted there.
func TestSignInReplacesTheBrowsersSession(t *testing.T) {
	t.Parallel()
	w := shared(t)
	phone, laptop := w.signIn("alice"), w.signIn("alice")
	before, planted := laptop.get("/api/auth/session").str("session", "id"), laptop.cookie()
	start := laptop.get("/api/auth/login?login_hint=" + w.email("bob"))
	callback := laptop.consent(start.header.Get("Location"))
	require.Equal(t, http.StatusFound, laptop.get(strings.Replace(callback, "code=", "error=", 1)).status)
	require.Equal(t, before, laptop.get("/api/auth/session").str("session", "id"), "nobody has signed in")

	require.Len(t, laptop.toGoogleAndBack("/api/auth/login?login_hint="+w.email("bob")).sessionCookies(), 1)
	require.Equal(t, w.email("bob"), laptop.get("/api/auth/session").str("user", "email"))
	require.Equal(t, http.StatusUnauthorized, w.visitor().get("/api/auth/session", "Cookie", planted).status)
	require.Len(t, phone.get("/api/auth/sessions").field("items"), 1, "other devices stay")
	told := w.facts("session.revoked")
	require.Len(t, told, 1)
	require.Equal(t, before, told[0].data["sessionId"])
	require.Equal(t, "replaced", told[0].data["reason"])
	require.Equal(t, phone.id(), told[0].user)
	require.Equal(t, laptop.id(), told[0].actor)
}

func TestRoleChangesRenewTheToken(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	members := "/api/workspaces/" + alice.home() + "/members"
	data := "/api/workspaces/" + alice.home() + "/data"
	alice.takeIn(bob, alice.home())
	require.Empty(t, bob.get("/api/auth/session").sessionCookies(), "nothing has changed")
	session := bob.get("/api/auth/session").str("session", "id")
	conn, status := bob.dial("", nil)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	id := bob.id()
	change := func(role string) {
		t.Helper()
		require.Equal(t, http.StatusOK, alice.send(http.MethodPut, members+"/"+id, object{"role": role}).status)
	}

	old := bob.cookie()
	change("ADMIN")
	_, status = bob.dial("", nil)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	require.Equal(t, old, bob.cookie(), "streams leave it to others")

	// Of the requests that are made at once, one brings the new token; those with the old one are served still.
	const requests = 20
	answers := make(chan *result, requests)
	for range requests {
		go func() { answers <- w.visitor().get("/api/auth/session", "Cookie", old) }()
	}
	var set []*http.Cookie
	for range requests {
		r := <-answers
		require.Equal(t, http.StatusOK, r.status, r.text)
		require.Equal(t, session, r.str("session", "id"))
		set = append(set, r.sessionCookies()...)
	}
	require.Len(t, set, 1)
	require.True(t, set[0].HttpOnly)
	require.Equal(t, http.SameSiteLaxMode, set[0].SameSite)
	require.InDelta(t, (7 * 24 * time.Hour).Seconds(), set[0].MaxAge, 60)
	require.NotContains(t, w.log.String(), set[0].Value)
	home, err := url.Parse(w.url)
	require.NoError(t, err)
	bob.client.Jar.SetCookies(home, set)
	after := bob.get("/api/auth/session")
	require.Equal(t, session, after.str("session", "id"))
	require.Empty(t, after.sessionCookies())
	told := w.facts("session.rotated")
	require.Len(t, told, 1)
	require.Equal(t, id, told[0].actor)
	require.Equal(t, session, told[0].data["sessionId"])

	// The next one is due with any request; the one before is refused when its time is over.
	change("MEMBER")
	old = bob.cookie()
	require.Len(t, bob.get(data).sessionCookies(), 1)
	require.NotEqual(t, old, bob.cookie())
	_, err = w.db.Pool.Exec(t.Context(), `UPDATE replaced_tokens SET replaced_at = replaced_at - interval '30 seconds' WHERE session_id = $1`, session)
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, w.visitor().get(data, "Cookie", old).status)
	require.Equal(t, http.StatusOK, bob.get(data).status)

	// The socket of before is open still, and hears of the end.
	change("ADMIN")
	out := bob.send(http.MethodPost, "/api/auth/logout", nil)
	require.Equal(t, http.StatusNoContent, out.status)
	require.Len(t, out.sessionCookies(), 1, "the new token and its end are not both sent")
	require.Negative(t, out.sessionCookies()[0].MaxAge)
	for err == nil {
		_, _, err = conn.ReadMessage()
	}
	require.True(t, websocket.IsCloseError(err, 4001), "%v", err)
}

// While the database is away the old token goes on, for what needs no database.
func TestARenewalThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	workspace := "/api/workspaces/" + alice.home()
	data := workspace + "/data"
	alice.takeIn(bob, alice.home())
	require.Equal(t, http.StatusOK, alice.send(http.MethodPut, workspace+"/members/"+bob.id(), object{"role": "ADMIN"}).status)
	require.Eventually(t, func() bool {
		return alice.get(data).header.Get("Cache-Status") == "fdc-near; hit"
	}, patience, time.Millisecond)
	hits := func() float64 {
		families, err := w.metrics.Gather()
		require.NoError(t, err)
		for _, family := range families {
			for _, m := range family.GetMetric() {
				if family.GetName() == "cache_requests_total" && m.GetLabel()[0].GetValue() == "sessions" && m.GetLabel()[1].GetValue() == "near" {
					return m.GetCounter().GetValue()
				}
			}
		}
		return 0
	}
	require.Eventually(t, func() bool {
		before := hits()
		_, status := bob.dial("", nil) // a stream, which renews nothing
		return status == http.StatusSwitchingProtocols && hits() > before
	}, patience, time.Millisecond, "his session is not in memory")

	w.database.Cut()
	r := bob.get(data)
	require.Equal(t, http.StatusOK, r.status, r.text)
	require.Empty(t, r.sessionCookies())
	require.Contains(t, w.log.String(), "token not renewed")
	w.database.Heal()
	require.Eventually(t, func() bool { return len(bob.get(data).sessionCookies()) == 1 }, patience, time.Millisecond)
}
