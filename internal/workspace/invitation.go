package workspace

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Invitation is an open invitation as the members of its workspace see it.
type Invitation struct {
	ID        string
	Email     string // as the inviter spelled it
	Role      string
	ExpiresAt time.Time
}

// Received is an open invitation as the invited user sees it.
type Received struct {
	ID            string
	WorkspaceID   string
	WorkspaceName string
	Role          string
	InvitedBy     string // the inviter's address; empty if the inviter is not known any more
	ExpiresAt     time.Time
}

// maxReceived bounds the list of the invitations to one address, which other users make.
const maxReceived = 1000

const mayNotInvite = "Only an OWNER or ADMIN invites, and only an OWNER invites an OWNER."

// Invite invites an address to a workspace. It does the same for a user's address as for an unknown one, and its caller
// can't tell them apart. A member's address and an invited one are fault.Conflict, both of which the members list shows.
func (s *Service) Invite(ctx context.Context, meta events.Meta, actorID, workspaceID, email, role string) (Invitation, error) {
	email, wrong := checkEmail(email)
	wrong = append(wrong, checkRole(role)...)
	var invited Invitation
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		// The right is checked twice: before the lock, so that nobody without it waits for the lock, and under the lock.
		for _, roleOf := range []func() (string, error){
			func() (string, error) { return s.Role(ctx, tx, actorID, workspaceID) },
			func() (string, error) { return lockedRole(ctx, tx, actorID, workspaceID) },
		} {
			actor, err := roleOf()
			if err != nil {
				return err
			}
			if err := fault.Wrong(wrong...); err != nil {
				return err
			}
			if !mayManage(actor, role) {
				return forbidden(mayNotInvite)
			}
		}
		if err := s.checkInvitable(ctx, tx, meta, workspaceID, email); err != nil {
			return err
		}
		if err := countInvitation(ctx, tx, workspaceID); err != nil {
			return err
		}
		row, err := insertInvitation(ctx, tx, workspaceID, email, role, actorID)
		if err != nil {
			return err
		}
		invited = row.invitation()
		return outbox.Append(ctx, tx, events.New(row.meta(meta), "", events.InvitationCreated{
			InvitationID: row.ID, WorkspaceID: workspaceID, Version: row.Version, Role: role, Email: events.MaskEmail(email),
		}))
	})
	if err != nil {
		return Invitation{}, about("invite", workspaceID, err)
	}
	return invited, nil
}

// checkInvitable refuses an address that is a member's or invited, and one that finds no room. The workspace is locked.
func (s *Service) checkInvitable(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, email string) error {
	member, err := hasMember(ctx, tx, workspaceID, email)
	if err != nil {
		return err
	}
	if member {
		return fault.New(fault.Conflict, "already-member", "This address is a member's already.")
	}
	expired, err := deleteInvitations(ctx, tx, `i.workspace_id = $1 AND i.expires_at <= now()`, workspaceID)
	if err != nil {
		return err
	}
	if err := emitWithdrawn(ctx, tx, bySystem(meta), expired, events.InvitationExpired); err != nil {
		return err
	}
	invited, err := isInvited(ctx, tx, workspaceID, email)
	if err != nil {
		return err
	}
	if invited {
		return fault.New(fault.Conflict, "already-invited", "This address is invited already; the invitation can be sent again.")
	}
	return checkMembers(ctx, tx, workspaceID, true)
}

// Resend sends an open invitation again, which then expires in 30 days.
func (s *Service) Resend(ctx context.Context, meta events.Meta, actorID, workspaceID, invitationID string) (Invitation, error) {
	var invited Invitation
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if err := s.manageInvitation(ctx, tx, actorID, workspaceID, invitationID); err != nil {
			return err
		}
		if err := countInvitation(ctx, tx, workspaceID); err != nil {
			return err
		}
		row, err := renewInvitation(ctx, tx, invitationID)
		if err != nil {
			return err
		}
		invited = row.invitation()
		return outbox.Append(ctx, tx, events.New(row.meta(meta), "", events.InvitationResent{
			InvitationID: row.ID, WorkspaceID: workspaceID, Version: row.Version,
		}))
	})
	if err != nil {
		return Invitation{}, about("resend invitation "+invitationID, workspaceID, err)
	}
	return invited, nil
}

// Withdraw ends an open invitation.
func (s *Service) Withdraw(ctx context.Context, meta events.Meta, actorID, workspaceID, invitationID string) error {
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if err := s.manageInvitation(ctx, tx, actorID, workspaceID, invitationID); err != nil {
			return err
		}
		list, err := deleteInvitations(ctx, tx, `i.id = $1`, invitationID)
		if err != nil {
			return err
		}
		if len(list) == 0 { // declined since it was found
			return fault.Missing("invitation")
		}
		return emitWithdrawn(ctx, tx, meta, list, events.InvitationWithdrawnByMember)
	})
	return about("withdraw invitation "+invitationID, workspaceID, err)
}

