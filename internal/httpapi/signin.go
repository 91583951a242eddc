package httpapi

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"

	"fdc/internal/gsync"
	"fdc/internal/platform/fault"
)

const (
	signInCookie   = "fdc_oauth_" // and the start of the state, so that sign-ins in several tabs don't disturb each other
	signInLifetime = 10 * time.Minute
	signInPurpose  = "httpapi/sign-in"
	maxSignIns     = 4 // under way in one browser, which sends all of them with every request

	maxRedirect   = 1024
	maxHint       = 320
	maxGoogleText = 4096
)

// signIn is a way to Google and back that has begun. The browser keeps it, sealed, in a cookie; the server keeps nothing.
type signIn struct {
	State    string    `json:"state"`
	Verifier string    `json:"verifier"` // of PKCE
	Redirect string    `json:"redirect"`
	Connect  bool      `json:"connect"`          // to Google Tasks and Calendar
	Switch   bool      `json:"switch,omitempty"` // to another Google account than before, if it is another
	Reauth   bool      `json:"reauth,omitempty"` // to prove that the session's user is present
	UserID   string    `json:"userId,omitempty"` // who connects or re-authenticates; empty when somebody signs in
	Expires  time.Time `json:"expires"`
}

func (f signIn) purpose() gsync.Purpose {
	switch {
	case f.Reauth:
		return gsync.ForReauthentication
	case f.Connect:
		return gsync.ForConnect
	default:
		return gsync.ForSignIn
	}
}

// errSignIn is the answer to a callback that nothing in this browser has asked for.
var errSignIn = fault.New(fault.Malformed, "sign-in-expired",
	"This sign-in has expired, or it was started in another browser; please start again.")

// toGoogle begins a sign-in.
func (a *api) toGoogle(c *call, flow signIn, hint string) error {
	flow.State, flow.Verifier = rand.Text(), rand.Text()+rand.Text()
	flow.Expires = time.Now().Add(signInLifetime).UTC()
	plain, err := json.Marshal(flow)
	if err != nil {
		return err
	}
	a.limitSignIns(c)
	sealed := base64.RawURLEncoding.EncodeToString(a.Keys.Seal(signInPurpose, plain))
	c.addCookie(a.cookie(a.signInNameOf(flow.State), sealed, signInLifetime))
	return c.redirect(a.Google.AuthURL(flow.State, flow.Verifier, a.callbackURL(), hint, flow.purpose()))
}

// signInOf finds the sign-in that a state belongs to.
func (a *api) signInOf(c *call, state string) (signIn, error) {
	if len(state) != len(rand.Text()) {
		return signIn{}, errSignIn
	}
	cookie, err := c.request().Cookie(a.signInNameOf(state))
	if err != nil {
		return signIn{}, errSignIn
	}
	flow, err := a.openSignIn(cookie.Value)
	if err != nil || flow.State != state || time.Now().After(flow.Expires) {
		return signIn{}, errSignIn
	}
	return flow, nil
}

func (a *api) openSignIn(value string) (flow signIn, err error) {
	sealed, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return signIn{}, err
	}
	plain, err := a.Keys.Open(signInPurpose, sealed)
	if err != nil {
		return signIn{}, err
	}
	return flow, json.Unmarshal(plain, &flow)
}

func (a *api) forgetSignIn(c *call, state string) {
	c.addCookie(a.cookie(a.signInNameOf(state), "", 0))
}

// limitSignIns deletes the cookies of unfinished sign-ins when there are too many.
func (a *api) limitSignIns(c *call) {
	var names []string
	for _, cookie := range c.request().Cookies() {
		if strings.HasPrefix(cookie.Name, a.signInName) {
			names = append(names, cookie.Name)
		}
	}
	if len(names) < maxSignIns {
		return
	}
	for _, name := range names {
		c.addCookie(a.cookie(name, "", 0))
	}
}

func (a *api) signInNameOf(state string) string { return a.signInName + state[:8] }

func (a *api) callbackURL() string { return a.origin + "/api/auth/callback" }

// localPath reads where a browser is to go after a sign-in: a path of this server, never another host. Browsers take a
// backslash for a slash and drop tabs and line breaks, so neither passes. What isn't ASCII is escaped, as headers want it.
func localPath(s string) (any, error) {
	const want = wants("a path such as /tasks")
	if len(s) == 0 || len(s) > maxRedirect || s[0] != '/' || strings.HasPrefix(s, "//") || !utf8.ValidString(s) {
		return nil, want
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == 0x7f || c == '\\':
			return nil, want
		case c == ' ' || c == '"' || c == '<' || c == '>' || c >= utf8.RuneSelf:
			b.WriteString(url.PathEscape(s[i : i+1]))
		default:
			b.WriteByte(c)
		}
	}
	u, err := url.Parse(b.String())
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return nil, want
	}
	return b.String(), nil
}

// withError adds to a local path why Google gave no consent.
func withError(path, reason string) string {
	for i := range len(reason) {
		if c := reason[i]; c != '_' && (c < 'a' || c > 'z') || i > 64 {
			reason = "server_error" // not a code of OAuth: not repeated to the browser
			break
		}
	}
	return withQuery(path, "error", reason)
}

// withProblem adds to a local path the code of what went wrong, for the page there to explain. The API takes no such parameter: in the place
// of one of its paths it is the console's.
func withProblem(path, code string) string {
	if u, err := url.Parse(path); err != nil || strings.HasPrefix(u.Path, "/api/") {
		path = "/"
	}
	return withQuery(path, "problem", code)
}

// withQuery sets a parameter of a local path.
func withQuery(path, name, value string) string {
	u, err := url.Parse(path)
	if err != nil { // localPath has parsed it
		return "/"
	}
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = query.Encode()
	return u.String()
}

func redirectParam() param {
	return param{
		name: "redirect", doc: "The path to go to afterwards.", fallback: "/", parse: localPath,
		schema: &jsonschema.Schema{Type: "string", MaxLength: new(maxRedirect), Pattern: `^/([^/\\].*)?$`, Default: []byte(`"/"`)},
	}
}

func loginHintParam() param {
	return textParam("login_hint", "The address of the account to sign in with.", maxHint)
}

func textParam(name, doc string, longest int) param {
	return param{
		name: name, doc: doc, parse: textUpTo(longest),
		schema: &jsonschema.Schema{Type: "string", MinLength: new(1), MaxLength: new(longest)},
	}
}

func flagParam(name, doc string) param {
	return param{name: name, doc: doc, parse: parseBool, schema: &jsonschema.Schema{Type: "boolean"}}
}
