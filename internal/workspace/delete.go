package workspace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// RestorableFor is how long a deleted workspace can be restored.
const RestorableFor = 30 * 24 * time.Hour

// Deleted is a workspace that the user, who was an OWNER of it, can restore until PurgeAt.
type Deleted struct {
	Workspace
	DeletedAt time.Time
	PurgeAt   time.Time
}

// Rename gives a workspace another name. It returns the members, whose sessions show the name. Only an OWNER renames. The name that
// the workspace has already is no change.
func (s *Service) Rename(ctx context.Context, meta events.Meta, actorID, workspaceID, name string) (w Workspace, members []string, err error) {
	name, wrong := checkName(name)
	err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if members, err = s.lockAsOwner(ctx, tx, actorID, workspaceID, "Only an OWNER renames a workspace."); err != nil {
			return err
		}
		if wrong != nil {
			return wrong
		}
		w = Workspace{ID: workspaceID, Name: name, Role: RoleOwner}
		var before string
		if err := tx.QueryRow(ctx, `SELECT name, created_at FROM workspaces WHERE id = $1`, workspaceID).Scan(&before, &w.CreatedAt); err != nil {
			return err
		}
		if before == name {
			members = nil
			return nil
		}
		if err := bumpUsers(ctx, tx, members); err != nil {
			return err
		}
		var version int64
		err := tx.QueryRow(ctx, `UPDATE workspaces SET name = $2, version = version + 1 WHERE id = $1 RETURNING version`, workspaceID, name).Scan(&version)
		if err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(meta, "", events.WorkspaceRenamed{WorkspaceID: workspaceID, Version: version}))
	})
	return w, members, about("rename", workspaceID, err)
}

// Delete deletes a workspace, whose name the caller repeats, and returns the members that it had. All memberships end, and open invitations
// are withdrawn, so that nobody sees anything of it. An OWNER can restore it within RestorableFor. Only an OWNER deletes.
func (s *Service) Delete(ctx context.Context, meta events.Meta, actorID, workspaceID, name string) (members []string, err error) {
	err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if members, err = s.lockAsOwner(ctx, tx, actorID, workspaceID, "Only an OWNER deletes a workspace."); err != nil {
			return err
		}
		var current string
		if err := tx.QueryRow(ctx, `SELECT name FROM workspaces WHERE id = $1`, workspaceID).Scan(&current); err != nil {
			return err
		}
		if name != current {
			return fault.Wrong(fault.Field{Pointer: "/name", Detail: "Repeat the workspace's name exactly, to confirm that it is the one to delete."})
		}
		return deleteTx(ctx, tx, meta, workspaceID, RestorableFor, events.MemberWorkspaceDeleted)
	})
	return members, about("delete", workspaceID, err)
}

// deleteTx makes the members of a workspace former members, and has it purged after a time. The workspace and its members are locked.
func deleteTx(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID string, restorable time.Duration, reason string) error {
	invitations, err := deleteInvitations(ctx, tx, `i.workspace_id = $1`, workspaceID)
	if err != nil {
		return err
	}
	if err := emitWithdrawn(ctx, tx, meta, invitations, events.InvitationWithdrawnByMember); err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, `
		WITH gone AS (DELETE FROM workspace_members WHERE workspace_id = $1 RETURNING *)
		INSERT INTO former_members (workspace_id, user_id, role, joined_at)
		SELECT workspace_id, user_id, role, joined_at FROM gone ORDER BY user_id RETURNING user_id`, workspaceID)
	members, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if err := bumpUsers(ctx, tx, members); err != nil {
		return err
	}
	var version, document int64
	err = tx.QueryRow(ctx, `
		UPDATE workspaces w SET deleted_at = now(), purge_at = now() + $2::interval, version = w.version + 1 + $3
		FROM workspace_data d WHERE w.id = $1 AND d.workspace_id = w.id RETURNING w.version - $3, d.version`,
		workspaceID, restorable, len(members)).Scan(&version, &document)
	if err != nil {
		return err
	}
	// The members hear of it before they are none any more.
	list := []events.Event{events.New(meta, "", events.WorkspaceDeleted{
		WorkspaceID: workspaceID, Version: version, DocumentVersion: document, PurgeAt: time.Now().Add(restorable).UTC(),
	})}
	for i, userID := range members {
		list = append(list, events.New(meta, "", events.WorkspaceMemberRemoved{
			WorkspaceID: workspaceID, Version: version + int64(i) + 1, UserID: userID, Reason: reason,
		}))
	}
	return outbox.AppendAll(ctx, tx, list)
}

