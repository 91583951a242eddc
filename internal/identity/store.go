package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// account is a users row.
type account struct {
	User
	GoogleID string
	Version  int64
	Disabled bool
}

const selectAccount = `SELECT id, email, name, system_role, google_id, version, disabled_at IS NOT NULL AS disabled FROM users `

func one(rows pgx.Rows) (account, error) {
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[account])
}

// lockByGoogleID leaves foreign keys to the user free: other sign-ins need not wait. pgx.ErrNoRows when there is none.
func lockByGoogleID(ctx context.Context, tx pgx.Tx, googleID string) (account, error) {
	rows, _ := tx.Query(ctx, selectAccount+`WHERE google_id = $1 FOR NO KEY UPDATE`, googleID)
	return one(rows)
}

// findAccount reads the user that a condition on $1 leads to. pgx.ErrNoRows when there is none.
func findAccount(ctx context.Context, q postgres.Querier, where, value string) (account, error) {
	rows, _ := q.Query(ctx, selectAccount+`WHERE `+where, value)
	return one(rows)
}

// lockByEmail finds whoever has the address, in whatever case. pgx.ErrNoRows when there is none.
func lockByEmail(ctx context.Context, tx pgx.Tx, email string) (account, error) {
	rows, _ := tx.Query(ctx, selectAccount+`WHERE lower(email) = lower($1) FOR UPDATE`, email)
	return one(rows)
}

func lockByID(ctx context.Context, tx pgx.Tx, id string) (account, error) {
	rows, _ := tx.Query(ctx, selectAccount+`WHERE id = $1 FOR NO KEY UPDATE`, id)
	a, err := one(rows)
	if errors.Is(err, pgx.ErrNoRows) {
		return account{}, fault.Missing("user")
	}
	return a, err
}

func insertUser(ctx context.Context, tx pgx.Tx, id string, p Profile) (account, error) {
	rows, _ := tx.Query(ctx, `
		INSERT INTO users (id, email, name, google_id) VALUES ($1, $2, $3, $4)
		RETURNING id, email, name, system_role, google_id, version, false AS disabled`, id, p.Email, p.Name, p.GoogleID)
	return one(rows)
}

// updateUser writes what Google says of a user, who is locked.
func updateUser(ctx context.Context, tx pgx.Tx, id, email, name string) (account, error) {
	rows, _ := tx.Query(ctx, `
		UPDATE users SET email = $2, name = $3, version = version + 1 WHERE id = $1
		RETURNING id, email, name, system_role, google_id, version, disabled_at IS NOT NULL AS disabled`, id, email, name)
	return one(rows)
}

func updateSystemRole(ctx context.Context, tx pgx.Tx, id, role string) (version int64, err error) {
	err = tx.QueryRow(ctx, `
		UPDATE users SET system_role = $2, version = version + 1, role_epoch = role_epoch + 1
		WHERE id = $1 RETURNING version`, id, role).Scan(&version)
	return version, err
}

// hasOtherOperator reports whether someone else is an operator and can sign in.
func hasOtherOperator(ctx context.Context, tx pgx.Tx, userID string) (other bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM users WHERE id <> $1 AND system_role = 'SA' AND disabled_at IS NULL)`, userID).
		Scan(&other)
	return other, err
}

func updateDisabled(ctx context.Context, tx pgx.Tx, id string, disabled bool) (version int64, err error) {
	err = tx.QueryRow(ctx, `
		UPDATE users SET disabled_at = CASE WHEN $2 THEN now() END, version = version + 1 WHERE id = $1
		RETURNING version`, id, disabled).Scan(&version)
	return version, err
}

func insertSession(ctx context.Context, tx pgx.Tx, id, userID string, hash []byte, ip, userAgent string) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO sessions (id, user_id, token_hash, ip, user_agent, expires_at, role_epoch)
		SELECT $1, id, $3, $4, $5, now() + $6::interval, role_epoch FROM users WHERE id = $2`,
		id, userID, hash, ip, userAgent, Lifetime)
	return err
}

// sessionRow is a live session with everything that a request needs to know.
type sessionRow struct {
	TokenHash   []byte
	TokenEndsAt *time.Time // of a token that was replaced
	Rotate      bool       // the token is older than the user's roles
	SessionID   string
	CreatedAt   time.Time
	ExpiresAt   time.Time

	ReauthenticatedAt *time.Time

	Unnoted bool  // it was seen longer ago than seenEvery
	Version int64 // of all that is here
	User
	Memberships  []Membership
	GoogleState  string
	GoogleScopes []string
}

