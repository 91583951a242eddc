package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
)

// WorkspaceMaker is what a sign-in does to workspaces.
type WorkspaceMaker interface {
	// CreateTx makes a workspace and its OWNER.
	CreateTx(ctx context.Context, tx pgx.Tx, meta events.Meta, ownerID, name string) (id string, err error)
	// LeaveAllTx ends all memberships of a user who is erased, and deletes the workspaces that have no other member.
	LeaveAllTx(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string) error
}

// GoogleAccess ends what a user has at Google.
type GoogleAccess interface {
	// RevokeTx ends the user's access to Google in the caller's transaction, and all syncs with it.
	RevokeTx(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string) error
	// EraseTx is RevokeTx for a user who is erased: nothing stays that came from Google or was to go there.
	EraseTx(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string) error
}

// Service is the way to users and sessions. It is safe for concurrent use.
type Service struct {
	outbox     *outbox.Outbox
	workspaces WorkspaceMaker
	google     GoogleAccess
	cache      *Cache
	cached     func() bool
	seen       seen
}

// New returns a Service that writes through ob, makes first workspaces with ws, and ends access to Google with google.
func New(ob *outbox.Outbox, ws WorkspaceMaker, google GoogleAccess) *Service {
	return &Service{outbox: ob, workspaces: ws, google: google, cached: func() bool { return false }}
}

// UseCache makes s look for sessions in c first, as long as on says so. Call it before anything else. What s ends or changes
// it withdraws from c whether that is on or not.
func (s *Service) UseCache(c *Cache, on func() bool) { s.cache, s.cached = c, on }

// Pool is the database that s reads.
func (s *Service) Pool() postgres.Querier { return s.outbox.Pool() }

// signInAttempts is how often a sign-in is tried: when two make the same user at one moment, the second finds it at its
// second try.
const signInAttempts = 4

// SignIn starts a session for the person Google speaks of, whom it makes a user if need be, and returns the token for the
// cookie. An actor that meta doesn't name is the user. Other sessions stay. See the package for what it refuses.
func (s *Service) SignIn(ctx context.Context, meta events.Meta, p Profile) (seal.Secret, Session, error) {
	p, err := p.clean()
	if err != nil {
		return "", Session{}, err
	}
	token := newToken()
	var sess Session
	var changed map[string]int64
	for attempt := 1; ; attempt++ {
		err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
			var err error
			if sess, err = s.signIn(ctx, tx, meta, p, token); err != nil {
				return err
			}
			changed, err = outdated(ctx, tx, ofUser, sess.User.ID)
			return err
		})
		if attempt == signInAttempts || !lostRace(err) {
			break
		}
	}
	if err == nil {
		s.withdraw(ctx, changed)
		return token, sess, nil
	}
	if refused, ok := errors.AsType[*fault.Error](err); ok && refused.Kind == fault.Forbidden {
		reason := strings.ReplaceAll(refused.Code, "-", "_")
		err = errors.Join(err, s.loginFailed(ctx, meta, reason, events.MaskEmail(p.Email)))
	}
	return "", Session{}, err
}

// lostRace reports whether another transaction made what this one was about to make.
func lostRace(err error) bool {
	return postgres.IsState(err, postgres.UniqueViolation) || postgres.IsState(err, deadlockDetected)
}

const deadlockDetected = "40P01"

func (s *Service) signIn(ctx context.Context, tx pgx.Tx, meta events.Meta, p Profile, token seal.Secret) (Session, error) {
	a, err := lockByGoogleID(ctx, tx, p.GoogleID)
	if errors.Is(err, pgx.ErrNoRows) {
		a, err = s.admit(ctx, tx, meta, p)
	} else if err == nil {
		a, err = s.refresh(ctx, tx, a, p)
	}
	if err != nil {
		return Session{}, fmt.Errorf("sign in: %w", err)
	}
	sess, err := s.start(ctx, tx, as(meta, a.ID), a.ID, token)
	if err != nil {
		return Session{}, fmt.Errorf("start session for user %s: %w", a.ID, err)
	}
	return sess, nil
}

// admit makes a user of someone who signs in for the first time.
func (s *Service) admit(ctx context.Context, tx pgx.Tx, meta events.Meta, p Profile) (account, error) {
	if !p.EmailVerified {
		return account{}, refusal("email-unverified", "Google has not verified the email address of this account.")
	}
	a, err := lockByEmail(ctx, tx, p.Email)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		a, err = insertUser(ctx, tx, events.NewID(), p)
	case err == nil && a.GoogleID == p.GoogleID:
		return s.refresh(ctx, tx, a, p) // made by another sign-in since it was looked for
	case err == nil:
		err = refusal("email-taken", "Another Google account has signed in with this email address before.")
	}
	if err != nil {
		return account{}, err
	}
	meta = as(meta, a.ID)
	created := events.UserCreated{UserID: a.ID, Version: a.Version, Email: events.MaskEmail(p.Email)}
	if err := outbox.Append(ctx, tx, events.New(meta, "", created)); err != nil {
		return account{}, err
	}
	_, err = s.workspaces.CreateTx(ctx, tx, meta, a.ID, p.workspaceName())
	return a, err
}