// Deleted lists the workspaces that a user has owned and can restore, the newest deletion first.
func (s *Service) Deleted(ctx context.Context, userID string) ([]Deleted, error) {
	rows, _ := s.outbox.Pool().Query(ctx, `
		SELECT w.id, w.name, f.role, w.created_at, w.deleted_at, w.purge_at
		FROM former_members f JOIN workspaces w ON w.id = f.workspace_id
		WHERE f.user_id = $1 AND f.role = 'OWNER' AND w.purge_at > now()
		ORDER BY w.deleted_at DESC, w.id`, userID)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Deleted])
	if err != nil {
		return nil, fmt.Errorf("list deleted workspaces of user %s: %w", userID, postgres.Fault(err))
	}
	return list, nil
}

// Restore brings a deleted workspace back with everything, and returns the members. Members who are in as many workspaces as the limit
// allows by now are left out. Only a former OWNER restores. The document gets a new version: caches refuse the one before.
func (s *Service) Restore(ctx context.Context, meta events.Meta, actorID, workspaceID string) (w Workspace, members []string, err error) {
	if !events.ValidID(workspaceID) {
		return Workspace{}, nil, fault.Missing("workspace")
	}
	err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		var role string
		err := tx.QueryRow(ctx, `
			SELECT f.role FROM former_members f JOIN workspaces w ON w.id = f.workspace_id
			WHERE w.id = $1 AND f.user_id = $2 AND w.purge_at > now()`, workspaceID, actorID).Scan(&role)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.Missing("workspace")
		}
		if err != nil {
			return err
		}
		if role != RoleOwner {
			return forbidden("Only an OWNER restores a workspace.")
		}
		if err := lockUsers(ctx, tx, `SELECT user_id FROM former_members WHERE workspace_id = $1`, workspaceID); err != nil {
			return err
		}
		w = Workspace{ID: workspaceID, Role: RoleOwner}
		err = tx.QueryRow(ctx, `
			SELECT name, created_at FROM workspaces WHERE id = $1 AND purge_at > now() FOR NO KEY UPDATE`, workspaceID).
			Scan(&w.Name, &w.CreatedAt)
		if errors.Is(err, pgx.ErrNoRows) { // meanwhile
			return fault.Missing("workspace")
		}
		if err != nil {
			return err
		}
		if err := checkMemberships(ctx, tx, actorID, RoleOwner); err != nil {
			return err
		}
		members, err = restoreTx(ctx, tx, meta, workspaceID)
		return err
	})
	return w, members, about("restore", workspaceID, err)
}

// restoreTx undoes deleteTx. The workspace and its former members are locked.
func restoreTx(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID string) (members []string, err error) {
	rows, _ := tx.Query(ctx, `
		WITH gone AS (DELETE FROM former_members WHERE workspace_id = $1 RETURNING *)
		INSERT INTO workspace_members (workspace_id, user_id, role, joined_at)
		SELECT workspace_id, user_id, role, joined_at FROM gone
		WHERE (SELECT count(*) FROM workspace_members m WHERE m.user_id = gone.user_id) < $2
		ORDER BY user_id RETURNING user_id, role`, workspaceID, MaxMemberships)
	type restored struct{ UserID, Role string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[restored])
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		members = append(members, m.UserID)
	}
	if err := bumpUsers(ctx, tx, members); err != nil {
		return nil, err
	}
	var version, document, size int64
	err = tx.QueryRow(ctx, `
		WITH restored AS (
			UPDATE workspaces SET deleted_at = NULL, purge_at = NULL, version = version + 1 + $2 WHERE id = $1 RETURNING version - $2 AS version)
		UPDATE workspace_data d SET version = d.version + 1 FROM restored
		WHERE d.workspace_id = $1 RETURNING restored.version, d.version, octet_length(d.data::text)`,
		workspaceID, len(members)).Scan(&version, &document, &size)
	if err != nil {
		return nil, err
	}
	all := []events.Event{
		events.New(meta, "", events.WorkspaceRestored{WorkspaceID: workspaceID, Version: version}),
		events.New(meta, "", events.WorkspaceDataUpdated{WorkspaceID: workspaceID, Version: document, Bytes: size}),
	}
	for i, m := range list {
		all = append(all, events.New(meta, "", events.WorkspaceMemberAdded{
			WorkspaceID: workspaceID, Version: version + int64(i) + 1, UserID: m.UserID, Role: m.Role, Status: events.MemberActive,
		}))
	}
	return members, outbox.AppendAll(ctx, tx, all)
}