// manageInvitation locks the workspace and refuses what is no open invitation of it that the actor may change.
func (s *Service) manageInvitation(ctx context.Context, tx pgx.Tx, actorID, workspaceID, invitationID string) error {
	actor, err := s.Role(ctx, tx, actorID, workspaceID)
	if err != nil {
		return err
	}
	if !mayManage(actor, RoleMember) { // nobody without the right waits for the lock
		return forbidden(mayNotInvite)
	}
	if actor, err = lockedRole(ctx, tx, actorID, workspaceID); err != nil {
		return err
	}
	if !events.ValidID(invitationID) {
		return fault.Missing("invitation")
	}
	row, err := findInvitation(ctx, tx, workspaceID, invitationID)
	if err == nil && !mayManage(actor, row.Role) {
		return forbidden(mayNotInvite)
	}
	return err
}

// Received lists the open invitations to the user's address, oldest first, 1,000 at most.
func (s *Service) Received(ctx context.Context, userID string) ([]Received, error) {
	list, err := listReceived(ctx, s.outbox.Pool(), userID)
	if err != nil {
		return nil, fmt.Errorf("list invitations of user %s: %w", userID, postgres.Fault(err))
	}
	return list, nil
}

// Accept makes the user a member with the role that an open invitation to the user's address offers. A user who is a
// member meanwhile keeps the role.
func (s *Service) Accept(ctx context.Context, meta events.Meta, userID, invitationID string) (Workspace, error) {
	var w Workspace
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if !events.ValidID(invitationID) {
			return fault.Missing("invitation")
		}
		if err := lockUser(ctx, tx, userID); err != nil {
			return err
		}
		workspaceID, err := workspaceOfInvitation(ctx, tx, invitationID, userID)
		if err != nil {
			return err
		}
		if err := lockWorkspace(ctx, tx, workspaceID); err != nil {
			return err
		}
		row, err := answerInvitation(ctx, tx, invitationID, userID) // it may have gone before the lock
		if err != nil {
			return err
		}
		w = Workspace{ID: workspaceID}
		w.Role, err = roleOf(ctx, tx, userID, workspaceID)
		member := err == nil
		if fault.KindOf(err) == fault.NotFound {
			w.Role, err = row.Role, nil
		}
		if err != nil {
			return err
		}
		if err := outbox.Append(ctx, tx, events.New(meta, "", events.InvitationAccepted{
			InvitationID: row.ID, WorkspaceID: workspaceID, Version: row.Version + 1, Role: w.Role, UserID: userID,
		})); err != nil || member {
			return err
		}
		return s.addMember(ctx, tx, meta, workspaceID, userID, w.Role)
	})
	if err != nil {
		return Workspace{}, fmt.Errorf("accept invitation %s: %w", invitationID, err)
	}
	return w, nil
}

// Decline ends an open invitation to the user's address.
func (s *Service) Decline(ctx context.Context, meta events.Meta, userID, invitationID string) error {
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if !events.ValidID(invitationID) {
			return fault.Missing("invitation")
		}
		row, err := answerInvitation(ctx, tx, invitationID, userID)
		if err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(meta, "", events.InvitationDeclined{
			InvitationID: row.ID, Version: row.Version + 1, UserID: userID,
		}))
	})
	if err != nil {
		return fmt.Errorf("decline invitation %s: %w", invitationID, err)
	}
	return nil
}

// withdrawOf ends the invitations that a member sent and may not send any more: with the role that the member has now,
// empty for none. A removed OWNER could come back through one. The workspace is locked.
func withdrawOf(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, inviterID, role string) error {
	var kept []string
	for _, r := range []string{RoleOwner, RoleAdmin, RoleMember} {
		if mayManage(role, r) {
			kept = append(kept, r)
		}
	}
	list, err := deleteInvitations(ctx, tx, `i.workspace_id = $1 AND i.invited_by = $2 AND i.role <> ALL (coalesce($3, '{}'::text[]))`,
		workspaceID, inviterID, kept)
	if err != nil {
		return err
	}
	return emitWithdrawn(ctx, tx, meta, list, events.InvitationInviterLeft)
}

// emitWithdrawn appends an event for each invitation that was just deleted.
func emitWithdrawn(ctx context.Context, tx pgx.Tx, meta events.Meta, list []invitationRow, reason string) error {
	for _, row := range list {
		ev := events.New(row.meta(meta), "", events.InvitationWithdrawn{
			InvitationID: row.ID, WorkspaceID: row.WorkspaceID, Version: row.Version + 1, Reason: reason,
		})
		if err := outbox.Append(ctx, tx, ev); err != nil {
			return err
		}
	}
	return nil
}

// bySystem is the circumstance of what no user does.
func bySystem(meta events.Meta) events.Meta {
	return events.Meta{Source: meta.Source, ActorID: events.SystemActor}
}
