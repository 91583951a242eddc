package workspace

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// invitationRow is a row of invitations.
type invitationRow struct {
	ID          string
	WorkspaceID string
	Email       string
	Role        string
	InvitedBy   *string
	Version     int64
	ExpiresAt   time.Time
	InviteeID   *string // the user who has the address
}

const invitationColumns = `i.id, i.workspace_id, i.email, i.role, i.invited_by, i.version, i.expires_at,
	(SELECT u.id FROM users u WHERE lower(u.email) = lower(i.email)) AS invitee_id`

func (r invitationRow) invitation() Invitation {
	return Invitation{ID: r.ID, Email: r.Email, Role: r.Role, ExpiresAt: r.ExpiresAt}
}

// meta is meta with the invitee as the user whom an event concerns, and nobody if the address is no user's.
func (r invitationRow) meta(meta events.Meta) events.Meta {
	meta.UserID = ""
	if r.InviteeID != nil {
		meta.UserID = *r.InviteeID
	}
	return meta
}

func oneInvitation(rows pgx.Rows) (invitationRow, error) {
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[invitationRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return invitationRow{}, fault.Missing("invitation")
	}
	return r, err
}

func insertInvitation(ctx context.Context, tx pgx.Tx, workspaceID, email, role, inviterID string) (invitationRow, error) {
	rows, _ := tx.Query(ctx, `
		INSERT INTO invitations AS i (id, workspace_id, email, role, invited_by) VALUES ($1, $2, $3, $4, $5)
		RETURNING `+invitationColumns, events.NewID(), workspaceID, email, role, inviterID)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[invitationRow])
}

// findInvitation finds an open invitation of a workspace.
func findInvitation(ctx context.Context, tx pgx.Tx, workspaceID, id string) (invitationRow, error) {
	rows, _ := tx.Query(ctx, `
		SELECT `+invitationColumns+` FROM invitations i
		WHERE i.workspace_id = $1 AND i.id = $2 AND i.expires_at > now()`, workspaceID, id)
	return oneInvitation(rows)
}

// renewInvitation gives an invitation a new lifetime.
func renewInvitation(ctx context.Context, tx pgx.Tx, id string) (invitationRow, error) {
	rows, _ := tx.Query(ctx, `
		UPDATE invitations i SET expires_at = now() + interval '30 days', version = version + 1
		WHERE i.id = $1
		RETURNING `+invitationColumns, id)
	return oneInvitation(rows)
}

// deleteInvitations deletes those that the condition selects, with $1 and so on for args.
func deleteInvitations(ctx context.Context, tx pgx.Tx, where string, args ...any) ([]invitationRow, error) {
	rows, _ := tx.Query(ctx, `DELETE FROM invitations i WHERE `+where+` RETURNING `+invitationColumns, args...)
	return pgx.CollectRows(rows, pgx.RowToStructByName[invitationRow])
}

// listInvitations lists the open invitations of a workspace, oldest first.
func listInvitations(ctx context.Context, q postgres.Querier, workspaceID string) ([]Invitation, error) {
	rows, _ := q.Query(ctx, `
		SELECT id, email, role, expires_at FROM invitations
		WHERE workspace_id = $1 AND expires_at > now()
		ORDER BY created_at, id`, workspaceID)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Invitation])
}

// listReceived lists the open invitations to a user's address, oldest first.
func listReceived(ctx context.Context, q postgres.Querier, userID string) ([]Received, error) {
	rows, _ := q.Query(ctx, `
		SELECT i.id, i.workspace_id, w.name AS workspace_name, i.role, coalesce(inviter.email, '') AS invited_by, i.expires_at
		FROM users u JOIN invitations i ON lower(i.email) = lower(u.email) JOIN workspaces w ON w.id = i.workspace_id
		LEFT JOIN users inviter ON inviter.id = i.invited_by
		WHERE u.id = $1 AND i.expires_at > now()
		ORDER BY i.created_at, i.id
		LIMIT $2`, userID, maxReceived)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Received])
}

// ofInvitee selects an open invitation $1 to the address of the user $2.
const ofInvitee = `i.id = $1 AND i.expires_at > now() AND lower(i.email) = (SELECT lower(email) FROM users WHERE id = $2)`

// workspaceOfInvitation finds where an invitation to the user leads.
func workspaceOfInvitation(ctx context.Context, tx pgx.Tx, id, userID string) (workspaceID string, err error) {
	err = tx.QueryRow(ctx, `SELECT i.workspace_id FROM invitations i WHERE `+ofInvitee, id, userID).Scan(&workspaceID)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fault.Missing("invitation")
	}
	return workspaceID, err
}

// answerInvitation deletes the open invitation to the user that is answered.
func answerInvitation(ctx context.Context, tx pgx.Tx, id, userID string) (invitationRow, error) {
	rows, _ := tx.Query(ctx, `DELETE FROM invitations i WHERE `+ofInvitee+` RETURNING `+invitationColumns, id, userID)
	return oneInvitation(rows)
}

// hasMember reports whether the address is a member's.
func hasMember(ctx context.Context, tx pgx.Tx, workspaceID, email string) (found bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM workspace_members m JOIN users u ON u.id = m.user_id
			WHERE m.workspace_id = $1 AND lower(u.email) = lower($2))`, workspaceID, email).Scan(&found)
	return found, err
}

func isInvited(ctx context.Context, tx pgx.Tx, workspaceID, email string) (found bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM invitations WHERE workspace_id = $1 AND lower(email) = lower($2))`, workspaceID, email).Scan(&found)
	return found, err
}