// LeaveAllTx ends all memberships of a user who is erased, in the caller's transaction, which has locked the user. A workspace without
// another member is deleted, and purged with the next sweep. Invitations to the user's address are declined. The last OWNER of a
// workspace with other members is fault.Conflict.
func (s *Service) LeaveAllTx(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string) error {
	rows, _ := tx.Query(ctx, `SELECT workspace_id FROM workspace_members WHERE user_id = $1 ORDER BY workspace_id`, userID)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list workspaces of user %s: %w", userID, err)
	}
	for _, id := range ids {
		if err := s.leave(ctx, tx, meta, id, userID); err != nil {
			return about("leave as user "+userID, id, err)
		}
	}
	if _, err := tx.Exec(ctx, `DELETE FROM former_members WHERE user_id = $1`, userID); err != nil {
		return fmt.Errorf("forget former memberships of user %s: %w", userID, err)
	}
	received, err := deleteInvitations(ctx, tx, `lower(i.email) = (SELECT lower(email) FROM users WHERE id = $1)`, userID)
	if err != nil {
		return fmt.Errorf("decline invitations of user %s: %w", userID, err)
	}
	for _, row := range received {
		declined := events.InvitationDeclined{InvitationID: row.ID, Version: row.Version + 1, UserID: userID}
		if err := outbox.Append(ctx, tx, events.New(meta, "", declined)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) leave(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, userID string) error {
	if err := lockWorkspace(ctx, tx, workspaceID); err != nil {
		return err
	}
	m, err := findMember(ctx, tx, workspaceID, userID)
	if fault.KindOf(err) == fault.NotFound {
		return nil // removed before the lock
	}
	if err != nil {
		return err
	}
	var others bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM workspace_members WHERE workspace_id = $1 AND user_id <> $2)`, workspaceID, userID).Scan(&others)
	if err != nil {
		return err
	}
	if !others {
		return deleteTx(ctx, tx, meta, workspaceID, 0, events.MemberLeft)
	}
	if err := keepOwner(ctx, tx, workspaceID, m); err != nil {
		return err
	}
	if err := deleteMember(ctx, tx, workspaceID, userID); err != nil {
		return err
	}
	if err := s.tellRemoved(ctx, tx, meta, workspaceID, userID, events.MemberLeft); err != nil {
		return err
	}
	return withdrawOf(ctx, tx, meta, workspaceID, userID, "")
}

// purgeBatch is how many tasks a transaction of Purge deletes.
const purgeBatch = 1000

// Purge deletes a workspace for good that can't be restored any more, or a part of it if it is large. It reports whether there is more
// to do. Several nodes may do it at once.
func (s *Service) Purge(ctx context.Context) (more bool, err error) {
	err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		more = false
		var id string
		err := tx.QueryRow(ctx, `
			SELECT id FROM workspaces WHERE purge_at <= now() ORDER BY purge_at LIMIT 1 FOR UPDATE SKIP LOCKED`).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		more = true
		tag, err := tx.Exec(ctx, `
			DELETE FROM tasks WHERE id = ANY (ARRAY(SELECT id FROM tasks WHERE workspace_id = $1 LIMIT $2))`, id, purgeBatch)
		if err != nil || tag.RowsAffected() == purgeBatch {
			return about("purge tasks", id, err)
		}
		_, err = tx.Exec(ctx, `DELETE FROM workspaces WHERE id = $1`, id)
		return about("purge", id, err)
	})
	return more && err == nil, err
}

// lockAsOwner locks the members and then the workspace, if the actor is an OWNER of it, and returns the members' ids.
func (s *Service) lockAsOwner(ctx context.Context, tx pgx.Tx, actorID, workspaceID, detail string) ([]string, error) {
	role, err := s.Role(ctx, tx, actorID, workspaceID)
	if err != nil {
		return nil, err
	}
	if role != RoleOwner { // nobody without the right waits for the locks
		return nil, forbidden(detail)
	}
	const members = `SELECT user_id FROM workspace_members WHERE workspace_id = $1`
	if err := lockUsers(ctx, tx, members, workspaceID); err != nil {
		return nil, err
	}
	if role, err = lockedRole(ctx, tx, actorID, workspaceID); err != nil {
		return nil, err
	}
	if role != RoleOwner {
		return nil, forbidden(detail)
	}
	rows, _ := tx.Query(ctx, members+` ORDER BY user_id`, workspaceID)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// lockUsers locks the users that a query finds, in the order of their ids. It comes before the locks of workspaces.
func lockUsers(ctx context.Context, tx pgx.Tx, query, workspaceID string) error {
	_, err := tx.Exec(ctx, `SELECT FROM users WHERE id IN (`+query+`) ORDER BY id FOR NO KEY UPDATE`, workspaceID)
	return err
}

// bumpUsers is bumpUser for many.
func bumpUsers(ctx context.Context, tx pgx.Tx, ids []string) error {
	_, err := tx.Exec(ctx, `UPDATE users SET version = version + 1 WHERE id = ANY ($1::uuid[])`, ids)
	return err
}
