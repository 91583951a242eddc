package googleemu

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"html/template"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	authCodeLife   = 10 * time.Minute
	refreshIdle    = 180 * 24 * time.Hour // unused for so long, a refresh token dies
	defaultAccess  = 3600                 // seconds
	maxAccess      = 24 * 3600
	emulatorClient = "emulator" // the client behind the control API's tokens
	scopePrefix    = "https://www.googleapis.com/auth/"
)

// Scopes that a method accepts, any of them.
var (
	tasksRead  = []string{scopePrefix + "tasks", scopePrefix + "tasks.readonly"}
	tasksWrite = []string{scopePrefix + "tasks"}
	listRead   = []string{
		scopePrefix + "calendar", scopePrefix + "calendar.readonly",
		scopePrefix + "calendar.calendarlist", scopePrefix + "calendar.calendarlist.readonly",
	}
	listWrite  = []string{scopePrefix + "calendar", scopePrefix + "calendar.calendarlist"}
	eventsRead = []string{
		scopePrefix + "calendar", scopePrefix + "calendar.readonly", scopePrefix + "calendar.events", scopePrefix + "calendar.events.readonly",
		scopePrefix + "calendar.events.owned", scopePrefix + "calendar.events.owned.readonly",
	}
	eventsWrite = []string{scopePrefix + "calendar", scopePrefix + "calendar.events", scopePrefix + "calendar.events.owned"}
	signIn      = []string{"openid", scopePrefix + "userinfo.email", scopePrefix + "userinfo.profile"}
	everything  = append(slices.Clone(signIn), scopePrefix+"tasks", scopePrefix+"calendar")
)

// settings is how OAuth behaves.
type settings struct {
	RotateRefreshTokens bool                `json:"rotateRefreshTokens"`
	AccessTokenSeconds  int                 `json:"accessTokenSeconds"` // 0: an hour
	GrantedScopes       map[string][]string `json:"grantedScopes"`      // by email: what the user leaves ticked
}

func (s settings) accessLife() time.Duration {
	return time.Duration(cmp.Or(s.AccessTokenSeconds, defaultAccess)) * time.Second
}

// grant is what a user has allowed a client.
type grant struct {
	Scopes  []string `json:"scopes"`
	Offline bool     `json:"offline"` // a refresh token was given out
}

func grantKey(email, client string) string { return email + "\n" + client }

// authCode is a sign-in on its way from the browser to the client's server.
type authCode struct {
	email, client, redirect string
	challenge, method       string
	scopes                  []string
	refresh                 bool
	expires                 time.Time
}

type refreshToken struct {
	Email  string    `json:"email"`
	Client string    `json:"client"`
	Scopes []string  `json:"scopes"`
	Issued time.Time `json:"issued"`
	Used   time.Time `json:"used"`
}

type accessToken struct {
	Email   string    `json:"email"`
	Client  string    `json:"client"`
	Scopes  []string  `json:"scopes"`
	Expires time.Time `json:"expires"`
}

func (e *Emulator) routeOAuth() {
	e.google("GET /o/oauth2/v2/auth", e.authPage)
	e.google("POST /token", e.token)
	e.google("POST /revoke", e.revoke)
	e.google("GET /oauth2/v2/userinfo", func(c *call) reply {
		if err := e.authorize(c, signIn); err != nil {
			return err.reply()
		}
		return reply{status: http.StatusOK, json: e.userinfo(c)}
	})
}

// authorize finds the caller behind the bearer token and checks what it may do.
func (e *Emulator) authorize(c *call, scopes []string) *apiError {
	token, ok := e.st.Access[c.bearer()]
	if !ok || !c.now.Before(token.Expires) {
		return unauthorized()
	}
	u := e.st.user(token.Email)
	if u == nil {
		return unauthorized()
	}
	if !slices.ContainsFunc(scopes, func(s string) bool { return slices.Contains(token.Scopes, s) }) {
		return insufficientScopes()
	}
	c.user = u
	return nil
}

// whose names the user a call is about, as far as that can be known before it is answered.
func (e *Emulator) whose(c *call) string {
	if t, ok := e.st.Access[c.bearer()]; ok {
		return t.Email
	}
	switch c.path {
	case "/o/oauth2/v2/auth":
		if u := e.st.user(c.query.Get("login_hint")); u != nil {
			return u.Email
		}
	case "/token":
		if t, ok := e.st.Refresh[c.formValue("refresh_token")]; ok {
			return t.Email
		}
		return e.codes[c.formValue("code")].email
	case "/revoke":
		if t, ok := e.st.Refresh[c.formValue("token")]; ok {
			return t.Email
		}
		return e.st.Access[c.formValue("token")].Email
	}
	return ""
}

