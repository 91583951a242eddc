package workspace_test

import (
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/workspace"
	"fdc/migrations"
)

// Migration 00016 makes invitations of the addresses that were rows of users and members, one per workspace, and leaves users
// and their memberships alone.
func TestMigrationOfInvitedUsers(t *testing.T) {
	t.Parallel()
	before := fstest.MapFS{}
	files, err := fs.Glob(migrations.FS, "*.sql")
	require.NoError(t, err)
	for _, name := range files {
		if name < "00016" {
			data, err := fs.ReadFile(migrations.FS, name)
			require.NoError(t, err)
			before[name] = &fstest.MapFile{Data: data}
		}
	}
	db := pgtest.Empty(t)
	_, err = postgres.Migrate(t.Context(), db.URL, before)
	require.NoError(t, err)
	alice, carol, blocked := events.NewID(), events.NewID(), events.NewID()
	first, second := events.NewID(), events.NewID()
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := db.Pool.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	exec(`INSERT INTO users (id, email, google_id, disabled_at) VALUES ($1, 'alice@example.com', 'g-alice', NULL),
		($2, 'Carol@Example.com', NULL, NULL), ($3, 'blocked@example.com', NULL, now())`, alice, carol, blocked)
	exec(`INSERT INTO workspaces (id, name, created_by) VALUES ($1, 'First', $3), ($2, 'Second', $3)`, first, second, alice)
	exec(`INSERT INTO workspace_members (workspace_id, user_id, role) VALUES ($1, $3, 'OWNER'), ($2, $3, 'OWNER'),
		($1, $4, 'ADMIN'), ($2, $4, 'MEMBER'), ($1, $5, 'MEMBER')`, first, second, alice, carol, blocked)

	_, err = postgres.Migrate(t.Context(), db.URL, migrations.FS)
	require.NoError(t, err)
	workspaces := workspace.New(outbox.New(db.Pool, nil))
	for id, role := range map[string]string{first: "ADMIN", second: "MEMBER"} {
		members, invitations, err := workspaces.Members(t.Context(), alice, id)
		require.NoError(t, err)
		require.Equal(t, []workspace.Member{{UserID: alice, Email: "alice@example.com", Role: "OWNER"}}, members)
		require.Len(t, invitations, 1, "none for the disabled address")
		require.Equal(t, []string{"Carol@Example.com", role}, []string{invitations[0].Email, invitations[0].Role})
		require.True(t, events.ValidID(invitations[0].ID))
	}
	var users int
	require.NoError(t, db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM users`).Scan(&users))
	require.Equal(t, 1, users)

	// Carol signs in, and answers.
	exec(`INSERT INTO users (id, email, google_id) VALUES ($1, 'carol@example.com', 'g-carol')`, carol)
	received, err := workspaces.Received(t.Context(), carol)
	require.NoError(t, err)
	require.Len(t, received, 2)
	require.Empty(t, received[0].InvitedBy, "nobody knows any more")
	_, err = workspaces.Accept(t.Context(), by(carol), carol, received[0].ID)
	require.NoError(t, err)
}
