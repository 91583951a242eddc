package gsync

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	googleoauth "golang.org/x/oauth2/google"

	"fdc/internal/platform/fault"
)

// What FDC asks for. Users can untick any of the last three.
const (
	scopeTasks     = "https://www.googleapis.com/auth/tasks"
	scopeEvents    = "https://www.googleapis.com/auth/calendar.events"
	scopeCalendars = "https://www.googleapis.com/auth/calendar.calendarlist.readonly"
	scopeCalendar  = "https://www.googleapis.com/auth/calendar" // covers the two before; never asked for
)

var (
	signInScopes  = []string{"openid", "email", "profile"}
	connectScopes = []string{scopeTasks, scopeEvents, scopeCalendars}
)

// Grant is what a user's consent gave: who they are and, when asked for, access. It holds tokens: keep it in memory.
type Grant struct {
	GoogleID      string
	Email         string
	Name          string
	EmailVerified bool
	Scopes        []string

	token *oauth2.Token
}

// Purpose is why a user is sent to Google.
type Purpose int

// The purposes.
const (
	ForSignIn           Purpose = iota
	ForConnect                  // access to Tasks and Calendar, too
	ForReauthentication         // presence: Google shows its account chooser even to a user with a single session there
)

// AuthURL is where a user consents: code flow with PKCE S256. ForConnect yields a refresh token. verifier is the secret that
// Exchange needs again.
func (s *Service) AuthURL(state, verifier, redirectURL, loginHint string, purpose Purpose) string {
	scopes := signInScopes
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	switch purpose {
	case ForSignIn:
	case ForReauthentication:
		opts = append(opts, oauth2.SetAuthURLParam("prompt", "select_account"))
	case ForConnect:
		scopes = slices.Concat(signInScopes, connectScopes)
		// Without prompt=consent Google gives a refresh token on the first consent only.
		opts = append(opts, oauth2.AccessTypeOffline, oauth2.ApprovalForce,
			oauth2.SetAuthURLParam("include_granted_scopes", "true"))
	}
	if loginHint != "" {
		opts = append(opts, oauth2.SetAuthURLParam("login_hint", loginHint))
	}
	return s.flow(redirectURL, scopes).AuthCodeURL(state, opts...)
}

// Exchange turns the code of a callback into a grant. A code that Google doesn't take is fault.Malformed, a Google that
// doesn't answer fault.Unavailable.
func (s *Service) Exchange(ctx context.Context, code, verifier, redirectURL string) (Grant, error) {
	token, err := s.flow(redirectURL, nil).Exchange(s.oauthContext(ctx), code, oauth2.VerifierOption(verifier))
	if refusal, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refusal.Response.StatusCode < 500 {
		return Grant{}, fault.Wrap(err, fault.Malformed, "google-code-refused", "Google did not take the sign-in; please start again.")
	}
	if err != nil {
		return Grant{}, unavailable(fmt.Errorf("exchange code: %w", err))
	}
	info, err := s.userinfo(ctx, token)
	if err != nil {
		return Grant{}, unavailable(err)
	}
	if info.Id == "" || info.Email == "" {
		return Grant{}, fault.New(fault.Malformed, "google-identity-missing", "Google did not say who you are; please allow access to your email address.")
	}
	return Grant{
		GoogleID: info.Id, Email: info.Email, Name: clean(info.Name),
		EmailVerified: info.VerifiedEmail != nil && *info.VerifiedEmail,
		Scopes:        scopesOf(token, nil), token: token,
	}, nil
}

func unavailable(err error) error {
	return &fault.Error{
		Kind: fault.Unavailable, Code: "google-unavailable", Detail: "Google can't be reached right now; try again in a moment.",
		RetryAfter: 5 * time.Second, Err: err,
	}
}

// scopesOf is what the token's answer says was granted; Google leaves it out when nothing changed.
func scopesOf(token *oauth2.Token, otherwise []string) []string {
	granted, ok := token.Extra("scope").(string)
	if !ok || granted == "" {
		return otherwise
	}
	list := strings.Fields(granted)
	slices.Sort(list)
	return slices.Compact(list)
}

func (s *Service) flow(redirectURL string, scopes []string) *oauth2.Config {
	endpoint := oauth2.Endpoint{AuthURL: googleoauth.Endpoint.AuthURL, TokenURL: googleoauth.Endpoint.TokenURL}
	if base := s.oauth.Endpoint; base != "" {
		endpoint = oauth2.Endpoint{AuthURL: base + "/o/oauth2/v2/auth", TokenURL: base + "/token"}
	}
	// Detection would send every failing request twice.
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	return &oauth2.Config{
		ClientID: s.oauth.ClientID, ClientSecret: s.oauth.ClientSecret.Reveal(), Endpoint: endpoint,
		RedirectURL: redirectURL, Scopes: scopes,
	}
}

// oauthTimeout is shorter than that of other requests: a lease outlives a refresh, and people wait for a sign-in.
const oauthTimeout = 10 * time.Second

func (s *Service) oauthClient() *http.Client {
	return &http.Client{Transport: roundTripper(s.roundTrip), Timeout: oauthTimeout}
}

func (s *Service) oauthContext(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, s.oauthClient())
}

// refresh asks Google for a new access token.
func (s *Service) refresh(ctx context.Context, refreshToken string) (*oauth2.Token, error) {
	source := s.flow("", nil).TokenSource(s.oauthContext(ctx), &oauth2.Token{RefreshToken: refreshToken})
	token, err := source.Token()
	if err != nil {
		err = fmt.Errorf("refresh access token: %w", err)
		return nil, &failure{verdict: judgeRefresh(err), err: err}
	}
	return token, nil
}

// refusesGrant reports whether Google said that the refresh token is dead for good.
func refusesGrant(err error) bool {
	refusal, ok := errors.AsType[*oauth2.RetrieveError](err)
	return ok && refusal.ErrorCode == "invalid_grant"
}

// revoke ends the grant behind a token at Google. A token that is dead already is no error.
func (s *Service) revoke(ctx context.Context, token string) error {
	target := "https://oauth2.googleapis.com/revoke"
	if s.oauth.Endpoint != "" {
		target = s.oauth.Endpoint + "/revoke"
	}
	form := strings.NewReader(url.Values{"token": {token}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, form)
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := s.oauthClient().Do(req)
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // nothing is read from it
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("revoke token: Google answered %s", resp.Status)
	}
	return nil
}

// Hosts are the servers that have to be reachable: Google's own for OAuth, Tasks and Calendar, or the one at Endpoint.
func (o OAuth) Hosts() []string {
	if o.Endpoint != "" {
		return []string{o.Endpoint}
	}
	return []string{"https://oauth2.googleapis.com", "https://tasks.googleapis.com", "https://www.googleapis.com"}
}
