package googleemu

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	oauth2api "google.golang.org/api/oauth2/v2"
	"google.golang.org/api/option"
)

const (
	tasksScope    = scopePrefix + "tasks"
	eventsScope   = scopePrefix + "calendar.events"
	calendarsList = scopePrefix + "calendar.calendarlist.readonly"
)

func TestCase01CodeWithVerifierGivesTokensOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.oauth("openid", "email", "profile", tasksScope)
	verifier := oauth2.GenerateVerifier()
	code := w.approve(c, oauth2.AccessTypeOffline, oauth2.S256ChallengeOption(verifier)).Get("code")

	token, err := w.exchange(c, code, oauth2.VerifierOption(verifier))
	require.NoError(t, err)
	require.NotEmpty(t, token.AccessToken)
	require.NotEmpty(t, token.RefreshToken)
	require.Equal(t, "Bearer", token.TokenType)
	require.Equal(t, "openid "+scopePrefix+"userinfo.email "+scopePrefix+"userinfo.profile "+tasksScope, token.Extra("scope"))
	require.WithinDuration(t, time.Now().Add(time.Hour), token.Expiry, time.Minute)

	_, err = w.exchange(c, code, oauth2.VerifierOption(verifier))
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")

	api, err := oauth2api.NewService(t.Context(), option.WithHTTPClient(w.with(token.AccessToken)), option.WithEndpoint(w.base+"/"))
	require.NoError(t, err)
	info, err := api.Userinfo.Get().Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, ann, info.Email)
	require.Equal(t, "Ann Example", info.Name)
	require.Len(t, info.Id, 21)
}

func TestCase02WrongVerifierOrRedirect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.oauth("email")
	verifier := oauth2.GenerateVerifier()
	approve := func() string { return w.approve(c, oauth2.S256ChallengeOption(verifier)).Get("code") }

	_, err := w.exchange(c, approve(), oauth2.VerifierOption(oauth2.GenerateVerifier()))
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")
	_, err = w.exchange(c, approve())
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")

	code := approve()
	other := w.oauth("email")
	other.RedirectURL = "http://127.0.0.1:9999/elsewhere"
	_, err = w.exchange(other, code, oauth2.VerifierOption(verifier))
	oauthRefused(t, err, http.StatusBadRequest, "redirect_uri_mismatch")
	_, err = w.exchange(c, code, oauth2.VerifierOption(verifier))
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant") // the failed attempt used the code up

	code = approve()
	w.pass(authCodeLife)
	_, err = w.exchange(c, code, oauth2.VerifierOption(verifier))
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")
}

func TestCase03StateIsEchoedVerbatim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	state := `a b+c&d=é"<>%20/?#`
	to, err := url.Parse(w.get(w.oauth("email").AuthCodeURL(state, oauth2.SetAuthURLParam("login_hint", ann))).location)
	require.NoError(t, err)
	require.Equal(t, state, to.Query().Get("state"))
}

func TestCase04ReconsentWithoutPromptGivesNoRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.oauth("email", tasksScope)
	require.Empty(t, w.signIn(c).RefreshToken, "online access has none")
	require.NotEmpty(t, w.signIn(c, oauth2.AccessTypeOffline).RefreshToken)
	require.Empty(t, w.signIn(c, oauth2.AccessTypeOffline).RefreshToken)
	require.NotEmpty(t, w.signIn(c, oauth2.AccessTypeOffline, oauth2.ApprovalForce).RefreshToken)
}

func TestCase05UntickedScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.control(http.MethodPut, "settings", object{"grantedScopes": object{"Ann@Example.com": []string{tasksScope}}}, nil)
	token := w.signIn(w.oauth("email", tasksScope, eventsScope), oauth2.AccessTypeOffline)
	require.Equal(t, scopePrefix+"userinfo.email "+tasksScope, token.Extra("scope"))

	_, err := w.tasksWith(w.with(token.AccessToken)).Tasklists.List().Context(t.Context()).Do()
	require.NoError(t, err)
	_, err = w.calendarWith(w.with(token.AccessToken)).Events.List("primary").Context(t.Context()).Do()
	refused(t, err, http.StatusForbidden, "insufficientPermissions")
}

