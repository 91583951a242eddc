package gsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Why an access to Google ended, for google.disconnected.
const (
	endedByUser   = "user"
	endedDisabled = "account_disabled"
	endedErased   = "account_erased"
)

// Bounds of revoking.
const (
	revokeEvery = time.Second
	// revokeLease is how long a revocation is left to the process that has taken it: longer than it may ask Google.
	revokeLease = oauthTimeout + 5*time.Second
	// maxRevokePause is the longest pause between two attempts.
	maxRevokePause = time.Hour
	// keepRevocations is how long Google is asked. After that the tokens are erased here too; the user can still end the access at Google.
	keepRevocations = 7 * 24 * time.Hour
)

// Access ends accesses to Google in the transactions of others. It needs neither keys nor Google: a Revoker does the rest.
type Access struct{}

// RevokeTx ends a user's access to Google: it cancels the jobs, schedules and channels, erases the tokens from the account and queues their
// revocation at Google. What was synced stays. The user needs a new consent to connect again.
func (Access) RevokeTx(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string) error {
	_, err := endAccess(ctx, tx, meta, userID, endedDisabled)
	return err
}

// EraseTx ends a user's access to Google and deletes all that came from there or was to go there. Running jobs lose their lease and end.
func (Access) EraseTx(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string) error {
	_, err := tx.Exec(ctx, `UPDATE sync_jobs SET lease_token = NULL WHERE user_id = $1 AND status = 'processing'`, userID)
	if err != nil {
		return fmt.Errorf("take sync jobs of user %s: %w", userID, err)
	}
	if _, err := endAccess(ctx, tx, meta, userID, endedErased); err != nil {
		return err
	}
	for _, table := range []string{"google_task_links", "calendar_events", "sync_state", "sync_settings", "sync_jobs", "google_accounts"} {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE user_id = $1`, userID); err != nil {
			return fmt.Errorf("erase %s of user %s: %w", table, userID, err)
		}
	}
	return nil
}

// endAccess is RevokeTx with a reason. It returns the id of the queued revocation, empty when Google has nothing to revoke.
func endAccess(ctx context.Context, tx pgx.Tx, meta events.Meta, userID, reason string) (id string, err error) {
	a, err := lockAccount(ctx, tx, userID)
	if err != nil {
		return "", err
	}
	if err := cancelJobs(ctx, tx, meta, userID); err != nil {
		return "", err
	}
	if err := unschedule(ctx, tx, userID); err != nil {
		return "", err
	}
	channels, err := forgetChannels(ctx, tx, userID)
	if err != nil || a.State == StateDisconnected {
		return "", err
	}
	if id, err = queueRevocation(ctx, tx, a, channels); err != nil {
		return "", err
	}
	a.State, a.AccessToken, a.RefreshToken, a.AccessExpiresAt = StateDisconnected, nil, nil, nil
	a.Scopes = []string{}
	version, err := saveAccount(ctx, tx, a)
	if err != nil {
		return "", err
	}
	return id, outbox.Append(ctx, tx, events.New(meta, userID, events.GoogleDisconnected{
		UserID: userID, Version: version, Reason: reason,
	}))
}

// unschedule deletes the user's schedule, unless a scheduler has it at the moment: waiting for that one could be a deadlock, see
// schedule. The scheduler deletes the schedule of a disconnected account when it is due.
func unschedule(ctx context.Context, tx pgx.Tx, userID string) error {
	_, err := tx.Exec(ctx, `
		DELETE FROM sync_schedules WHERE user_id IN (SELECT user_id FROM sync_schedules WHERE user_id = $1 FOR UPDATE SKIP LOCKED)`, userID)
	if err != nil {
		return fmt.Errorf("unschedule syncs of user %s: %w", userID, err)
	}
	return nil
}

// queueRevocation records what is to be revoked at Google; nothing for an account without tokens.
func queueRevocation(ctx context.Context, tx pgx.Tx, a account, channels []channel) (id string, err error) {
	if len(a.RefreshToken) == 0 && len(a.AccessToken) == 0 {
		return "", nil
	}
	if channels == nil {
		channels = []channel{}
	}
	err = tx.QueryRow(ctx, `
		INSERT INTO google_revocations (user_id, google_id, access_token, refresh_token, access_expires_at, channels)
		VALUES ($1, $2, $3, $4, $5, $6) RETURNING id::text`,
		a.UserID, a.GoogleID, a.AccessToken, a.RefreshToken, a.AccessExpiresAt, channels).Scan(&id)
	if err != nil {
		return "", fmt.Errorf("queue revocation for user %s: %w", a.UserID, err)
	}
	return id, nil
}

// dropRevocations forgets what is queued for a Google account that its user has just connected again: Google would revoke the new
// consent with the old one.
func dropRevocations(ctx context.Context, tx pgx.Tx, googleID string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM google_revocations WHERE google_id = $1`, googleID); err != nil {
		return fmt.Errorf("drop queued revocations: %w", err)
	}
	return nil
}