// authPage signs a known login_hint in at once and lets everyone else choose.
func (e *Emulator) authPage(c *call) reply {
	q := c.query
	target, ok := loopback(q.Get("redirect_uri"))
	switch {
	case q.Get("client_id") == "":
		return authProblem("invalid_request", "Missing required parameter: client_id")
	case q.Get("redirect_uri") == "":
		return authProblem("invalid_request", "Missing required parameter: redirect_uri")
	case !ok:
		return authProblem("redirect_uri_mismatch", "The emulator redirects to loopback addresses only.")
	case q.Get("response_type") != "code":
		return authProblem("unsupported_response_type", "response_type must be code.")
	case strings.TrimSpace(q.Get("scope")) == "":
		return authProblem("invalid_request", "Missing required parameter: scope")
	}
	method := cmp.Or(q.Get("code_challenge_method"), "plain")
	if q.Get("code_challenge") != "" && method != "S256" && method != "plain" {
		return authProblem("invalid_request", "Invalid code_challenge_method: "+method)
	}

	u := e.st.user(q.Get("login_hint"))
	prompts := strings.Fields(q.Get("prompt"))
	switch {
	case u == nil && slices.Contains(prompts, "none"):
		return redirect(target, q, url.Values{"error": {"login_required"}})
	case u == nil:
		return e.chooseAccount(c, target)
	}

	granted := e.granted(u.Email, canonicalScopes(q.Get("scope")))
	if len(granted) == 0 {
		return redirect(target, q, url.Values{"error": {"access_denied"}})
	}
	key := grantKey(u.Email, q.Get("client_id"))
	before := e.st.Grants[key]
	after := grant{Scopes: union(before.Scopes, granted), Offline: before.Offline}
	if q.Get("include_granted_scopes") == "true" {
		granted = after.Scopes
	}
	refresh := q.Get("access_type") == "offline" && (!before.Offline || slices.Contains(prompts, "consent"))
	after.Offline = after.Offline || refresh
	e.st.Grants[key] = after
	e.changed()

	code := "4/0" + rand.Text() + rand.Text()
	maps.DeleteFunc(e.codes, func(_ string, a authCode) bool { return !c.now.Before(a.expires) })
	if len(e.codes) >= maxAuthCodes {
		return authProblem("server_error", "Too many unused codes.")
	}
	e.codes[code] = authCode{
		email: u.Email, client: q.Get("client_id"), redirect: q.Get("redirect_uri"),
		challenge: q.Get("code_challenge"), method: method,
		scopes: granted, refresh: refresh, expires: c.now.Add(authCodeLife),
	}
	return redirect(target, q, url.Values{"code": {code}, "scope": {strings.Join(granted, " ")}})
}

// granted is what the user leaves ticked of what was asked. Signing in cannot be unticked.
func (e *Emulator) granted(email string, asked []string) []string {
	allowed, limited := e.st.Settings.GrantedScopes[email]
	if !limited {
		return asked
	}
	allowed = canonicalScopes(strings.Join(allowed, " "))
	return slices.DeleteFunc(slices.Clone(asked), func(s string) bool {
		return !slices.Contains(allowed, s) && !slices.Contains(signIn, s)
	})
}

// canonicalScopes spells scopes as Google answers them: email and profile have long names there.
func canonicalScopes(text string) []string {
	var scopes []string
	for s := range strings.FieldsSeq(text) {
		if s == "email" || s == "profile" {
			s = scopePrefix + "userinfo." + s
		}
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// loopback parses a redirect address and reports whether it stays on this machine.
func loopback(address string) (*url.URL, bool) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Fragment != "" {
		return nil, false
	}
	ip := net.ParseIP(u.Hostname())
	return u, u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func redirect(target *url.URL, asked, answer url.Values) reply {
	q := target.Query()
	if asked.Has("state") {
		q.Set("state", asked.Get("state"))
	}
	maps.Copy(q, answer)
	u := *target
	u.RawQuery = q.Encode()
	return reply{status: http.StatusFound, header: http.Header{"Location": {u.String()}}}
}

var accountPage = template.Must(template.New("accounts").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Sign in · Google emulator</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:10vh auto;padding:0 1rem}a{display:block;padding:.6rem 1rem;margin:.4rem 0;border:1px solid #8888;border-radius:.5rem;text-decoration:none;color:inherit}a:hover,a:focus{border-color:#06c}small{color:#666}</style>
<h1>Choose an account</h1>
<p><small>Google emulator, for {{.Client}}</small></p>
{{range .Accounts}}<a href="{{.Link}}">{{.Name}}<br><small>{{.Email}}</small></a>
{{else}}<p>There are no users yet: POST /_emulator/users makes one.</p>
{{end}}<p><a href="{{.Cancel}}">Cancel</a></p>
</html>
`))

var problemPage = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Error · Google emulator</title>
<h1>Access blocked: authorization error</h1><p>{{.Message}}</p><p>Error 400: {{.Reason}}</p></html>
`))

func render(status int, t *template.Template, data any) reply {
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return refusal(err)
	}
	return reply{status: status, html: b.String(), header: http.Header{
		"Content-Security-Policy": {"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"},
	}}
}