func (r sessionRow) session() Session {
	expires := r.ExpiresAt.UTC() // an entry of the cache is the same bytes wherever it was made
	s := Session{
		ID: r.SessionID, User: r.User, CreatedAt: r.CreatedAt.UTC(), ExpiresAt: expires, IdleExpiresAt: idleExpiry(expires),
		Memberships: r.Memberships,
		Google:      Google{State: r.GoogleState, Scopes: r.GoogleScopes},
		Rotate:      r.Rotate,
	}
	if r.TokenEndsAt != nil {
		s.TokenEndsAt = r.TokenEndsAt.UTC()
	}
	if r.ReauthenticatedAt != nil {
		s.ReauthenticatedAt = r.ReauthenticatedAt.UTC()
	}
	return s
}

// findSessions finds the live sessions among those whose tokens have the given hashes. A token that was replaced leads to its
// session for a while still.
func findSessions(ctx context.Context, q postgres.Querier, hashes [][]byte) ([]sessionRow, error) {
	rows, _ := q.Query(ctx, `
		SELECT t.token_hash, t.ends_at AS token_ends_at, t.ends_at IS NULL AND s.role_epoch < u.role_epoch AS rotate,
		       s.id AS session_id, s.created_at, s.expires_at, s.reauthenticated_at, s.last_seen_at < now() - $3::interval AS unnoted,
		       s.version + u.version + coalesce(g.version, 0) AS version,
		       u.id, u.email, u.name, u.system_role,
		       (SELECT coalesce(json_agg(json_build_object('workspaceId', w.id, 'name', w.name, 'role', m.role)
		                                 ORDER BY m.joined_at, w.id), '[]')
		        FROM workspace_members m JOIN workspaces w ON w.id = m.workspace_id
		        WHERE m.user_id = u.id) AS memberships,
		       coalesce(g.state, 'disconnected') AS google_state, coalesce(g.scopes, '{}') AS google_scopes
		FROM (
			SELECT token_hash, id AS session_id, NULL AS ends_at FROM sessions
			UNION ALL
			SELECT token_hash, session_id, replaced_at + $4::interval FROM replaced_tokens
		) t JOIN sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id LEFT JOIN google_accounts g ON g.user_id = u.id
		WHERE t.token_hash = ANY ($1) AND (t.ends_at IS NULL OR t.ends_at > now())
		  AND s.revoked_at IS NULL AND s.expires_at > now() AND s.last_seen_at > now() - $2::interval
		  AND u.disabled_at IS NULL`, hashes, IdleTimeout, seenEvery, ReplacedGrace)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[sessionRow])
	if err != nil {
		return nil, fmt.Errorf("find sessions: %w", postgres.Fault(err))
	}
	return list, nil
}

// findSession finds the live session whose token has the given hash. When there is none: errGone.
func findSession(ctx context.Context, q postgres.Querier, hash []byte) (sessionRow, error) {
	list, err := findSessions(ctx, q, [][]byte{hash})
	if err == nil && len(list) == 0 {
		err = errGone
	}
	if err != nil {
		return sessionRow{}, err
	}
	return list[0], nil
}

// endedSessions returns those of the sessions that are live no more, or are not there.
func endedSessions(ctx context.Context, q postgres.Querier, ids []string) ([]string, error) {
	rows, _ := q.Query(ctx, `
		SELECT i.id FROM unnest($1::uuid[]) AS i (id)
		WHERE NOT EXISTS (
			SELECT FROM sessions s JOIN users u ON u.id = s.user_id
			WHERE s.id = i.id AND s.revoked_at IS NULL AND s.expires_at > now() AND s.last_seen_at > now() - $2::interval
			  AND u.disabled_at IS NULL)`, ids, IdleTimeout)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, postgres.Fault(err)
}

// touchSessions notes that sessions were seen a moment ago.
func touchSessions(ctx context.Context, q postgres.Querier, ids []string) error {
	_, err := q.Exec(ctx, `
		UPDATE sessions SET last_seen_at = now()
		WHERE id IN (SELECT id FROM sessions WHERE id = ANY ($1::uuid[]) AND last_seen_at < now() - $2::interval
		             ORDER BY id FOR NO KEY UPDATE)`, ids, seenEvery)
	return postgres.Fault(err)
}

