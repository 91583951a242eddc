package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
)

// CurrentSession is who is signed in and what they may enter.
type CurrentSession struct {
	User       User             `json:"user"       doc:"Who."`
	Session    Session          `json:"session"    doc:"On this device."`
	Workspaces []WorkspaceRole  `json:"workspaces" doc:"Where they are a member."`
	Google     GoogleConnection `json:"google"     doc:"Their access to Google Tasks and Calendar."`
}

// User is someone who has signed in.
type User struct {
	ID         string `json:"id"         format:"uuid"  doc:"The user."`
	Email      string `json:"email"      doc:"Their address at Google."`
	Name       string `json:"name"       doc:"Their name at Google."`
	SystemRole string `json:"systemRole" enum:"SA|USER" doc:"SA for operators."`
}

// Session is a signed-in device, seen from itself.
type Session struct {
	ID            string    `json:"id"            format:"uuid" doc:"The session; never its token."`
	CreatedAt     time.Time `json:"createdAt"     doc:"When the user signed in."`
	ExpiresAt     time.Time `json:"expiresAt"     doc:"When it ends whatever happens."`
	IdleExpiresAt time.Time `json:"idleExpiresAt" doc:"When it ends if no request comes."`
}

// WorkspaceRole is a user's place in a workspace.
type WorkspaceRole struct {
	ID   string `json:"id"   format:"uuid"             doc:"The workspace."`
	Name string `json:"name" doc:"Its name."`
	Role string `json:"role" enum:"OWNER|ADMIN|MEMBER" doc:"The user's role in it."`
}

// GoogleConnection is a user's access to Google.
type GoogleConnection struct {
	State  string   `json:"state"  enum:"connected|reauth_required|disconnected" doc:"Whether it works; reauth_required wants the user to connect again."`
	Scopes []string `json:"scopes" doc:"What the user allowed."`
}

// Device is one of the user's sessions.
type Device struct {
	ID         string    `json:"id"         format:"uuid" doc:"The session."`
	CreatedAt  time.Time `json:"createdAt"  doc:"When the user signed in."`
	LastSeenAt time.Time `json:"lastSeenAt" doc:"When the last request came, within a minute."`
	ExpiresAt  time.Time `json:"expiresAt"  doc:"When it ends whatever happens."`
	IP         string    `json:"ip"         doc:"The address at sign-in."`
	UserAgent  string    `json:"userAgent"  doc:"The browser at sign-in."`
	Current    bool      `json:"current"    doc:"Whether it is this one."`
}

// The answers of the routes that lead to Google.
var (
	toGoogle = empty(http.StatusFound, "To Google.", "Location", "Set-Cookie")
	aStep    = answer{
		status: http.StatusOK, media: htmlMedia,
		doc: "A page with one button that repeats the request, if a page of another origin caused it (Sec-Fetch-Site).",
	}
)

func authRoutes() []route {
	const tag = "auth"
	return []route{
		{
			method: http.MethodGet, path: "/api/auth/login", id: "login", tag: tag, public: true,
			summary: "Sign in with Google.",
			query: []param{
				redirectParam(), loginHintParam(),
				flagParam("connect", "Ask for Google Tasks and Calendar too."),
				flagParam("reauthenticate", "Confirm that the session's user is present: Google shows its account chooser, and the same account counts "+
					"for 10 minutes. Without a session it is a sign-in, which counts as well. connect is ignored."),
			},
			answers: []answer{toGoogle, aStep},
			handle:  (*api).login,
		},
		{
			method: http.MethodGet, path: "/api/auth/callback", id: "loginCallback", tag: tag, public: true,
			summary: "Where Google sends the browser back to.",
			query: []param{
				textParam("state", "As login gave it to Google.", maxGoogleText),
				textParam("code", "What Google gives on consent.", maxGoogleText),
				textParam("error", "What Google gives otherwise.", maxGoogleText),
			},
			answers: []answer{empty(http.StatusFound, "To the path that login was asked to return to, with the session's cookie; "+
				"with ?error=… when Google gave no consent, or for another account than before; with ?problem=… when a re-authentication failed.",
				"Location").sometimes("Set-Cookie")},
			faults: []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict, http.StatusUnprocessableEntity},
			handle: (*api).callback,
		},
		{
			method: http.MethodPost, path: "/api/auth/logout", id: "logout", tag: tag,
			summary: "End this session.",
			answers: []answer{empty(http.StatusNoContent, "It is over.", "Set-Cookie", "Clear-Site-Data")},
			handle:  (*api).logout,
		},
		{
			method: http.MethodGet, path: "/api/auth/session", id: "getSession", tag: tag,
			summary: "Who is signed in.",
			answers: []answer{ok[CurrentSession](http.StatusOK, "This user.")},
			handle:  (*api).currentSession,
		},
		{
			method: http.MethodGet, path: "/api/auth/sessions", id: "listSessions", tag: tag, query: paging(),
			summary: "The user's sessions, newest first.",
			answers: []answer{ok[Page[Device]](http.StatusOK, "A page of them.")},
			handle:  (*api).listSessions,
		},
		{
			method: http.MethodDelete, path: "/api/auth/sessions", id: "revokeOtherSessions", tag: tag,
			summary: "End all of the user's sessions but this one.",
			answers: []answer{empty(http.StatusNoContent, "They are over.")},
			handle:  (*api).revokeOthers,
		},
		{
			method: http.MethodDelete, path: "/api/auth/sessions/{id}", id: "revokeSession", tag: tag,
			summary: "End one of the user's sessions.",
			answers: []answer{empty(http.StatusNoContent, "It is over.").sometimes("Set-Cookie", "Clear-Site-Data")},
			handle:  (*api).revokeSession,
		},
	}
}

