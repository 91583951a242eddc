package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// Erase erases a person: the sessions, the memberships, the access to Google and all that came from there, the settings, the address, the
// name and the Google id. Workspaces without another member go with their data. It can't be undone; the person may sign in again and is a
// new user then. The event user.erased keeps the id and the reason. The last operator who can sign in, and the last OWNER of a workspace
// with other members, are fault.Conflict; a reason that isn't one line of text is fault.Invalid.
func (s *Service) Erase(ctx context.Context, meta events.Meta, userID, reason string) error {
	if !events.ValidID(userID) {
		return fault.Missing("user")
	}
	_, err := s.endAll(ctx, meta, events.RevokedErased, func(tx pgx.Tx) ([]ended, error) {
		a, err := lockByID(ctx, tx, userID)
		if err != nil {
			return nil, err
		}
		if err := keepOperator(ctx, tx, a); err != nil {
			return nil, err
		}
		if err := s.workspaces.LeaveAllTx(ctx, tx, meta, userID); err != nil {
			return nil, err
		}
		// The version of a cached session is a sum with that of the connection to Google, which is about to go.
		var connection int64
		err = tx.QueryRow(ctx, `SELECT coalesce((SELECT version FROM google_accounts WHERE user_id = $1 FOR UPDATE), 0)`, userID).Scan(&connection)
		if err != nil {
			return nil, err
		}
		if err := s.google.EraseTx(ctx, tx, meta, userID); err != nil {
			return nil, err
		}
		list, err := revokeOthers(ctx, tx, userID, nil)
		if err != nil {
			return nil, err
		}
		version, err := blankUser(ctx, tx, userID, connection)
		if err != nil {
			return nil, err
		}
		return list, tellReason(ctx, tx, meta, events.UserErased{UserID: userID, Version: version, Reason: reason})
	})
	if err != nil {
		return fmt.Errorf("erase user %s: %w", userID, err)
	}
	return nil
}

// blankUser takes all that is a person's out of the rows of a user and of the sessions. The rows themselves stay for erasedFor.
func blankUser(ctx context.Context, tx pgx.Tx, userID string, versions int64) (version int64, err error) {
	if _, err := tx.Exec(ctx, `UPDATE sessions SET ip = '', user_agent = '' WHERE user_id = $1`, userID); err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, `
		UPDATE users SET email = 'erased-' || id || '@invalid', name = '', google_id = 'erased-' || id, system_role = 'USER',
			disabled_at = coalesce(disabled_at, now()), erased_at = now(), version = version + 1 + $2
		WHERE id = $1 RETURNING version`, userID, versions+1).Scan(&version)
	return version, err
}

// erasedFor is how long the blank row of an erased user stays: late events lead to its sessions, which caches must not keep.
const erasedFor = time.Hour

// sweepErased deletes the rows of users who were erased a while ago, up to 200 of them.
func (s *Service) sweepErased(ctx context.Context) error {
	_, err := s.outbox.Pool().Exec(ctx, `
		DELETE FROM users WHERE id = ANY (ARRAY(
			SELECT id FROM users WHERE erased_at < now() - $1::interval ORDER BY erased_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, erasedFor, sweepBatch)
	if err != nil {
		return fmt.Errorf("delete erased users: %w", postgres.Fault(err))
	}
	return nil
}