func authProblem(reason, message string) reply {
	return render(http.StatusBadRequest, problemPage, map[string]string{"Reason": reason, "Message": message})
}

// chooseAccount is the page with all users; a click is the same request with a login_hint.
func (e *Emulator) chooseAccount(c *call, target *url.URL) reply {
	type account struct{ Name, Email, Link string }
	var accounts []account
	for _, email := range slices.Sorted(maps.Keys(e.st.Users)) {
		u := e.st.Users[email]
		q := maps.Clone(c.query)
		q.Set("login_hint", u.Email)
		accounts = append(accounts, account{Name: u.Name, Email: u.Email, Link: c.path + "?" + q.Encode()})
	}
	cancel := redirect(target, c.query, url.Values{"error": {"access_denied"}})
	return render(http.StatusOK, accountPage, map[string]any{
		"Accounts": accounts, "Client": c.query.Get("client_id"), "Cancel": cancel.header.Get("Location"),
	})
}

// oauthError is an error as RFC 6749 writes it.
func oauthError(status int, code, description string) reply {
	return reply{status: status, json: object{"error": code, "error_description": description}}
}

// token trades a code or a refresh token for an access token.
func (e *Emulator) token(c *call) reply {
	client := c.formValue("client_id") // any secret is right
	if id, _, ok := c.BasicAuth(); ok {
		client = unescape(id)
	}
	if client == "" {
		return oauthError(http.StatusUnauthorized, "invalid_client", "The OAuth client was not found.")
	}
	switch c.formValue("grant_type") {
	case "authorization_code":
		return e.tokenForCode(c, client)
	case "refresh_token":
		return e.tokenForRefresh(c, client)
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request", "Missing required parameter: grant_type")
	}
	return oauthError(http.StatusBadRequest, "unsupported_grant_type", "Invalid grant_type: "+c.formValue("grant_type"))
}

