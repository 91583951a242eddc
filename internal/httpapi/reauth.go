package httpapi

import (
	"errors"
	"net/http"
	"net/url"

	"fdc/internal/identity"
	"fdc/internal/platform/fault"
)

// reauth says when a route wants its user to have signed in with Google within identity.ReauthenticatedFor.
type reauth struct {
	when   string           // for the OpenAPI document; empty: always
	needed func(*call) bool // nil: always
}

// always is for routes that want it with every request.
var always = &reauth{}

// checkReauth refuses a request whose route wants a re-authentication that the session has not had. It decides by the session and the
// path alone, before anything is looked up.
func (c *call) checkReauth() (answered bool, err error) {
	r := c.route.reauth
	if r == nil || r.needed != nil && !r.needed(c) || c.session.Reauthenticated() {
		return false, nil
	}
	back := "/"
	if !c.route.unsafe() {
		back = c.request().URL.RequestURI()
	}
	to := reauthURL(back)
	if c.wantsPage() {
		return true, c.step(http.StatusForbidden, stepReauthenticate, to)
	}
	return false, &fault.Error{
		Kind: fault.Forbidden, Code: "reauthentication-required", Extra: map[string]any{"loginUrl": to},
		Detail: "Confirm with Google that it is you, at loginUrl, and try again.",
	}
}

// reauthURL is where a session's user re-authenticates and comes back to a local path from.
func reauthURL(back string) string {
	if _, err := localPath(back); err != nil {
		back = "/"
	}
	return "/api/auth/login?" + url.Values{"reauthenticate": {"true"}, "redirect": {back}}.Encode()
}

// The code of a re-authentication that the user broke off at Google.
const codeReauthCancelled = "reauthentication-cancelled"

// reauthenticate ends what login has begun with reauthenticate=true. The session stays as it is unless Google gives the account of its
// user.
func (a *api) reauthenticate(c *call, flow signIn) error {
	code, ok := value[string](c, "code")
	if !ok {
		return c.redirect(withProblem(flow.Redirect, codeReauthCancelled))
	}
	grant, err := a.Google.Exchange(c.ctx(), code, flow.Verifier, a.callbackURL())
	if err != nil {
		return err
	}
	err = a.Identity.Reauthenticate(c.ctx(), c.meta(), c.session.ID, grant.GoogleID)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == identity.CodeAnotherAccount {
		return c.redirect(withProblem(flow.Redirect, f.Code))
	}
	if err != nil {
		return err
	}
	return c.redirect(flow.Redirect)
}
