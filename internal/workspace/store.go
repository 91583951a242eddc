package workspace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

func listWorkspaces(ctx context.Context, q postgres.Querier, userID string) ([]Workspace, error) {
	rows, _ := q.Query(ctx, `
		SELECT w.id, w.name, m.role, w.created_at
		FROM workspace_members m JOIN workspaces w ON w.id = m.workspace_id
		WHERE m.user_id = $1
		ORDER BY m.joined_at, w.id`, userID)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Workspace])
}

func insertWorkspace(ctx context.Context, tx pgx.Tx, id, ownerID, name string) (createdAt time.Time, err error) {
	err = tx.QueryRow(ctx, `
		INSERT INTO workspaces (id, name, created_by) VALUES ($1, $2, $3) RETURNING created_at`, id, name, ownerID).
		Scan(&createdAt)
	return createdAt, err
}

func insertDocument(ctx context.Context, tx pgx.Tx, workspaceID string) error {
	_, err := tx.Exec(ctx, `INSERT INTO workspace_data (workspace_id) VALUES ($1)`, workspaceID)
	return err
}

// lockWorkspace holds off every other change of the workspace's members; foreign keys to it stay free. A deleted one is missing.
func lockWorkspace(ctx context.Context, tx pgx.Tx, id string) error {
	var version int64
	err := tx.QueryRow(ctx, `SELECT version FROM workspaces WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE`, id).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.Missing("workspace")
	}
	return err
}

// bumpWorkspace gives the workspace its next version.
func bumpWorkspace(ctx context.Context, tx pgx.Tx, id string) (version int64, err error) {
	err = tx.QueryRow(ctx, `UPDATE workspaces SET version = version + 1 WHERE id = $1 RETURNING version`, id).Scan(&version)
	return version, err
}

// lockUser keeps the user's memberships as they are: their number is limited. It comes before the locks of workspaces.
func lockUser(ctx context.Context, tx pgx.Tx, id string) error {
	_, err := tx.Exec(ctx, `SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE`, id)
	return err
}

// bumpUser gives a user whose memberships changed the next version, by which cached sessions tell old from new.
func bumpUser(ctx context.Context, tx pgx.Tx, id string) error {
	_, err := tx.Exec(ctx, `UPDATE users SET version = version + 1 WHERE id = $1`, id)
	return err
}

// bumpRoles is bumpUser for a user whose role changed: the sessions also get new tokens.
func bumpRoles(ctx context.Context, tx pgx.Tx, id string) error {
	_, err := tx.Exec(ctx, `UPDATE users SET version = version + 1, role_epoch = role_epoch + 1 WHERE id = $1`, id)
	return err
}

func roleOf(ctx context.Context, q postgres.Querier, userID, workspaceID string) (role string, err error) {
	err = q.QueryRow(ctx, `SELECT role FROM workspace_members WHERE workspace_id = $1 AND user_id = $2`, workspaceID, userID).
		Scan(&role)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fault.Missing("workspace")
	}
	return role, err
}

// memberColumns go with workspace_members m and users u.
const memberColumns = `u.id AS user_id, u.email, u.name, m.role`

// listMembers gives them in the order they came.
func listMembers(ctx context.Context, q postgres.Querier, workspaceID string) ([]Member, error) {
	rows, _ := q.Query(ctx, `
		SELECT `+memberColumns+`
		FROM workspace_members m JOIN users u ON u.id = m.user_id
		WHERE m.workspace_id = $1
		ORDER BY m.joined_at, u.id`, workspaceID)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Member])
}

func findMember(ctx context.Context, q postgres.Querier, workspaceID, userID string) (Member, error) {
	rows, _ := q.Query(ctx, `
		SELECT `+memberColumns+`
		FROM workspace_members m JOIN users u ON u.id = m.user_id
		WHERE m.workspace_id = $1 AND m.user_id = $2`, workspaceID, userID)
	m, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Member])
	if errors.Is(err, pgx.ErrNoRows) {
		return Member{}, fault.Missing("member")
	}
	return m, err
}

func insertMember(ctx context.Context, tx pgx.Tx, workspaceID, userID, role string) error {
	_, err := tx.Exec(ctx, `INSERT INTO workspace_members (workspace_id, user_id, role) VALUES ($1, $2, $3)`, workspaceID, userID, role)
	return err
}

func updateRole(ctx context.Context, tx pgx.Tx, workspaceID, userID, role string) error {
	_, err := tx.Exec(ctx, `UPDATE workspace_members SET role = $3 WHERE workspace_id = $1 AND user_id = $2`,
		workspaceID, userID, role)
	return err
}

func deleteMember(ctx context.Context, tx pgx.Tx, workspaceID, userID string) error {
	_, err := tx.Exec(ctx, `DELETE FROM workspace_members WHERE workspace_id = $1 AND user_id = $2`, workspaceID, userID)
	return err
}

