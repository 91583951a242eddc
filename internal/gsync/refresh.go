package gsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/oauth2"

	"fdc/events"
	"fdc/internal/platform/postgres"
)

// Bounds of a refresh.
const (
	// leaseTime is how long a process may take for a refresh. If it dies, the next one waits for as long as this.
	leaseTime = oauthTimeout + 5*time.Second
	// leasePoll is the pause between two looks at a refresh of another process.
	leasePoll = 50 * time.Millisecond
)

// lease is the right to refresh the tokens of an account as it was at a version.
type lease struct {
	id           string
	userID       string
	googleID     string
	version      int64
	refreshToken string
}

// access returns a token of the user's that is not the stale one, and refreshes when it must. One caller of all processes asks
// Google, holding neither a transaction nor a connection; the others wait for its result.
func (s *Service) access(ctx context.Context, userID, stale string) (accessToken, error) {
	for {
		a, err := s.account(ctx, s.ob.Pool(), userID)
		if err != nil {
			return accessToken{}, postgres.Fault(err)
		}
		if token, err := s.usable(a, stale); err != nil || token.value != "" {
			return token, err
		}
		l, held, err := s.takeLease(ctx, userID, stale)
		if err != nil {
			return accessToken{}, postgres.Fault(err)
		}
		if !held {
			if err := pause(ctx, leasePoll); err != nil {
				return accessToken{}, fmt.Errorf("wait for a refresh of user %s: %w", userID, err)
			}
			continue
		}
		token, settled, err := s.refreshDetached(ctx, l)
		if err != nil || settled {
			return token, err
		}
		// The account has changed meanwhile.
	}
}

// refreshDetached refreshes to the end even when the caller leaves: a refresh token that Google has rotated and that is not
// stored is lost.
func (s *Service) refreshDetached(ctx context.Context, l lease) (accessToken, bool, error) {
	var token accessToken
	var settled bool
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		token, settled, err = s.refreshUnder(context.WithoutCancel(ctx), l)
	}()
	select {
	case <-done:
		return token, settled, err
	case <-ctx.Done():
		return accessToken{}, false, fmt.Errorf("refresh tokens of user %s: %w", l.userID, ctx.Err())
	}
}

// takeLease takes the lease unless another process holds it, or has refreshed the tokens since they were read.
func (s *Service) takeLease(ctx context.Context, userID, stale string) (l lease, held bool, err error) {
	err = s.ob.Tx(ctx, func(tx pgx.Tx) error {
		held = false
		a, err := lockAccount(ctx, tx, userID)
		if err != nil {
			return err
		}
		if token, err := s.usable(a, stale); err != nil || token.value != "" {
			return nil //nolint:nilerr // access reads the account again and says so
		}
		refreshToken, err := s.open(userID, kindRefresh, a.RefreshToken)
		if err != nil {
			return err
		}
		l = lease{id: events.NewID(), userID: userID, googleID: a.GoogleID, refreshToken: refreshToken}
		err = tx.QueryRow(ctx, `
			UPDATE google_accounts SET refresh_lease = $2, refresh_until = clock_timestamp() + $3::interval
			WHERE user_id = $1 AND (refresh_until IS NULL OR refresh_until < clock_timestamp())
			RETURNING version`, userID, l.id, leaseTime).Scan(&l.version)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		held = err == nil
		return err
	})
	if err != nil {
		return lease{}, false, fmt.Errorf("take the lease of user %s: %w", userID, err)
	}
	return l, held, nil
}

// refreshUnder asks Google for tokens and stores what it answers. It is not settled when the account has changed meanwhile.
func (s *Service) refreshUnder(ctx context.Context, l lease) (token accessToken, settled bool, err error) {
	fresh, outcome := s.refresh(ctx, l.refreshToken)
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	err = s.ob.Tx(ctx, func(tx pgx.Tx) error {
		now, current, err := l.lock(ctx, tx)
		settled = current
		switch {
		case err != nil:
			return err
		case !current && outcome != nil:
			return nil //nolint:nilerr // Google's failure is about a grant that has ended
		case !current:
			return s.discard(ctx, tx, now, l, fresh)
		case refusesGrant(outcome):
			return s.requireReauth(ctx, tx, now, reasonInvalidGrant)
		case outcome != nil:
			return l.release(ctx, tx)
		}
		token = accessToken{value: fresh.AccessToken, expires: fresh.Expiry}
		now.AccessToken, now.AccessExpiresAt = s.seal(l.userID, kindAccess, fresh.AccessToken), &fresh.Expiry
		if fresh.RefreshToken != "" {
			now.RefreshToken = s.seal(l.userID, kindRefresh, fresh.RefreshToken)
		}
		now.Scopes = scopesOf(fresh, now.Scopes)
		if err := saveTokens(ctx, tx, now); err != nil {
			return err
		}
		return l.release(ctx, tx)
	})
	switch {
	case err != nil:
		return accessToken{}, false, postgres.Fault(err)
	case settled && refusesGrant(outcome):
		return accessToken{}, true, errReauth
	case settled && outcome != nil:
		return accessToken{}, true, outcome
	}
	return token, settled, nil
}

// lock locks the account and reports whether it is as it was when the lease was taken.
func (l lease) lock(ctx context.Context, tx pgx.Tx) (a account, current bool, err error) {
	if a, err = lockAccount(ctx, tx, l.userID); err != nil {
		return a, false, err
	}
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM google_accounts WHERE user_id = $1 AND refresh_lease = $2 AND version = $3)`,
		l.userID, l.id, l.version).Scan(&current)
	if err != nil {
		return a, false, fmt.Errorf("look at the lease of user %s: %w", l.userID, err)
	}
	return a, current, nil
}

func (l lease) release(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE google_accounts SET refresh_lease = NULL, refresh_until = NULL WHERE user_id = $1 AND refresh_lease = $2`,
		l.userID, l.id)
	if err != nil {
		return fmt.Errorf("release the lease of user %s: %w", l.userID, err)
	}
	return nil
}

// discard queues the revocation of tokens that came after their grant had ended here: a disconnect could only queue the ones before.
// While the user has that Google account, connected or to be renewed, they are left alone, because a revocation ends every grant of
// the user.
func (s *Service) discard(ctx context.Context, tx pgx.Tx, now account, l lease, fresh *oauth2.Token) error {
	if now.GoogleID == l.googleID && now.State != StateDisconnected {
		return nil
	}
	_, err := queueRevocation(ctx, tx, account{
		UserID: l.userID, GoogleID: l.googleID, AccessToken: s.seal(l.userID, kindAccess, fresh.AccessToken),
		RefreshToken: s.seal(l.userID, kindRefresh, fresh.RefreshToken), AccessExpiresAt: &fresh.Expiry,
	}, nil)
	return err
}