// refresh takes over what Google says now of someone who is known. An address that is another person's here is left to
// them.
func (s *Service) refresh(ctx context.Context, tx pgx.Tx, a account, p Profile) (account, error) {
	if a.Disabled {
		return account{}, disabled()
	}
	email := a.Email
	if p.EmailVerified && p.Email != a.Email {
		holder, err := lockByEmail(ctx, tx, p.Email)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && holder.ID == a.ID {
			email = p.Email
		} else if err != nil {
			return account{}, err
		}
	}
	name := p.Name
	if name == "" {
		name = a.Name
	}
	if email == a.Email && name == a.Name {
		return a, nil
	}
	return updateUser(ctx, tx, a.ID, email, name)
}

func disabled() error { return refusal("account-disabled", "This account is disabled.") }

// as names the user as the actor where meta names none, and as the one concerned.
func as(meta events.Meta, userID string) events.Meta {
	if meta.ActorID == "" || meta.ActorID == events.AnonymousActor {
		meta.ActorID = userID
	}
	meta.UserID = userID
	return meta
}

func (s *Service) start(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string, token seal.Secret) (Session, error) {
	hash, _ := hashToken(token.Reveal())
	created := events.New(meta, "", events.SessionCreated{
		SessionID: events.NewID(), UserID: userID, Version: 1, Method: "google",
	})
	// The event's user agent is cleaned of what Postgres can't hold.
	if err := insertSession(ctx, tx, created.Subject, userID, hash[:], created.IP, created.UserAgent); err != nil {
		return Session{}, err
	}
	r, err := findSession(ctx, tx, hash[:])
	if err != nil {
		return Session{}, err
	}
	return r.session(), outbox.Append(ctx, tx, created)
}

// Remembered returns what Authenticate would, if that needs no look-up: this node has the session in memory, or knows that there is
// none. Else it reports false.
func (s *Service) Remembered(token string) (session Session, known bool, err error) {
	hash, ok := hashToken(token)
	switch {
	case !ok:
		return Session{}, true, errGone
	case !s.cached():
		return Session{}, false, nil
	}
	session, unnoted, known, err := s.cache.near(hash)
	if unnoted {
		s.seen.note(session.ID)
	}
	return session, known, err
}

// Authenticate finds the live session that a token belongs to, and who may enter where. Everything else is
// fault.Unauthenticated, without saying why. See the package for how old the answer may be.
func (s *Service) Authenticate(ctx context.Context, token string) (Session, error) {
	hash, ok := hashToken(token)
	if !ok {
		return Session{}, errGone
	}
	var session Session
	var unnoted bool
	if s.cached() {
		var err error
		if session, unnoted, err = s.cache.find(ctx, hash); err != nil {
			return Session{}, err
		}
	} else {
		r, err := findSession(ctx, s.outbox.Pool(), hash[:])
		if err != nil {
			return Session{}, err
		}
		session, unnoted = r.session(), r.Unnoted
	}
	if unnoted {
		s.seen.note(session.ID)
	}
	return session, nil
}

// Ended returns those of the sessions that have ended, in whatever way, in one statement.
func (s *Service) Ended(ctx context.Context, ids []string) ([]string, error) {
	return endedSessions(ctx, s.outbox.Pool(), ids)
}

// errGone is unauthenticated for good: no token comes to life, or back to it.
var errGone = fault.Wrap(nearcache.ErrGone, fault.Unauthenticated, "unauthenticated", "There is no valid session; sign in.")

// Sessions lists the live sessions of a user, newest first, 200 at most.
func (s *Service) Sessions(ctx context.Context, userID string) ([]Device, error) {
	list, err := listDevices(ctx, s.outbox.Pool(), userID)
	if err != nil {
		return nil, fmt.Errorf("list sessions of user %s: %w", userID, postgres.Fault(err))
	}
	return list, nil
}

// Logout ends the session that asks for it. One that has ended, or never was, is no error.
func (s *Service) Logout(ctx context.Context, meta events.Meta, sessionID string) error {
	if !events.ValidID(sessionID) {
		return nil
	}
	return s.end(ctx, meta, events.RevokedLogout, func(tx pgx.Tx) ([]ended, error) {
		return revokeSession(ctx, tx, nil, sessionID)
	})
}

