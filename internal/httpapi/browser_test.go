package httpapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/httpapi"
)

// A callback that is opened again, from the history or by a restored tab, is no error for whom it has signed in.
func TestACallbackOpenedTwice(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.visitor()
	start := v.get("/api/auth/login?login_hint=" + w.email("alice") + "&redirect=/p")
	callback := v.consent(start.header.Get("Location"))
	require.Equal(t, "/p", v.get(callback).header.Get("Location"))
	session := v.get("/api/auth/session").str("session", "id")
	again := v.get(callback)
	require.Equal(t, http.StatusFound, again.status, again.text)
	require.Equal(t, "/", again.header.Get("Location"))
	require.Empty(t, again.header.Values("Set-Cookie"), "nothing has changed")
	require.Equal(t, session, v.get("/api/auth/session").str("session", "id"))
	require.Len(t, w.facts("session.created"), 1)
	require.Empty(t, w.facts("auth.login_failed"))

	// It signs nobody in: not another browser, and not one with somebody else's session.
	require.Equal(t, "sign-in-expired", w.visitor().get(callback).code())
	bob := w.signIn("bob")
	require.Equal(t, "/", bob.get(callback).header.Get("Location"))
	require.Equal(t, w.email("bob"), bob.get("/api/auth/session").str("user", "email"))
}

// Over https a browser takes the cookies from this host alone, and neighbours can't plant any.
func TestBehindHTTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) { c.PublicURL = &url.URL{Scheme: "https", Host: "localhost:8443"} })
	v := w.visitor()
	start := v.get("/api/auth/login?login_hint="+w.email("alice"), "Cookie", "fdc_oauth_AAAAAAAA=x")
	require.Contains(t, start.header.Get("Location"), url.QueryEscape("https://localhost:8443/api/auth/callback"))
	require.Equal(t, "max-age=31536000; includeSubDomains", start.header.Get("Strict-Transport-Security"))
	own := func(r *result) (cookies []*http.Cookie) {
		t.Helper()
		for _, cookie := range (&http.Response{Header: r.header}).Cookies() {
			require.True(t, cookie.Secure && cookie.HttpOnly && cookie.Path == "/" && cookie.Domain == "", cookie)
			cookies = append(cookies, cookie)
		}
		return cookies
	}
	began := own(start)
	require.Len(t, began, 1)
	require.Regexp(t, `^__Host-fdc_oauth_.{8}$`, began[0].Name)

	// The jar keeps Secure cookies from this test's plain http, so they are sent by hand; the one from before the upgrade goes.
	callback := strings.TrimPrefix(v.consent(start.header.Get("Location")), "https://localhost:8443")
	back := v.get(callback, "Cookie", began[0].Name+"="+began[0].Value+"; fdc_session=old")
	require.Equal(t, http.StatusFound, back.status, back.text)
	left := map[string]int{}
	var token string
	for _, cookie := range own(back) {
		left[cookie.Name] = cookie.MaxAge
		token = cookie.Value
	}
	require.Len(t, left, 3)
	require.Equal(t, -1, left[began[0].Name])
	require.Equal(t, -1, left["fdc_session"])
	require.Positive(t, left["__Host-fdc_session"])

	require.Equal(t, http.StatusOK, v.get("/api/auth/session", "Cookie", "__Host-fdc_session="+token).status)
	require.Equal(t, http.StatusOK, v.get("/api/auth/session", "Cookie", "fdc_session=planted; __Host-fdc_session="+token).status)
	refused := w.visitor().get("/api/auth/session", "Cookie", "fdc_session="+token)
	require.Equal(t, http.StatusUnauthorized, refused.status, "any neighbour could set that one")
	require.Contains(t, refused.header.Get("WWW-Authenticate"), `cookie-name="__Host-fdc_session"`)
	require.Contains(t, v.get("/api/openapi.json").text, `"name":"__Host-fdc_session"`)
}

// A page of another origin can't sign its visitors in, nor connect their Google account: they are asked first.
func TestSignInAsksWhomAnotherPageSends(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	for name, path := range map[string]string{
		"Sign in with Google": "/api/auth/login?login_hint=mallory%40example.com&redirect=%2Fa%3Fb%3D%22%3E%3Cscript%3E",
		"Connect Google":      "/api/google/connect?redirect=/p",
	} {
		for _, site := range []string{"cross-site", "same-site", "nonsense"} {
			page := alice.get(path, "Sec-Fetch-Site", site)
			require.Equal(t, http.StatusOK, page.status)
			require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
			require.Empty(t, page.header.Values("Set-Cookie"), "nothing has begun")
			require.NotRegexp(t, `(?i)<script|<style| on\w+=| style=`, page.text, "nothing inline, which the policy would forbid")
			require.Contains(t, page.header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
			require.Equal(t, "no-store", page.header.Get("Cache-Control"))
			require.Equal(t, 1, strings.Count(page.text, "<a "))
			require.Contains(t, page.text, `href="`+strings.ReplaceAll(path, "&", "&amp;")+`">`+name+`</a>`)
			require.Contains(t, alice.get(path, "Sec-Fetch-Site", site, "Accept-Language", "ja,en").text, `<html lang="ja">`)
		}
		for _, site := range []string{"same-origin", "none", ""} {
			require.Equal(t, http.StatusFound, alice.get(path, "Sec-Fetch-Site", site).status, site)
		}
	}
}

func TestSignInsInSeveralTabs(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.visitor()
	var callbacks []string
	for _, path := range []string{"/one", "/two", "/three"} {
		start := v.get("/api/auth/login?login_hint=" + w.email("alice") + "&redirect=" + path)
		callbacks = append(callbacks, v.consent(start.header.Get("Location")))
	}
	for i, path := range []string{"/one", "/two", "/three"} {
		require.Equal(t, path, v.get(callbacks[i]).header.Get("Location"))
	}
	// However many are begun and never ended, the browser's cookies stay within the server's limit.
	for range 50 {
		require.Equal(t, http.StatusFound, v.get("/api/auth/login").status)
	}
	home, err := url.Parse(w.url + "/api/auth/login")
	require.NoError(t, err)
	require.LessOrEqual(t, len(v.client.Jar.Cookies(home)), 5)
}