// unescape undoes the form encoding that RFC 6749 wants inside Basic credentials.
func unescape(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

func (e *Emulator) tokenForCode(c *call, client string) reply {
	text := c.formValue("code")
	code, ok := e.codes[text]
	delete(e.codes, text) // one use, whatever comes of it
	switch {
	case !ok || !c.now.Before(code.expires):
		return oauthError(http.StatusBadRequest, "invalid_grant", "Malformed auth code.")
	case code.client != client:
		return oauthError(http.StatusBadRequest, "invalid_grant", "The code was issued to another client.")
	case code.redirect != c.formValue("redirect_uri"):
		return oauthError(http.StatusBadRequest, "redirect_uri_mismatch", "Bad Request")
	case !verified(code, c.formValue("code_verifier")):
		return oauthError(http.StatusBadRequest, "invalid_grant", "Invalid code verifier.")
	}
	if _, stands := e.st.Grants[grantKey(code.email, client)]; !stands {
		return oauthError(http.StatusBadRequest, "invalid_grant", "Token has been expired or revoked.")
	}
	answer := e.issueAccess(c.now, code.email, client, code.scopes)
	if code.refresh {
		answer["refresh_token"] = e.issueRefresh(c.now, code.email, client, code.scopes)
	}
	return tokenReply(answer)
}

// verified checks PKCE: a challenge needs its verifier, and a verifier needs a challenge.
func verified(code authCode, verifier string) bool {
	if code.challenge == "" {
		return verifier == ""
	}
	got := verifier
	if code.method == "S256" {
		sum := sha256.Sum256([]byte(verifier))
		got = opaque(sum[:])
	}
	return subtle.ConstantTimeCompare([]byte(got), []byte(code.challenge)) == 1
}

func (e *Emulator) tokenForRefresh(c *call, client string) reply {
	text := c.formValue("refresh_token")
	t, ok := e.st.Refresh[text]
	if !ok || t.Client != client || c.now.Sub(t.Used) > refreshIdle {
		return oauthError(http.StatusBadRequest, "invalid_grant", "Token has been expired or revoked.")
	}
	t.Used = c.now
	e.st.Refresh[text] = t
	answer := e.issueAccess(c.now, t.Email, client, t.Scopes)
	if e.st.Settings.RotateRefreshTokens {
		delete(e.st.Refresh, text)
		answer["refresh_token"] = e.issueRefresh(c.now, t.Email, client, t.Scopes)
	}
	return tokenReply(answer)
}

func tokenReply(answer object) reply {
	return reply{status: http.StatusOK, json: answer, header: http.Header{"Pragma": {"no-cache"}}}
}

func (e *Emulator) issueAccess(now time.Time, email, client string, scopes []string) object {
	if len(e.st.Access)%1024 == 0 { // often enough to keep dead tokens few, too seldom to cost anything
		maps.DeleteFunc(e.st.Access, func(_ string, t accessToken) bool { return !now.Before(t.Expires) })
	}
	if len(e.st.Access) >= maxAccessTokens { // somebody loops: forget whichever ends first
		first := ""
		for text, t := range e.st.Access {
			if first == "" || t.Expires.Before(e.st.Access[first].Expires) {
				first = text
			}
		}
		delete(e.st.Access, first)
	}
	life := e.st.Settings.accessLife()
	text := "ya29." + rand.Text() + rand.Text()
	e.st.Access[text] = accessToken{Email: email, Client: client, Scopes: scopes, Expires: now.Add(life)}
	e.changed()
	return object{
		"access_token": text, "token_type": "Bearer", "expires_in": int(life / time.Second), "scope": strings.Join(scopes, " "),
	}
}

// issueRefresh gives out a refresh token. Beyond a hundred for one client and user the oldest dies, silently as at Google.
func (e *Emulator) issueRefresh(now time.Time, email, client string, scopes []string) string {
	var oldest string
	count := 0
	for text, t := range e.st.Refresh {
		if t.Email != email || t.Client != client {
			continue
		}
		count++
		if oldest == "" || t.Issued.Before(e.st.Refresh[oldest].Issued) {
			oldest = text
		}
	}
	if count >= maxRefreshTokens {
		delete(e.st.Refresh, oldest)
	}
	text := "1//0" + rand.Text() + rand.Text()
	e.st.Refresh[text] = refreshToken{Email: email, Client: client, Scopes: scopes, Issued: now, Used: now}
	e.changed()
	return text
}

// revoke ends the grant behind either kind of token.
func (e *Emulator) revoke(c *call) reply {
	text := c.formValue("token")
	email, client := e.st.Refresh[text].Email, e.st.Refresh[text].Client
	if email == "" {
		email, client = e.st.Access[text].Email, e.st.Access[text].Client
	}
	if email == "" {
		return oauthError(http.StatusBadRequest, "invalid_token", "Token expired or revoked")
	}
	e.endGrants(email, client)
	return reply{status: http.StatusOK, json: object{}}
}

// endGrants makes every token void that the user gave to the client, or to all clients when it is "".
func (e *Emulator) endGrants(email, client string) {
	hit := func(owner, holder string) bool { return owner == email && (client == "" || holder == client) }
	maps.DeleteFunc(e.st.Refresh, func(_ string, t refreshToken) bool { return hit(t.Email, t.Client) })
	maps.DeleteFunc(e.st.Access, func(_ string, t accessToken) bool { return hit(t.Email, t.Client) })
	maps.DeleteFunc(e.codes, func(_ string, a authCode) bool { return hit(a.email, a.client) })
	maps.DeleteFunc(e.st.Grants, func(key string, _ grant) bool {
		owner, holder, _ := strings.Cut(key, "\n")
		return hit(owner, holder)
	})
	e.changed()
}

// userinfo tells as much as the token's scopes allow.
func (e *Emulator) userinfo(c *call) object {
	scopes := e.st.Access[c.bearer()].Scopes
	info := object{"id": c.user.ID}
	if slices.Contains(scopes, scopePrefix+"userinfo.email") {
		info["email"], info["verified_email"] = c.user.Email, true
	}
	if slices.Contains(scopes, scopePrefix+"userinfo.profile") {
		given, family, _ := strings.Cut(c.user.Name, " ")
		info["name"], info["given_name"], info["family_name"] = c.user.Name, given, family
	}
	return info
}