// maxDevices bounds the list; nobody has that many.
const maxDevices = 200

// listDevices gives a user's live sessions, newest first.
func listDevices(ctx context.Context, q postgres.Querier, userID string) ([]Device, error) {
	rows, _ := q.Query(ctx, `
		SELECT id, created_at, last_seen_at, expires_at, ip, user_agent
		FROM sessions
		WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now() AND last_seen_at > now() - $2::interval
		ORDER BY created_at DESC, id DESC
		LIMIT $3`, userID, IdleTimeout, maxDevices)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Device])
}

// replaceToken gives a live session a new token in the place of its current one, if that is older than the user's roles. It
// reports false when it isn't, or not the current one any more.
func replaceToken(ctx context.Context, tx pgx.Tx, id string, old, hash []byte) (r changedSession, found bool, err error) {
	rows, _ := tx.Query(ctx, `
		WITH rotated AS (
			UPDATE sessions s SET token_hash = $3, role_epoch = u.role_epoch, version = s.version + 1
			FROM users u
			WHERE s.id = $1 AND s.token_hash = $2 AND s.revoked_at IS NULL AND s.expires_at > now()
			  AND u.id = s.user_id AND s.role_epoch < u.role_epoch AND u.disabled_at IS NULL
			RETURNING s.id, s.user_id, s.version
		), replaced AS (
			INSERT INTO replaced_tokens (token_hash, session_id) SELECT $2, id FROM rotated
		)
		SELECT user_id, version FROM rotated`, id, old, hash)
	r, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[changedSession])
	if errors.Is(err, pgx.ErrNoRows) {
		return changedSession{}, false, nil
	}
	return r, err == nil, err
}

// changedSession is a session that has just changed, and goes on.
type changedSession struct {
	UserID  string
	Version int64
}

// reauthenticate notes on a live session that its user signed in again, with the Google account of that id. It reports false
// when the session is not live or the account is not its user's.
func reauthenticate(ctx context.Context, tx pgx.Tx, id, googleID string) (r changedSession, found bool, err error) {
	rows, _ := tx.Query(ctx, `
		UPDATE sessions s SET reauthenticated_at = now(), version = s.version + 1
		FROM users u
		WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > now()
		  AND u.id = s.user_id AND u.google_id = $2 AND u.disabled_at IS NULL
		RETURNING s.user_id, s.version`, id, googleID)
	r, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[changedSession])
	if errors.Is(err, pgx.ErrNoRows) {
		return changedSession{}, false, nil
	}
	return r, err == nil, err
}

// ended is a session that was just revoked.
type ended struct {
	ID      string
	UserID  string
	Version int64
}

func (e ended) event(meta events.Meta, reason string) events.Event {
	return events.New(meta, "", events.SessionRevoked{SessionID: e.ID, UserID: e.UserID, Version: e.Version, Reason: reason})
}

// revokeSession ends a session unless it was revoked already: then the list is empty. userID nil is anyone's.
func revokeSession(ctx context.Context, tx pgx.Tx, userID *string, id string) ([]ended, error) {
	rows, _ := tx.Query(ctx, `
		UPDATE sessions SET revoked_at = now(), version = version + 1
		WHERE id = $1 AND user_id = coalesce($2, user_id) AND revoked_at IS NULL
		RETURNING id, user_id, version`, id, userID)
	return pgx.CollectRows(rows, pgx.RowToStructByName[ended])
}

// revokeOthers ends a user's sessions but one, or all when exceptID is nil. It locks them in the order of their ids: two devices that end each other
// at one moment wait, and don't deadlock.
func revokeOthers(ctx context.Context, tx pgx.Tx, userID string, exceptID *string) ([]ended, error) {
	rows, _ := tx.Query(ctx, `
		WITH others AS (
			SELECT id FROM sessions
			WHERE user_id = $1 AND id IS DISTINCT FROM $2 AND revoked_at IS NULL AND expires_at > now()
			ORDER BY id
			FOR NO KEY UPDATE
		)
		UPDATE sessions s SET revoked_at = now(), version = version + 1
		FROM others
		WHERE s.id = others.id
		RETURNING s.id, s.user_id, s.version`, userID, exceptID)
	return pgx.CollectRows(rows, pgx.RowToStructByName[ended])
}

func sessionExists(ctx context.Context, tx pgx.Tx, userID, id string) (found bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM sessions WHERE id = $1 AND user_id = $2)`, id, userID).Scan(&found)
	return found, err
}
