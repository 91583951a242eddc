package gsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// States of a Google account.
const (
	StateConnected      = "connected"
	StateReauthRequired = "reauth_required"
	StateDisconnected   = "disconnected"
)

// Why an account needs its user, for google.reauth_required.
const (
	reasonInvalidGrant = "invalid_grant"
	reasonInvalidToken = "invalid_token"
)

// CodeAccountDiffers is the code of the fault.Conflict with which Connect refuses another Google account than the one before.
const CodeAccountDiffers = "google-account-differs"

// Connect keeps what a grant allows. A Google account other than the one before is fault.Conflict CodeAccountDiffers, and nothing
// changes: Switch is for who wants it. A grant that can't last is fault.Conflict "google-consent-incomplete".
func (s *Service) Connect(ctx context.Context, meta events.Meta, userID string, g Grant) error {
	return s.ob.Tx(ctx, func(tx pgx.Tx) error {
		if err := lockEnabled(ctx, tx, userID); err != nil {
			return err
		}
		a, err := lockAccount(ctx, tx, userID)
		if err != nil {
			return err
		}
		if a.GoogleID != "" && a.GoogleID != g.GoogleID {
			return fault.New(fault.Conflict, CodeAccountDiffers,
				"You were connected as %s before; choose that account at Google, or ask to switch.", events.MaskEmail(a.Email))
		}
		refreshToken := s.seal(userID, kindRefresh, g.token.RefreshToken)
		if g.token.RefreshToken == "" {
			if a.State != StateConnected {
				return errIncomplete
			}
			refreshToken = a.RefreshToken
		}
		a = account{
			UserID: userID, GoogleID: g.GoogleID, Email: g.Email, State: StateConnected, Scopes: g.Scopes,
			AccessToken: s.seal(userID, kindAccess, g.token.AccessToken), RefreshToken: refreshToken,
			AccessExpiresAt: &g.token.Expiry,
		}
		version, err := saveAccount(ctx, tx, a)
		if err != nil {
			return err
		}
		if err := dropRevocations(ctx, tx, g.GoogleID); err != nil {
			return err
		}
		if _, err := schedule(ctx, tx, userID, atOnce); err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(meta, userID, events.GoogleConnected{
			UserID: userID, Version: version, Scopes: labels(g.Scopes),
		}))
	})
}

// lockEnabled keeps the user from being disabled until the end of the transaction; one who is disabled already is fault.Forbidden.
func lockEnabled(ctx context.Context, tx pgx.Tx, userID string) error {
	var disabled bool
	err := tx.QueryRow(ctx, `SELECT disabled_at IS NOT NULL FROM users WHERE id = $1 FOR SHARE`, userID).Scan(&disabled)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fault.Missing("user")
	case err != nil:
		return fmt.Errorf("lock user %s: %w", userID, err)
	case disabled:
		return fault.New(fault.Forbidden, "account-disabled", "This account is disabled.")
	}
	return nil
}

// Switch connects another Google account in the place of the one before, whose access is revoked, and of which nothing is kept but
// what it has brought: the tasks stay, and go to the new account's list with its first sync; events, links and choices of lists and
// calendars go. Each of its steps leaves an account that is either connected or not, so one that is broken off is begun again.
func (s *Service) Switch(ctx context.Context, meta events.Meta, userID string, g Grant) error {
	before, err := s.account(ctx, s.ob.Pool(), userID)
	if err != nil {
		return postgres.Fault(err)
	}
	if before.GoogleID != "" && before.GoogleID != g.GoogleID {
		if g.token.RefreshToken == "" {
			return errIncomplete
		}
		if err := s.Disconnect(ctx, meta, userID); err != nil {
			return err
		}
		if err := s.ob.Tx(ctx, func(tx pgx.Tx) error { return forgetAccount(ctx, tx, userID, before.GoogleID) }); err != nil {
			return err
		}
	}
	return s.Connect(ctx, meta, userID, g)
}