func (a *api) login(c *call) error {
	redirect, _ := value[string](c, "redirect")
	hint, _ := value[string](c, "login_hint")
	connect, _ := value[bool](c, "connect")
	again, _ := value[bool](c, "reauthenticate")
	if c.fromElsewhere() {
		return c.step(http.StatusOK, stepSignIn, c.request().URL.RequestURI())
	}
	flow := signIn{Redirect: redirect, Connect: connect && !again}
	if again {
		switch err := c.authenticate(); {
		case err == nil:
			flow.Reauth, flow.UserID = true, c.user()
		case fault.KindOf(err) != fault.Unauthenticated:
			return err
		}
	}
	return a.toGoogle(c, flow, hint)
}

// callback ends what login or connectGoogle has begun. The state in the query and the one in the cookie must be the same:
// the browser that comes back is the one that left.
func (a *api) callback(c *call) error {
	state, _ := value[string](c, "state")
	flow, err := a.signInOf(c, state)
	if err != nil {
		// Opened a second time: the first has signed in and used up its cookie. Nothing follows from the query any more.
		if c.authenticate() == nil {
			return c.redirect("/")
		}
		return c.loginFailed(err, identity.FailedState)
	}
	a.forgetSignIn(c, state)
	if flow.UserID != "" {
		// Whom it is for was settled at the start; the session has to be the same person's still.
		if err := c.authenticate(); err != nil {
			return err
		}
		if c.user() != flow.UserID {
			return errSignIn
		}
	}
	if flow.Reauth {
		return a.reauthenticate(c, flow)
	}
	if refusal, refused := value[string](c, "error"); refused {
		if flow.UserID == "" {
			c.record(a.Identity.LoginFailed(c.ctx(), c.meta(), identity.FailedConsent))
		}
		return c.redirect(withError(flow.Redirect, refusal))
	}
	code, ok := value[string](c, "code")
	if !ok {
		return c.loginFailed(badParam("code", "given"), identity.FailedCode)
	}
	grant, err := a.Google.Exchange(c.ctx(), code, flow.Verifier, a.callbackURL())
	if err != nil {
		return c.loginFailed(err, identity.FailedCode)
	}
	if flow.UserID == "" {
		if err := a.signIn(c, grant); err != nil {
			return err
		}
	}
	if flow.Connect {
		connect := a.Google.Connect
		if flow.Switch {
			connect = a.Google.Switch
		}
		err := connect(c.ctx(), c.meta(), c.user(), grant)
		c.changed(c.user())
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == gsync.CodeAccountDiffers {
			return c.redirect(withError(flow.Redirect, "google_account_differs")) // a question, for the page to ask
		}
		if err != nil {
			return err
		}
	}
	return c.redirect(flow.Redirect)
}

// loginFailed puts a refused sign-in on record. An outage is no refusal, and a user who is signed in already has lost
// nothing.
func (c *call) loginFailed(err error, reason string) error {
	if c.user() != "" || fault.KindOf(err) == fault.Unavailable || fault.KindOf(err) == fault.Internal {
		return err
	}
	c.record(c.api.Identity.LoginFailed(c.ctx(), c.meta(), reason))
	return err
}

