package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/seal"
)

// How long sessions last.
const (
	Lifetime    = 7 * 24 * time.Hour // from the sign-in
	IdleTimeout = 24 * time.Hour     // from the last request

	// ReauthenticatedFor is how long a sign-in with Google counts as recent: see Session.Reauthenticated.
	ReauthenticatedFor = 10 * time.Minute

	// ReplacedGrace is how long a token goes on that was replaced: other requests of the browser are under way with it.
	ReplacedGrace = 30 * time.Second

	// seenEvery is how often a request is noted: rarely enough to cost nothing, often enough not to matter to IdleTimeout.
	seenEvery = time.Minute
)

// Why a sign-in failed, as auth.login_failed tells it.
const (
	FailedConsent    = "consent_denied"
	FailedState      = "state_mismatch"
	FailedCode       = "code_refused"
	FailedUnverified = "email_unverified"
	FailedDisabled   = "account_disabled"
	FailedTaken      = "email_taken"
)

// Why a request was refused, as access.denied tells it.
const (
	DeniedRole       = "role"
	DeniedCSRF       = "csrf"
	DeniedSystemRole = "system_role"
)

// User is someone who has signed in.
type User struct {
	ID         string
	Email      string
	Name       string
	SystemRole string // events.SystemRoleAdmin ("SA") or events.SystemRoleUser ("USER")
}

// Membership is a user's place in a workspace.
type Membership struct {
	WorkspaceID string `json:"workspaceId"`
	Name        string `json:"name"` // the workspace's
	Role        string `json:"role"`
}

// Session is a signed-in user on a device, with what the user may enter at this moment.
type Session struct {
	ID            string
	User          User
	CreatedAt     time.Time
	ExpiresAt     time.Time // whatever happens
	IdleExpiresAt time.Time `json:"-"` // unless a request comes; not after ExpiresAt
	Memberships   []Membership
	Google        Google

	// ReauthenticatedAt is when the user last signed in with Google again, after CreatedAt; zero: not since then.
	ReauthenticatedAt time.Time `json:"reauthenticatedAt,omitzero"`

	// Of the token that was presented:
	TokenEndsAt time.Time `json:"tokenEndsAt,omitzero"` // when it is refused, if it was replaced; the session goes on
	Rotate      bool      `json:"rotate,omitempty"`     // it is the current one, from before the user's role changed: see Service.Rotate
}

// Reauthenticated reports whether the user signed in with Google within ReauthenticatedFor, at the start of the session or
// again during it.
func (s *Session) Reauthenticated() bool {
	last := s.CreatedAt
	if s.ReauthenticatedAt.After(last) {
		last = s.ReauthenticatedAt
	}
	return time.Since(last) < ReauthenticatedFor
}

// Google is what a user's connection to Google allows.
type Google struct {
	State  string // as gsync names it
	Scopes []string
}

// Device is one of a user's own sessions, as a list of devices shows it.
type Device struct {
	ID         string
	CreatedAt  time.Time
	LastSeenAt time.Time // within a minute
	ExpiresAt  time.Time
	IP         string
	UserAgent  string
}

// Profile is what Google says of the person who signs in.
type Profile struct {
	GoogleID      string // stable, unlike the address
	Email         string
	Name          string
	EmailVerified bool
}

const (
	maxName  = 200
	maxEmail = 254 // RFC 5321, 4.5.3.1.3
)

// clean brings a profile into the form that is stored.
func (p Profile) clean() (Profile, error) {
	p.Name = oneLine(p.Name, maxName)
	p.Email = strings.TrimSpace(p.Email)
	address, err := mail.ParseAddress(p.Email)
	if err != nil || address.Address != p.Email || len(p.Email) > maxEmail || oneLine(p.Email, maxEmail) != p.Email {
		return Profile{}, fault.New(fault.Invalid, "bad-profile", "The account has no usable email address.")
	}
	if p.GoogleID == "" || oneLine(p.GoogleID, 255) != p.GoogleID {
		return Profile{}, fault.New(fault.Invalid, "bad-profile", "The account has no usable id.")
	}
	return p, nil
}

// workspaceName is what the own workspace is called at first.
func (p Profile) workspaceName() string {
	name := p.Name
	if name == "" {
		name = p.Email[:strings.LastIndexByte(p.Email, '@')]
	}
	return oneLine(name, 180) + "'s workspace"
}

// oneLine drops what isn't printable from s, cuts it to so many characters and trims it.
func oneLine(s string, longest int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > longest {
		s = string(r[:longest])
	}
	return strings.TrimSpace(s)
}

// tokenBytes is how many random bytes a token has.
const tokenBytes = 32

// tokenText is the form that a cookie holds. There is one text for each token: no stray bits at the end.
var tokenText = base64.RawURLEncoding.Strict()

// newToken makes a session's token: what the cookie holds.
func newToken() seal.Secret {
	b := make([]byte, tokenBytes)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the program instead
	return seal.Secret(tokenText.EncodeToString(b))
}

// hashToken is what is stored of a token; false for what newToken can't have made. It runs with every request and allocates
// nothing.
func hashToken(token string) (hash [sha256.Size]byte, ok bool) {
	var text [(tokenBytes*8 + 5) / 6]byte
	if copy(text[:], token) != len(token) || len(token) != len(text) {
		return hash, false
	}
	var b [tokenBytes + 1]byte // Decode writes whole groups
	if _, err := tokenText.Decode(b[:], text[:]); err != nil {
		return hash, false
	}
	return sha256.Sum256(text[:]), true
}

// idleExpiry is when a session ends that is seen at this moment. That goes on record within a minute, so it may end a minute
// later than this.
func idleExpiry(expires time.Time) time.Time {
	if idle := time.Now().Add(IdleTimeout); idle.Before(expires) {
		return idle
	}
	return expires
}

func refusal(code, detail string) error {
	return fault.New(fault.Forbidden, code, "%s", detail)
}