// hasOtherOwner reports whether another user, who can sign in, owns the workspace.
func hasOtherOwner(ctx context.Context, tx pgx.Tx, workspaceID, userID string) (other bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM workspace_members m JOIN users u ON u.id = m.user_id
			WHERE m.workspace_id = $1 AND m.user_id <> $2 AND m.role = 'OWNER' AND u.disabled_at IS NULL)`,
		workspaceID, userID).Scan(&other)
	return other, err
}

// documentRow is a document as it is stored.
type documentRow struct {
	Data         []byte
	Version      int64
	LastModified time.Time
}

func (r documentRow) document(workspaceID string) Document {
	return Document{WorkspaceID: workspaceID, Data: r.Data, Stored: r.Data, Version: r.Version, LastModified: r.LastModified}
}

// readDocument finds the document for a member, and nothing for anyone else.
func readDocument(ctx context.Context, q postgres.Querier, userID, workspaceID, lock string) (documentRow, error) {
	rows, _ := q.Query(ctx, `
		SELECT d.data, d.version, d.last_modified
		FROM workspace_members m JOIN workspace_data d USING (workspace_id)
		WHERE m.workspace_id = $1 AND m.user_id = $2 `+lock, workspaceID, userID)
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[documentRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return documentRow{}, fault.Missing("workspace")
	}
	return d, err
}

// lockDocument is the lock for readDocument.
const lockDocument = `FOR NO KEY UPDATE OF d`

// findDocument finds the document, whoever asks.
func findDocument(ctx context.Context, q postgres.Querier, workspaceID string) (documentRow, error) {
	rows, _ := q.Query(ctx, `SELECT data, version, last_modified FROM workspace_data WHERE workspace_id = $1`, workspaceID)
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[documentRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return documentRow{}, fault.Missing("workspace")
	}
	return d, err
}

// digestDocuments leaves the documents where they are: only what identifies them comes over.
func digestDocuments(ctx context.Context, q postgres.Querier, workspaceIDs []string) ([]DocumentDigest, error) {
	rows, _ := q.Query(ctx, `
		SELECT workspace_id, version, last_modified, sha256(convert_to(data::text, 'UTF8')) AS sha256
		FROM workspace_data WHERE workspace_id = ANY($1)`, workspaceIDs)
	return pgx.CollectRows(rows, pgx.RowToStructByName[DocumentDigest])
}

// updateDocument gives back the row as it will be read.
func updateDocument(ctx context.Context, tx pgx.Tx, workspaceID string, data []byte) (documentRow, error) {
	rows, _ := tx.Query(ctx, `
		UPDATE workspace_data SET data = $2, version = version + 1, last_modified = clock_timestamp()
		WHERE workspace_id = $1
		RETURNING data, version, last_modified`, workspaceID, data)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[documentRow])
}

// replacement is the outcome of replaceDocument. Data (as it will be read), Version and LastModified are nil when the expectation didn't hold.
type replacement struct {
	Current      int64 // the version before
	Data         []byte
	Version      *int64
	LastModified *time.Time
	Changed      []string // the names of the members that differ, at most enough
}

// replaceDocument does in one round trip what a PUT needs: the right to write, the lock, the expectation, the comparison
// with what was there and the write.
func replaceDocument(ctx context.Context, tx pgx.Tx, userID, workspaceID string, data []byte, want Expect) (replacement, error) {
	rows, _ := tx.Query(ctx, `
		WITH old AS (
			SELECT d.data, d.version
			FROM workspace_members m JOIN workspace_data d USING (workspace_id)
			WHERE m.workspace_id = $1 AND m.user_id = $2
			FOR NO KEY UPDATE OF d
		), new AS (
			UPDATE workspace_data d SET data = $3, version = d.version + 1, last_modified = clock_timestamp()
			FROM old
			WHERE d.workspace_id = $1
			  AND old.version = coalesce($4, old.version) AND old.version = ANY(coalesce($5, ARRAY[old.version]))
			RETURNING d.data, d.version, d.last_modified
		)
		SELECT old.version AS current, new.data, new.version, new.last_modified, ARRAY(
			SELECT name FROM jsonb_each(old.data) o (name, was) FULL JOIN jsonb_each($3) n (name, becomes) USING (name)
			WHERE was IS DISTINCT FROM becomes
			LIMIT $6
		) AS changed
		FROM old LEFT JOIN new ON true`, workspaceID, userID, data, want.Version, want.IfMatch, enough)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[replacement])
	if errors.Is(err, pgx.ErrNoRows) {
		return replacement{}, fault.Missing("workspace")
	}
	return r, err
}

// about says of which workspace an error is.
func about(operation, workspaceID string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s of workspace %s: %w", operation, workspaceID, err)
}