// Replace ends a session in the place of which its browser has got another. One that has ended is no error.
func (s *Service) Replace(ctx context.Context, meta events.Meta, sessionID string) error {
	return s.end(ctx, meta, events.RevokedReplaced, func(tx pgx.Tx) ([]ended, error) {
		return revokeSession(ctx, tx, nil, sessionID)
	})
}

// Revoke ends one of the user's own sessions. One that has ended already is no error; another user's is fault.NotFound.
func (s *Service) Revoke(ctx context.Context, meta events.Meta, userID, sessionID string) error {
	if !events.ValidID(sessionID) {
		return fault.Missing("session")
	}
	return s.end(ctx, meta, events.RevokedByUser, func(tx pgx.Tx) ([]ended, error) {
		list, err := revokeSession(ctx, tx, &userID, sessionID)
		if err != nil || len(list) > 0 {
			return list, err
		}
		found, err := sessionExists(ctx, tx, userID, sessionID)
		if err == nil && !found {
			err = fault.Missing("session")
		}
		return nil, err
	})
}

// RevokeOthers ends all sessions of a user but one; all of them when exceptID is empty.
func (s *Service) RevokeOthers(ctx context.Context, meta events.Meta, userID, exceptID string) error {
	var except *string
	if exceptID != "" {
		except = &exceptID
	}
	return s.end(ctx, meta, events.RevokedOthers, func(tx pgx.Tx) ([]ended, error) {
		return revokeOthers(ctx, tx, userID, except)
	})
}

// RevokeAll ends all sessions of a user, as an operator does, and returns their ids.
func (s *Service) RevokeAll(ctx context.Context, meta events.Meta, userID string) ([]string, error) {
	return s.endAll(ctx, meta, events.RevokedByUser, func(tx pgx.Tx) ([]ended, error) { return revokeOthers(ctx, tx, userID, nil) })
}

// endAll is end, and returns the ids.
func (s *Service) endAll(ctx context.Context, meta events.Meta, reason string, revoke func(pgx.Tx) ([]ended, error)) ([]string, error) {
	ids := []string{}
	err := s.end(ctx, meta, reason, func(tx pgx.Tx) ([]ended, error) {
		list, err := revoke(tx)
		ids = ids[:0]
		for _, e := range list {
			ids = append(ids, e.ID)
		}
		return list, err
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// SessionUser finds whose a session is that has neither expired nor been revoked; fault.NotFound when there is none.
func (s *Service) SessionUser(ctx context.Context, sessionID string) (User, error) {
	if !events.ValidID(sessionID) {
		return User{}, fault.Missing("session")
	}
	a, err := s.findUser(ctx, `id = (SELECT user_id FROM sessions WHERE id = $1 AND revoked_at IS NULL AND expires_at > now())`, sessionID, "session")
	return a.User, err
}

func (s *Service) findUser(ctx context.Context, where, value, what string) (account, error) {
	a, err := findAccount(ctx, s.outbox.Pool(), where, value)
	if errors.Is(err, pgx.ErrNoRows) {
		return account{}, fault.Missing(what)
	}
	if err != nil {
		return account{}, fmt.Errorf("find user by %s: %w", what, postgres.Fault(err))
	}
	return a, nil
}

// end revokes in a transaction and tells it, session by session.
func (s *Service) end(ctx context.Context, meta events.Meta, reason string, revoke func(pgx.Tx) ([]ended, error)) error {
	var over map[string]int64
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		list, err := revoke(tx)
		if err != nil {
			return err
		}
		ids := make([]string, len(list))
		for i, e := range list {
			if err := outbox.Append(ctx, tx, e.event(meta, reason)); err != nil {
				return err
			}
			ids[i] = e.ID
		}
		over, err = outdated(ctx, tx, ofSessions, ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("end sessions (%s): %w", reason, err)
	}
	s.withdraw(ctx, over)
	return nil
}

// SetSystemRole makes a user an operator (events.SystemRoleAdmin) or an ordinary user again. The role that the user has
// already is no change. Sessions see it as soon as they would see their end, and get new tokens. The last operator who can sign
// in stays one: fault.Conflict.
func (s *Service) SetSystemRole(ctx context.Context, meta events.Meta, userID, role string) error {
	if role != events.SystemRoleAdmin && role != events.SystemRoleUser {
		return fault.Wrong(fault.Field{Pointer: "/systemRole", Detail: "Want SA or USER."})
	}
	if !events.ValidID(userID) {
		return fault.Missing("user")
	}
	var changed map[string]int64
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		a, err := lockByID(ctx, tx, userID)
		if err != nil || a.SystemRole == role {
			return err
		}
		if err := keepOperator(ctx, tx, a); err != nil {
			return err
		}
		version, err := updateSystemRole(ctx, tx, userID, role)
		if err != nil {
			return err
		}
		if changed, err = outdated(ctx, tx, ofUser, userID); err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(meta, "", events.UserRoleChanged{
			UserID: userID, Version: version, From: a.SystemRole, To: role,
		}))
	})
	if err != nil {
		return fmt.Errorf("set system role of user %s: %w", userID, err)
	}
	s.withdraw(ctx, changed)
	return nil
}

