package workspace

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Standing is what an operator sees of a workspace before and after AppointOwner.
type Standing struct {
	ID      string
	Name    string
	Members int
	Owners  int    // who can sign in
	Role    string // of the user in question; empty: no member
}

// Standing reads it for a user; fault.NotFound when there is no such workspace.
func (s *Service) Standing(ctx context.Context, workspaceID, userID string) (Standing, error) {
	if !events.ValidID(workspaceID) {
		return Standing{}, fault.Missing("workspace")
	}
	rows, _ := s.outbox.Pool().Query(ctx, `
		SELECT w.id, w.name, count(m.user_id) AS members, count(m.user_id) FILTER (WHERE m.role = 'OWNER' AND u.disabled_at IS NULL) AS owners,
		       coalesce(max(m.role) FILTER (WHERE m.user_id = $2), '') AS role
		FROM workspaces w LEFT JOIN workspace_members m ON m.workspace_id = w.id LEFT JOIN users u ON u.id = m.user_id
		WHERE w.id = $1
		GROUP BY w.id`, workspaceID, userID)
	st, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Standing])
	if errors.Is(err, pgx.ErrNoRows) {
		return Standing{}, fault.Missing("workspace")
	}
	return st, about("read standing", workspaceID, postgres.Fault(err))
}

// OwnedAlone lists the workspaces with other members of which nobody but the user is an OWNER who can sign in.
func (s *Service) OwnedAlone(ctx context.Context, userID string) ([]string, error) {
	rows, _ := s.outbox.Pool().Query(ctx, `
		SELECT m.workspace_id FROM workspace_members m
		WHERE m.user_id = $1 AND m.role = 'OWNER'
		  AND EXISTS (SELECT FROM workspace_members o WHERE o.workspace_id = m.workspace_id AND o.user_id <> $1)
		  AND NOT EXISTS (
			SELECT FROM workspace_members o JOIN users u ON u.id = o.user_id
			WHERE o.workspace_id = m.workspace_id AND o.user_id <> $1 AND o.role = 'OWNER' AND u.disabled_at IS NULL)
		ORDER BY m.workspace_id`, userID)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list workspaces owned by user %s alone: %w", userID, postgres.Fault(err))
	}
	return list, nil
}

// AppointOwner makes a user OWNER of a workspace, as an operator does when none of its OWNERs can sign in. The user need not
// be a member, and the limits hold. A user who is OWNER already stays so, and no event is emitted. A disabled user is
// fault.Conflict; a reason that isn't one line of text is fault.Invalid.
func (s *Service) AppointOwner(ctx context.Context, meta events.Meta, workspaceID, userID, reason string) error {
	if !events.ValidID(workspaceID) {
		return fault.Missing("workspace")
	}
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if err := lockEnabled(ctx, tx, userID); err != nil {
			return err
		}
		if err := lockWorkspace(ctx, tx, workspaceID); err != nil {
			return err
		}
		role, err := roleOf(ctx, tx, userID, workspaceID)
		switch {
		case fault.KindOf(err) == fault.NotFound:
			err = s.join(ctx, tx, meta, workspaceID, userID)
		case err == nil && role == RoleOwner:
			return nil
		case err == nil:
			err = s.changeRole(ctx, tx, meta, workspaceID, userID, role, RoleOwner)
		}
		if err != nil {
			return err
		}
		version, err := bumpWorkspace(ctx, tx, workspaceID)
		if err != nil {
			return err
		}
		appointed := events.New(meta, "", events.WorkspaceOwnerAppointed{
			WorkspaceID: workspaceID, Version: version, UserID: userID, Reason: reason,
		})
		if err := appointed.Validate(); err != nil {
			return fault.Wrap(err, fault.Invalid, "bad-reason", "The reason has to be one line of text.")
		}
		return outbox.Append(ctx, tx, appointed)
	})
	return about("appoint OWNER "+userID, workspaceID, err)
}

// join makes a user OWNER who is no member, and ends the invitation that this makes pointless.
func (s *Service) join(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, userID string) error {
	list, err := deleteInvitations(ctx, tx,
		`i.workspace_id = $1 AND lower(i.email) = (SELECT lower(email) FROM users WHERE id = $2)`, workspaceID, userID)
	if err != nil {
		return err
	}
	if err := emitWithdrawn(ctx, tx, meta, list, events.InvitationSuperseded); err != nil {
		return err
	}
	return s.addMember(ctx, tx, meta, workspaceID, userID, RoleOwner)
}

// lockEnabled locks a user who can sign in.
func lockEnabled(ctx context.Context, tx pgx.Tx, userID string) error {
	var disabled bool
	err := tx.QueryRow(ctx, `SELECT disabled_at IS NOT NULL FROM users WHERE id = $1 FOR NO KEY UPDATE`, userID).Scan(&disabled)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fault.Missing("user")
	case err != nil:
		return err
	case disabled:
		return fault.New(fault.Conflict, "account-disabled", "This user is disabled; enable the user first, or appoint another.")
	default:
		return nil
	}
}
