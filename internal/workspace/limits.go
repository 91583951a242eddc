package workspace

import (
	"context"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/fault"
)

// The limits. A user's session lists all memberships, so their number bounds its size.
const (
	MaxOwned       = 100 // workspaces of which a user is OWNER
	MaxMemberships = 200 // of a user
	MaxMembers     = 500 // of a workspace, open invitations included
	MaxInvitations = 50  // that a workspace sends on one day (UTC), those sent again included
)

func tooMany(code, format string, args ...any) error {
	return fault.New(fault.Invalid, code, format, args...)
}

// checkMemberships refuses to give the user one more membership with the role than the limits allow. The user is locked.
func checkMemberships(ctx context.Context, tx pgx.Tx, userID, role string) error {
	var all, owned int
	err := tx.QueryRow(ctx, `
		SELECT count(*), count(*) FILTER (WHERE role = 'OWNER') FROM workspace_members WHERE user_id = $1`, userID).Scan(&all, &owned)
	switch {
	case err != nil:
		return err
	case all >= MaxMemberships:
		return tooMany("too-many-memberships", "A user can be in %d workspaces at most; leave one first.", MaxMemberships)
	case role == RoleOwner:
		return refuseOwned(owned)
	default:
		return nil
	}
}

// checkOwned refuses to make a member OWNER who is that in as many workspaces as the limit allows. The user is locked.
func checkOwned(ctx context.Context, tx pgx.Tx, userID string) error {
	var owned int
	err := tx.QueryRow(ctx, `SELECT count(*) FROM workspace_members WHERE user_id = $1 AND role = 'OWNER'`, userID).Scan(&owned)
	if err != nil {
		return err
	}
	return refuseOwned(owned)
}

func refuseOwned(owned int) error {
	if owned >= MaxOwned {
		return tooMany("too-many-owned", "A user can own %d workspaces at most; give one up first.", MaxOwned)
	}
	return nil
}

// checkMembers refuses one more member, or invitation, than a workspace may have. The workspace is locked.
func checkMembers(ctx context.Context, tx pgx.Tx, workspaceID string, invitations bool) error {
	var all int
	err := tx.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM workspace_members WHERE workspace_id = $1)
		     + (SELECT count(*) FROM invitations WHERE workspace_id = $1 AND $2)`, workspaceID, invitations).Scan(&all)
	if err != nil {
		return err
	}
	if all >= MaxMembers {
		return tooMany("too-many-members",
			"A workspace can have %d members at most, open invitations included; remove a member or withdraw an invitation first.", MaxMembers)
	}
	return nil
}

// countInvitation counts one that is sent, and refuses it past the day's limit. The workspace is locked.
func countInvitation(ctx context.Context, tx pgx.Tx, workspaceID string) error {
	var sent int
	err := tx.QueryRow(ctx, `
		UPDATE workspaces
		SET invitations_sent = CASE WHEN invitations_day = today THEN invitations_sent ELSE 0 END + 1, invitations_day = today
		FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) clock
		WHERE id = $1
		RETURNING invitations_sent`, workspaceID).Scan(&sent)
	if err != nil {
		return err
	}
	if sent > MaxInvitations {
		return tooMany("too-many-invitations", "A workspace can send %d invitations a day; the count starts again at midnight UTC.", MaxInvitations)
	}
	return nil
}
