package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"fdc/internal/identity"
	"fdc/internal/platform/fault"
)

const (
	sessionCookie = "fdc_session" // the name without hostPrefix
	// hostPrefix keeps a cookie's name from other hosts and from plain http: a browser takes it only from this host over https, with Path=/
	// (RFC 6265bis, 4.1.3.2).
	hostPrefix = "__Host-"
	maxToken   = 256 // characters; far more than a token has
)

// The answers to whoever has to sign in.
var (
	errNoSession   = fault.New(fault.Unauthenticated, "", "Sign in first.")
	errTwoSessions = fault.New(fault.Unauthenticated, "", "There are several session cookies; delete them and sign in again.")
)

// renewPatience is how long a request waits for the database to renew its token.
const renewPatience = 2 * time.Second

// token is what the request's cookie holds. Several cookies that differ are none: their order says nothing of where they come
// from (RFC 6265, 4.2.2), and one may be of a neighbouring host that wants the user to work in a session of its own making.
func (c *call) token() (string, error) {
	cookies := c.request().CookiesNamed(c.api.sessionName)
	if len(cookies) == 0 {
		return "", errNoSession
	}
	token := cookies[0].Value
	if slices.ContainsFunc(cookies, func(other *http.Cookie) bool { return other.Value != token }) {
		return "", errTwoSessions
	}
	if token == "" || len(token) > maxToken {
		return "", errNoSession
	}
	return token, nil
}

// findSession finds the session of the request's cookie. What this node doesn't remember is looked up, as long as the client's
// address may have look-ups fail.
func (c *call) findSession() (identity.Session, error) {
	token, err := c.token()
	if err != nil {
		return identity.Session{}, err
	}
	if session, known, err := c.api.Identity.Remembered(token); known {
		return session, err
	}
	return c.lookUp(token)
}

// authenticate makes the session of the request's cookie the one that asks.
func (c *call) authenticate() (err error) {
	c.session, err = c.findSession()
	return err
}

// renew gives the browser a new token if the user's role has changed since it got the one it has. That this fails is no reason to
// refuse the request: the token goes on, and the next request tries again. Streams leave it to the others: what is upgraded has no answer for a cookie.
func (c *call) renew() {
	if !c.session.Rotate || c.route.stream {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx(), renewPatience)
	defer cancel()
	old, err := c.token()
	if err != nil { // not after authenticate
		return
	}
	token, err := c.api.Identity.Rotate(ctx, c.meta(), c.session.ID, old)
	switch {
	case err != nil:
		c.api.Log.Warn().Err(err).Str("request_id", c.id).Msg("session's token not renewed; the next request tries again")
	case token != "":
		c.setSession(token.Reveal(), time.Until(c.session.ExpiresAt))
	}
}

// setSession puts a token into the session's cookie, or deletes that when lifetime is zero; the last one counts. A cookie from
// before the prefix is deleted.
func (c *call) setSession(token string, lifetime time.Duration) {
	h, name := c.gin.Writer.Header(), c.api.sessionName
	h["Set-Cookie"] = slices.DeleteFunc(h["Set-Cookie"], func(s string) bool { return strings.HasPrefix(s, name+"=") })
	if name != sessionCookie && len(c.request().CookiesNamed(sessionCookie)) > 0 {
		c.addCookie(c.api.cookie(sessionCookie, "", 0))
	}
	c.addCookie(c.api.cookie(name, token, lifetime))
}

// signedOut deletes the session's cookie and has the browser delete what it keeps of this origin: answers in its cache, among them
// pages to go back to, and storage. It does not say "cookies", which would delete those of neighbouring hosts, too
// (Clear Site Data, 3.1).
func (c *call) signedOut() {
	c.setSession("", 0)
	c.gin.Writer.Header()["Clear-Site-Data"] = clearSiteData
}

var clearSiteData = []string{`"cache", "storage"`}

// changed tells the cache of sessions that what a user's sessions show was changed by this request.
func (c *call) changed(userIDs ...string) {
	if err := c.api.Identity.Changed(c.ctx(), userIDs...); err != nil {
		c.api.Log.Warn().Err(err).Str("request_id", c.id).Msg("sessions not withdrawn; the invalidator does it")
	}
}

// cookieName is a cookie's name in the browser.
func (a *api) cookieName(name string) string {
	if a.secure() {
		return hostPrefix + name
	}
	return name
}

// cookie is a cookie that scripts can't read and other sites can't send along with unsafe requests. A lifetime of zero
// deletes it.
func (a *api) cookie(name, value string, lifetime time.Duration) *http.Cookie {
	maxAge := int(lifetime.Seconds())
	if lifetime <= 0 {
		maxAge = -1
	}
	return &http.Cookie{ //nolint:gosec // Secure but for plain HTTP on loopback
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: a.secure(),
	}
}

// secure reports whether cookies are for https only: always, but for plain HTTP on loopback, where there is no other way.
func (a *api) secure() bool {
	if a.PublicURL.Scheme != "http" {
		return true
	}
	host := a.PublicURL.Hostname()
	return host != "localhost" && !net.ParseIP(host).IsLoopback()
}

// refuseCrossOrigin answers an unsafe request from another origin. It goes on record when it carries a session, which is
// then somebody's who was lured; what a stranger sends is not worth a row.
func (c *call) refuseCrossOrigin(cause error) error {
	refusal := fault.Wrap(cause, fault.Forbidden, "cross-origin", "This request comes from a page of another origin.")
	if c.user() == "" {
		return refusal
	}
	c.recordDenied(identity.DeniedCSRF, "")
	return refusal
}

// recordDenied states once that the user was refused, as a fact of its own.
func (c *call) recordDenied(reason, workspaceID string) {
	if c.denied {
		return
	}
	c.denied = true
	meta := c.meta()
	meta.WorkspaceID = workspaceID
	c.record(c.api.Identity.AccessDenied(c.ctx(), meta, c.route.method, c.route.path, reason))
}

// record takes the outcome of putting a refusal on record. The refusal stands either way; that it isn't on record goes to
// the log, as a warning.
func (c *call) record(err error) {
	if err != nil {
		c.unrecorded = errors.Join(c.unrecorded, err)
	}
}

// workspaceID is the workspace in the path, empty when the path has none.
func (c *call) workspaceID() string {
	if c.route.inWorkspace() {
		return c.path("id")
	}
	return ""
}