// Revoker revokes at Google what has ended here. Any number of revokers work side by side. A revocation stays queued until Google has
// answered, so a crash at any moment costs no more than a repetition.
type Revoker struct{ s *Service }

// NewRevoker returns a Revoker; Run starts it.
func NewRevoker(s *Service) *Revoker { return &Revoker{s} }

// Run revokes until ctx ends, and then returns nil. It outlives every failure of Postgres and Google.
func (r *Revoker) Run(ctx context.Context) error {
	ticker := time.NewTicker(revokeEvery)
	defer ticker.Stop()
	for {
		for found := true; found && ctx.Err() == nil; {
			var err error
			if found, err = r.s.revokeNext(ctx, ""); err != nil && ctx.Err() == nil {
				r.s.log.Warn().Err(err).Msg("access not revoked at Google")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// revocation is one that this process has taken.
type revocation struct {
	ID        string
	UserID    string
	GoogleID  string
	Access    []byte
	Refresh   []byte
	ExpiresAt *time.Time
	Channels  []channel
	CreatedAt time.Time
}

// revokeNext carries out a revocation that is due, the one with the id unless that is empty. It holds no transaction while Google
// answers. found is false when none was due; then the error is Postgres's.
func (s *Service) revokeNext(ctx context.Context, id string) (found bool, err error) {
	rows, err := s.ob.Pool().Query(ctx, `
		UPDATE google_revocations SET attempt = attempt + 1,
			next_at = clock_timestamp() + least($3::interval, $2::interval * power(2, least(attempt, 12)))
		WHERE id = (
			SELECT id FROM google_revocations WHERE next_at <= clock_timestamp() AND ($1 = '' OR id::text = $1)
			ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING id::text, user_id::text, google_id, access_token, refresh_token, access_expires_at, channels, created_at`,
		id, revokeLease, maxRevokePause)
	if err != nil {
		return false, fmt.Errorf("take revocation: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[revocation])
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("take revocation: %w", err)
	}
	err = s.revokeAtGoogle(ctx, r)
	if err != nil && time.Since(r.CreatedAt) < keepRevocations {
		return true, fmt.Errorf("revoke access of user %s: %w", r.UserID, err)
	}
	if err != nil {
		s.log.Error().Err(err).Str("user_id", r.UserID).Msg("access not revoked at Google; its tokens are erased here, and it is not tried again")
	}
	// The answer counts, whatever has become of the caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if _, err := s.ob.Pool().Exec(ctx, `DELETE FROM google_revocations WHERE id = $1`, r.ID); err != nil {
		return true, fmt.Errorf("delete revocation: %w", postgres.Fault(err))
	}
	return true, nil
}

// revokeAtGoogle stops the channels and revokes the grant.
func (s *Service) revokeAtGoogle(ctx context.Context, r revocation) error {
	ctx, cancel := context.WithTimeout(ctx, oauthTimeout)
	defer cancel()
	a := account{UserID: r.UserID, GoogleID: r.GoogleID, AccessToken: r.Access, RefreshToken: r.Refresh, AccessExpiresAt: r.ExpiresAt}
	s.stopChannels(ctx, a, r.Channels)
	sealed, kind := a.RefreshToken, kindRefresh
	if len(sealed) == 0 {
		sealed, kind = a.AccessToken, kindAccess
	}
	token, err := s.open(a.UserID, kind, sealed)
	if err != nil {
		return err
	}
	return s.revoke(ctx, token)
}