func TestCase06RotationVoidsTheOldRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.oauth("email", tasksScope)
	first := w.signIn(c, oauth2.AccessTypeOffline).RefreshToken
	same, err := w.refresh(c, first)
	require.NoError(t, err)
	require.Equal(t, first, same.RefreshToken, "without rotation the answer names no new one")

	w.control(http.MethodPut, "settings", object{"rotateRefreshTokens": true}, nil)
	second, err := w.refresh(c, first)
	require.NoError(t, err)
	require.NotEqual(t, first, second.RefreshToken)
	_, err = w.refresh(c, first)
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")
	_, err = w.refresh(c, second.RefreshToken)
	require.NoError(t, err)
}

func TestCase07Revocation(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"user", "access token", "refresh token"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.oauth("email", tasksScope)
			token := w.signIn(c, oauth2.AccessTypeOffline)
			switch by {
			case "user":
				require.Equal(t, http.StatusNoContent, w.control(http.MethodPost, "revoke", object{"email": ann}, nil))
			case "access token":
				require.Equal(t, http.StatusOK, w.revokeToken(token.AccessToken))
			case "refresh token":
				require.Equal(t, http.StatusOK, w.revokeToken(token.RefreshToken))
			}
			_, err := w.refresh(c, token.RefreshToken)
			oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")
			_, err = w.tasksWith(w.with(token.AccessToken)).Tasklists.List().Context(t.Context()).Do()
			refused(t, err, http.StatusUnauthorized, "authError")
			require.Equal(t, http.StatusBadRequest, w.revokeToken(token.AccessToken))
			require.NotEmpty(t, w.signIn(c, oauth2.AccessTypeOffline).RefreshToken, "the next consent is a first one")
		})
	}
}

func (w *world) revokeToken(token string) int {
	w.t.Helper()
	body := strings.NewReader(url.Values{"token": {token}}.Encode())
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.base+"/revoke", body)
	require.NoError(w.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := w.http.Do(req)
	require.NoError(w.t, err)
	require.NoError(w.t, res.Body.Close())
	return res.StatusCode
}

func TestCase08AccessTokenExpiresEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.control(http.MethodPut, "settings", object{"accessTokenSeconds": 120}, nil)
	c := w.oauth("email", tasksScope)
	token := w.signIn(c, oauth2.AccessTypeOffline)
	lists := w.tasksWith(w.with(token.AccessToken)).Tasklists.List()
	_, err := lists.Context(t.Context()).Do()
	require.NoError(t, err)

	w.control(http.MethodPost, "clock", object{"advanceSeconds": 120}, nil)
	_, err = lists.Context(t.Context()).Do()
	refused(t, err, http.StatusUnauthorized, "authError")
	fresh, err := w.refresh(c, token.RefreshToken)
	require.NoError(t, err)
	_, err = w.tasksWith(w.with(fresh.AccessToken)).Tasklists.List().Context(t.Context()).Do()
	require.NoError(t, err)
}

func TestCase09UnknownBearer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.tasksWith(w.with("ya29.nonsense")).Tasklists.List().Context(t.Context()).Do()
	refused(t, err, http.StatusUnauthorized, "authError")
	_, err = w.calendarWith(w.http).CalendarList.List().Context(t.Context()).Do()
	refused(t, err, http.StatusUnauthorized, "authError")
}

func TestCase10AnothersCalendarIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.AddUser("bea@example.com", "Bea"))
	require.NoError(t, w.AddCalendar("bea@example.com", Calendar{ID: "private"}))
	for _, id := range []string{"bea@example.com", "private"} {
		_, err := w.calendar(ann).Events.List(id).Context(t.Context()).Do()
		refused(t, err, http.StatusNotFound, "notFound")
	}
}

func TestIncrementalConsentAddsEarlierScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn(w.oauth("email", tasksScope))
	without := w.signIn(w.oauth(eventsScope))
	require.Equal(t, eventsScope, without.Extra("scope"))
	with := w.signIn(w.oauth(eventsScope), oauth2.SetAuthURLParam("include_granted_scopes", "true"))
	require.ElementsMatch(t, []string{scopePrefix + "userinfo.email", tasksScope, eventsScope}, strings.Fields(with.Extra("scope").(string)))
}

func TestSignInPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.AddUser("eve@example.com", `Eve <script>alert(1)</script>`))
	c := w.oauth("email")
	page := w.get(c.AuthCodeURL("s"))
	require.Equal(t, http.StatusOK, page.status)
	require.Contains(t, page.body, "Ann Example")
	require.Contains(t, page.body, "login_hint=ann%40example.com")
	require.Contains(t, page.body, "error=access_denied")
	require.NotContains(t, page.body, "<script>")

	page = w.get(c.AuthCodeURL("s", oauth2.SetAuthURLParam("login_hint", "nobody@example.com")))
	require.Equal(t, http.StatusOK, page.status)
	page = w.get(c.AuthCodeURL("s", oauth2.SetAuthURLParam("prompt", "none")))
	require.Equal(t, http.StatusFound, page.status)
	require.Contains(t, page.location, "error=login_required")
}

func TestAuthRefusesWithoutRedirecting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := url.Values{"client_id": {"c"}, "redirect_uri": {"http://localhost/cb"}, "response_type": {"code"}, "scope": {"email"}, "login_hint": {ann}}
	for name, change := range map[string]url.Values{
		"no client":        {"client_id": {""}},
		"no redirect":      {"redirect_uri": {""}},
		"foreign redirect": {"redirect_uri": {"http://evil.example/cb"}},
		"not http":         {"redirect_uri": {"javascript://localhost/x"}},
		"look-alike host":  {"redirect_uri": {"http://127.0.0.1.evil.example/cb"}},
		"no scope":         {"scope": {" "}},
		"implicit flow":    {"response_type": {"token"}},
		"unknown method":   {"code_challenge": {"x"}, "code_challenge_method": {"S512"}},
	} {
		t.Run(name, func(t *testing.T) {
			q := maps.Clone(good)
			maps.Copy(q, change)
			page := w.get(w.base + "/o/oauth2/v2/auth?" + q.Encode())
			require.Equal(t, http.StatusBadRequest, page.status, page.body)
			require.Empty(t, page.location)
		})
	}
	require.Equal(t, http.StatusFound, w.get(w.base+"/o/oauth2/v2/auth?"+good.Encode()).status)
}

func TestTokenEndpointErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.oauth("email")
	stranger := *c
	stranger.ClientID = "another-client"
	refresh := w.signIn(c, oauth2.AccessTypeOffline).RefreshToken
	_, err := w.refresh(&stranger, refresh)
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")
	_, err = w.exchange(&stranger, w.approve(c).Get("code"))
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")

	nameless := *c
	nameless.ClientID = ""
	_, err = w.refresh(&nameless, refresh)
	oauthRefused(t, err, http.StatusUnauthorized, "invalid_client")

	basic := *c
	basic.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	_, err = w.refresh(&basic, refresh)
	require.NoError(t, err)

	w.pass(refreshIdle + time.Second)
	_, err = w.refresh(c, refresh)
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")
}

func TestOldestOfTooManyRefreshTokensDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.oauth("email")
	first := w.signIn(c, oauth2.AccessTypeOffline).RefreshToken
	w.pass(time.Second)
	second := w.signIn(c, oauth2.AccessTypeOffline, oauth2.ApprovalForce).RefreshToken
	w.pass(time.Second)
	for range maxRefreshTokens - 1 {
		w.signIn(c, oauth2.AccessTypeOffline, oauth2.ApprovalForce)
	}
	_, err := w.refresh(c, first)
	oauthRefused(t, err, http.StatusBadRequest, "invalid_grant")
	_, err = w.refresh(c, second)
	require.NoError(t, err)
}