// forgetAccount forgets whose Google a disconnected account was, and all that is only true of that one.
func forgetAccount(ctx context.Context, tx pgx.Tx, userID, googleID string) error {
	tag, err := tx.Exec(ctx, `
		UPDATE google_accounts SET google_id = '', email = '', default_task_list = '', version = version + 1, updated_at = now()
		WHERE user_id = $1 AND google_id = $2 AND state = $3`, userID, googleID, StateDisconnected)
	if err != nil {
		return fmt.Errorf("forget Google account of user %s: %w", userID, err)
	}
	if tag.RowsAffected() == 0 {
		return nil // somebody has connected meanwhile; Connect says what there is to say
	}
	for _, table := range []string{"google_task_links", "calendar_events", "sync_state", "sync_settings"} {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE user_id = $1`, userID); err != nil {
			return fmt.Errorf("forget Google account of user %s: %s: %w", userID, table, err)
		}
	}
	return nil
}

// labels is what an event says of scopes.
func labels(scopes []string) []string {
	if len(scopes) == 0 {
		return []string{"none"}
	}
	return scopes[:min(len(scopes), 100)]
}

// Disconnect erases the user's tokens, cancels the user's jobs and revokes the tokens at Google. What was synced stays, as
// do the links, so that a later Connect goes on where this one ended. While Google is unavailable the revocation stays queued for
// a Revoker, and the user is disconnected all the same.
func (s *Service) Disconnect(ctx context.Context, meta events.Meta, userID string) error {
	var revocationID string
	err := s.ob.Tx(ctx, func(tx pgx.Tx) error {
		var err error
		revocationID, err = endAccess(ctx, tx, meta, userID, endedByUser)
		return err
	})
	if err != nil || revocationID == "" {
		return err
	}
	// Only now: to a job that still runs, a revoked token would look as if the user had done it at Google.
	if _, err := s.revokeNext(ctx, revocationID); err != nil {
		s.log.Warn().Err(err).Str("user_id", userID).Msg("access not revoked at Google yet")
	}
	return nil
}

// Kinds of tokens, for the purpose they are sealed with.
const (
	kindAccess  = "access"
	kindRefresh = "refresh"
)

func (s *Service) seal(userID, kind, token string) []byte {
	if token == "" {
		return nil
	}
	return s.keys.Seal("google/"+kind+"/"+userID, []byte(token))
}

func (s *Service) open(userID, kind string, sealed []byte) (string, error) {
	token, err := s.keys.Open("google/"+kind+"/"+userID, sealed)
	if err != nil {
		return "", fmt.Errorf("%s token of user %s: %w", kind, userID, err)
	}
	return string(token), nil
}

// accessToken is one that Google takes until it expires.
type accessToken struct {
	value   string
	expires time.Time
	refused bool // before its time
}

// expiryMargin is how long before its end a token counts as expired.
const expiryMargin = 10 * time.Second

func (t accessToken) valid() bool {
	return t.value != "" && !t.refused && time.Now().Add(expiryMargin).Before(t.expires)
}

// authorize makes sure that the client has a token that Google may take.
func (c *client) authorize(ctx context.Context) error {
	if c.token.valid() {
		return nil
	}
	token, err := c.s.access(ctx, c.userID, c.token.value)
	if err != nil {
		return err
	}
	c.token = token
	return nil
}

var errIncomplete = fault.New(fault.Conflict, "google-consent-incomplete",
	"Google gave no lasting access; connect again and confirm all questions.")

// errReauth and errNotConnected are the two ways in which only the user can help.
var (
	errReauth = fault.New(fault.Conflict, "google-reauth-required",
		"Google no longer accepts FDC's access; connect again to renew it.")
	errNotConnected = fault.New(fault.Conflict, "google-not-connected", "Google is not connected.")
)

// usable is the stored token while it serves, none when it must be refreshed.
func (s *Service) usable(a account, stale string) (accessToken, error) {
	switch a.State {
	case StateReauthRequired:
		return accessToken{}, errReauth
	case StateDisconnected:
		return accessToken{}, errNotConnected
	}
	if len(a.AccessToken) == 0 || a.AccessExpiresAt == nil {
		return accessToken{}, nil
	}
	value, err := s.open(a.UserID, kindAccess, a.AccessToken)
	if err != nil {
		return accessToken{}, err
	}
	token := accessToken{value: value, expires: *a.AccessExpiresAt}
	if value == stale || !token.valid() {
		return accessToken{}, nil
	}
	return token, nil
}

// refused records that Google does not take even a fresh token, unless somebody has renewed the consent meanwhile.
func (s *Service) refused(ctx context.Context, userID, reason, token string, cause error) error {
	err := s.ob.Tx(ctx, func(tx pgx.Tx) error {
		a, err := lockAccount(ctx, tx, userID)
		if err != nil || a.State != StateConnected {
			return err
		}
		if current, err := s.usable(a, ""); err != nil || current.value != token {
			return err
		}
		return s.requireReauth(ctx, tx, a, reason)
	})
	if err != nil {
		return errors.Join(err, cause)
	}
	return errReauth
}

// requireReauth marks the account as one that only its user can renew. The tokens are of no use any more.
func (s *Service) requireReauth(ctx context.Context, tx pgx.Tx, a account, reason string) error {
	a.State, a.AccessToken, a.RefreshToken, a.AccessExpiresAt = StateReauthRequired, nil, nil, nil
	version, err := saveAccount(ctx, tx, a)
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, events.New(s.background(a.UserID, ""), a.UserID, events.GoogleReauthRequired{
		UserID: a.UserID, Version: version, Reason: reason,
	}))
}

// granted reports whether the scopes allow what is needed.
func granted(scopes []string, need string) bool {
	if slices.Contains(scopes, need) {
		return true
	}
	return need != scopeTasks && slices.Contains(scopes, scopeCalendar)
}

type account struct {
	UserID          string
	GoogleID        string
	Email           string
	State           string
	Scopes          []string
	AccessToken     []byte
	RefreshToken    []byte
	AccessExpiresAt *time.Time
	DefaultTaskList string
}

const accountColumns = `user_id, google_id, email, state, scopes, access_token, refresh_token, access_expires_at, default_task_list`

// account reads the user's account; one in StateDisconnected when there is none.
func (s *Service) account(ctx context.Context, q postgres.Querier, userID string) (account, error) {
	return readAccount(ctx, q, userID, `SELECT `+accountColumns+` FROM google_accounts WHERE user_id = $1`)
}

// lockAccount reads the account and locks its row for the rest of the transaction.
func lockAccount(ctx context.Context, tx pgx.Tx, userID string) (account, error) {
	return readAccount(ctx, tx, userID, `SELECT `+accountColumns+` FROM google_accounts WHERE user_id = $1 FOR UPDATE`)
}

func readAccount(ctx context.Context, q postgres.Querier, userID, sql string) (account, error) {
	rows, err := q.Query(ctx, sql, userID)
	if err != nil {
		return account{}, fmt.Errorf("read Google account of user %s: %w", userID, err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[account])
	if errors.Is(err, pgx.ErrNoRows) {
		return account{UserID: userID, State: StateDisconnected, Scopes: []string{}}, nil
	}
	if err != nil {
		return account{}, fmt.Errorf("read Google account of user %s: %w", userID, err)
	}
	return a, nil
}

// saveAccount stores all but the default list, and returns the account's new version.
func saveAccount(ctx context.Context, tx pgx.Tx, a account) (int64, error) {
	var version int64
	err := tx.QueryRow(ctx, `
		INSERT INTO google_accounts (user_id, google_id, email, state, scopes, access_token, refresh_token, access_expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (user_id) DO UPDATE SET
			google_id = excluded.google_id, email = excluded.email, state = excluded.state, scopes = excluded.scopes,
			access_token = excluded.access_token, refresh_token = excluded.refresh_token,
			access_expires_at = excluded.access_expires_at, version = google_accounts.version + 1, updated_at = now(),
			refresh_lease = NULL, refresh_until = NULL -- a refresh that is under way is of other tokens
		RETURNING version`,
		a.UserID, a.GoogleID, a.Email, a.State, a.Scopes, a.AccessToken, a.RefreshToken, a.AccessExpiresAt).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("save Google account of user %s: %w", a.UserID, err)
	}
	return version, nil
}

// saveTokens stores refreshed tokens, which is no fact to tell.
func saveTokens(ctx context.Context, tx pgx.Tx, a account) error {
	_, err := tx.Exec(ctx, `
		UPDATE google_accounts SET access_token = $2, refresh_token = $3, access_expires_at = $4, scopes = $5, updated_at = now(),
			version = version + (scopes IS DISTINCT FROM $5)::int -- users see the scopes
		WHERE user_id = $1`, a.UserID, a.AccessToken, a.RefreshToken, a.AccessExpiresAt, a.Scopes)
	if err != nil {
		return fmt.Errorf("save tokens of user %s: %w", a.UserID, err)
	}
	return nil
}