// signIn starts a session and puts its token into the cookie. The session that the browser had ends: whoever put its cookie
// there shall not see what the user does from now on.
func (a *api) signIn(c *call, grant gsync.Grant) error {
	token, session, err := a.Identity.SignIn(c.ctx(), c.meta(), identity.Profile{
		GoogleID: grant.GoogleID, Email: grant.Email, Name: grant.Name, EmailVerified: grant.EmailVerified,
	})
	if err != nil {
		return err
	}
	old, err := c.findSession()
	c.session = session
	if err == nil {
		err = a.Identity.Replace(c.ctx(), c.meta(), old.ID)
	}
	if err != nil && fault.KindOf(err) != fault.Unauthenticated {
		a.Log.Warn().Err(err).Str("request_id", c.id).Msg("the browser's session from before the sign-in has not been ended")
	}
	c.setSession(token.Reveal(), time.Until(session.ExpiresAt))
	return nil
}

func (a *api) logout(c *call) error {
	if err := a.Identity.Logout(c.ctx(), c.meta(), c.session.ID); err != nil {
		return err
	}
	c.signedOut()
	return c.empty(http.StatusNoContent)
}

func (a *api) currentSession(c *call) error {
	buffer := sessionBuffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is put there
	defer sessionBuffers.Put(buffer)
	*buffer = appendSession((*buffer)[:0], c.session)
	return c.write(http.StatusOK, jsonMedia, *buffer)
}

var sessionBuffers = sync.Pool{New: func() any { return new([]byte) }}

// appendSession writes a CurrentSession as encoding/json would. Every page asks for it, and a cached session costs less than
// the encoder.
func appendSession(b []byte, s identity.Session) []byte {
	b = appendText(b, `{"user":{"id":`, s.User.ID)
	b = appendText(b, `,"email":`, s.User.Email)
	b = appendText(b, `,"name":`, s.User.Name)
	b = appendText(b, `,"systemRole":`, s.User.SystemRole)
	b = appendText(b, `},"session":{"id":`, s.ID)
	b = appendTime(b, `,"createdAt":"`, s.CreatedAt)
	b = appendTime(b, `,"expiresAt":"`, s.ExpiresAt)
	b = appendTime(b, `,"idleExpiresAt":"`, s.IdleExpiresAt)
	b = append(b, `},"workspaces":[`...)
	for i, m := range s.Memberships {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, `{"id":`, m.WorkspaceID)
		b = appendText(b, `,"name":`, m.Name)
		b = append(appendText(b, `,"role":`, m.Role), '}')
	}
	b = append(appendText(b, `],"google":{"state":`, s.Google.State), `,"scopes":[`...)
	for i, scope := range s.Google.Scopes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, "", scope)
	}
	return append(b, "]}}\n"...)
}

// appendText writes what comes before, and a string.
func appendText(b []byte, before, s string) []byte {
	b = append(b, before...)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			var quoted bytes.Buffer
			enc := json.NewEncoder(&quoted)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(s) // a string in memory always can be
			return append(b, bytes.TrimSuffix(quoted.Bytes(), []byte{'\n'})...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// appendTime writes what comes before, its opening quote included, and a time.
func appendTime(b []byte, before string, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, before...), time.RFC3339Nano), '"')
}

func (a *api) listSessions(c *call) error {
	list, err := a.Identity.Sessions(c.ctx(), c.user())
	if err != nil {
		return err
	}
	devices := each(list, func(d identity.Device) Device {
		return Device{
			ID: d.ID, CreatedAt: d.CreatedAt.UTC(), LastSeenAt: d.LastSeenAt.UTC(), ExpiresAt: d.ExpiresAt.UTC(),
			IP: d.IP, UserAgent: d.UserAgent, Current: d.ID == c.session.ID,
		}
	})
	newestFirst := func(a, b string) int { return strings.Compare(b, a) }
	p, err := paginate(c, devices, func(d Device) string { return d.ID }, newestFirst)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) revokeOthers(c *call) error {
	if err := a.Identity.RevokeOthers(c.ctx(), c.meta(), c.user(), c.session.ID); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (a *api) revokeSession(c *call) error {
	if err := a.Identity.Revoke(c.ctx(), c.meta(), c.user(), c.path("id")); err != nil {
		return err
	}
	if c.path("id") == c.session.ID {
		c.signedOut()
	}
	return c.empty(http.StatusNoContent)
}

func (c *call) addCookie(cookie *http.Cookie) { http.SetCookie(c.gin.Writer, cookie) }

// orEmpty is list, or an empty one in the place of nil: JSON's [] instead of null.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