// Rotate gives a session that Authenticate has marked so a new token, which it returns for the cookie; what the session is else
// stays. The token that it replaces is let in for ReplacedGrace still. It must be the current one, and older than the user's
// roles: if not, another request has been faster, and there is no new token and no error.
func (s *Service) Rotate(ctx context.Context, meta events.Meta, sessionID, token string) (seal.Secret, error) {
	old, ok := hashToken(token)
	if !ok || !events.ValidID(sessionID) {
		return "", nil
	}
	fresh := newToken()
	hash, _ := hashToken(fresh.Reveal())
	var changed map[string]int64
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		r, found, err := replaceToken(ctx, tx, sessionID, old[:], hash[:])
		if err != nil || !found {
			return err
		}
		if changed, err = outdated(ctx, tx, ofSessions, []string{sessionID}); err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(meta, "", events.SessionRotated{
			SessionID: sessionID, UserID: r.UserID, Version: r.Version, Reason: events.RotatedRoleChange,
		}))
	})
	if err != nil {
		return "", fmt.Errorf("rotate session %s: %w", sessionID, err)
	}
	if changed == nil {
		return "", nil
	}
	s.withdraw(ctx, changed)
	return fresh, nil
}

// CodeAnotherAccount is the code of the refusal of a re-authentication with another Google account than the session's user has.
const CodeAnotherAccount = "reauthentication-another-account"

// Reauthenticate notes on a session that its user signed in with Google again, which gave the account googleID. Another account
// than the user's is fault.Forbidden with CodeAnotherAccount, and nothing changes. Nodes see it as soon as they see an end.
func (s *Service) Reauthenticate(ctx context.Context, meta events.Meta, sessionID, googleID string) error {
	var changed map[string]int64
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		r, found, err := reauthenticate(ctx, tx, sessionID, googleID)
		if err != nil {
			return err
		}
		if !found {
			return refusal(CodeAnotherAccount, "Choose the Google account that you are signed in with.")
		}
		if changed, err = outdated(ctx, tx, ofSessions, []string{sessionID}); err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(meta, "", events.SessionReauthenticated{
			SessionID: sessionID, UserID: r.UserID, Version: r.Version,
		}))
	})
	if err != nil {
		return fmt.Errorf("re-authenticate session %s: %w", sessionID, err)
	}
	s.withdraw(ctx, changed)
	return nil
}

// LoginFailed records a sign-in that came to nothing before there was a profile: one of the Failed… reasons.
func (s *Service) LoginFailed(ctx context.Context, meta events.Meta, reason string) error {
	return s.loginFailed(ctx, meta, reason, "")
}

func (s *Service) loginFailed(ctx context.Context, meta events.Meta, reason, maskedEmail string) error {
	return s.record(ctx, meta, "", events.AuthLoginFailed{Reason: reason, Email: maskedEmail})
}

// AccessDenied records a request that was refused for want of a right: one of the Denied… reasons. route is the pattern,
// without the ids of the request.
func (s *Service) AccessDenied(ctx context.Context, meta events.Meta, method, route, reason string) error {
	if route == "" {
		route = "unknown"
	}
	return s.record(ctx, meta, subject(route), events.AccessDenied{
		Method: oneLine(method, 32), Route: oneLine(route, maxName), Reason: reason,
	})
}

// subject is a route's pattern in the letters that an event's subject may have.
func subject(route string) string {
	return oneLine(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("-_.:/", r):
			return r
		case r == '{' || r == '}' || r == '*':
			return -1
		default:
			return '_'
		}
	}, route), maxName)
}

// record states a fact that stands alone.
func (s *Service) record(ctx context.Context, meta events.Meta, subject string, fact events.Payload) error {
	if meta.ActorID == "" {
		meta.ActorID = events.AnonymousActor
	}
	ev := events.New(meta, subject, fact)
	if err := s.outbox.Tx(ctx, func(tx pgx.Tx) error { return outbox.Append(ctx, tx, ev) }); err != nil {
		return fmt.Errorf("record %s: %w", ev.Action(), err)
	}
	return nil
}
