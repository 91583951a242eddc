package identity_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/fault"
)

// After erasing, no row of any table has the address, the name or the Google id of the person, the outbox's masked values aside.
func TestNothingOfAnErasedPersonIsLeft(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, alice := d.signIn(t, person("alice"))
	_, bob := d.signIn(t, person("bob"))
	id, own := alice.User.ID, alice.Memberships[0].WorkspaceID
	shared, err := d.workspaces.Create(t.Context(), by(bob.User.ID), bob.User.ID, "Shared")
	require.NoError(t, err)
	join(t, d.workspaces, bob.User, shared.ID, alice.User, "OWNER")
	_, err = d.workspaces.Invite(t.Context(), by(bob.User.ID), bob.User.ID, bob.Memberships[0].WorkspaceID, "ALICE@example.com", "MEMBER")
	require.NoError(t, err)
	d.exec(t, `UPDATE workspaces SET name = 'Alice''s secret' WHERE id = $1`, own)
	d.exec(t, `INSERT INTO google_accounts (user_id, google_id, email, state, access_token, refresh_token, version)
		VALUES ($1, 'google-alice', 'alice@example.com', 'connected', '\x0101', '\x0102', 40)`, id)
	d.exec(t, `INSERT INTO sync_settings (user_id, workspace_id, task_list_id, calendar_ids, auto_sync, interval_minutes)
		VALUES ($1, $2, 'alice@example.com', '{alice@example.com}', true, 15)`, id, own)
	d.exec(t, `INSERT INTO sync_jobs (id, user_id, type, mode) VALUES ($1, $2, 'full', 'incremental')`, events.NewID(), id)
	d.exec(t, `INSERT INTO calendar_events (user_id, calendar_id, event_id, title) VALUES ($1, 'alice@example.com', 'e', 'Alice''s secret')`, id)
	d.db.Told(t)

	operator := events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}
	requireKind(t, fault.Invalid, d.Erase(t.Context(), operator, id, "two\nlines"))
	requireKind(t, fault.NotFound, d.Erase(t.Context(), operator, events.NewID(), "x"))
	require.NoError(t, d.Erase(t.Context(), operator, id, "asked by letter"))
	for _, ev := range d.db.Told(t) {
		body, err := events.Encode(ev)
		require.NoError(t, err)
		require.NotContains(t, strings.ToLower(string(body)), "alice@")
		require.NotContains(t, string(body), "secret")
	}

	_, err = d.workspaces.Purge(t.Context())
	require.NoError(t, err)
	rows, _ := d.db.Pool.Query(t.Context(), `
		SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
			AND relname NOT IN ('outbox', 'goose_db_version') AND relname NOT LIKE 'audit\_logs%'`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Greater(t, len(tables), 10)
	found := func(what string) (in []string) {
		for _, table := range tables {
			if d.count(t, `SELECT count(*) FROM `+table+` r WHERE to_jsonb(r)::text ILIKE '%' || $1 || '%'`, what) > 0 {
				in = append(in, table)
			}
		}
		return in
	}
	require.Empty(t, found("alice@example.com"))
	require.Empty(t, found("secret"))
	require.Zero(t, d.count(t, `SELECT count(*) FROM sessions WHERE user_id = $1 AND (ip <> '' OR user_agent <> '')`, id))
	require.ElementsMatch(t, []string{"google_revocations"}, found("google-alice"), "until a syncer has revoked the access")
	require.ElementsMatch(t, []string{"users", "sessions", "google_revocations"}, found(id), "blank rows")
	require.Zero(t, d.count(t, `SELECT count(*) FROM workspaces WHERE id = $1`, own), "nobody else was in it")
	require.Equal(t, 1, d.count(t, `SELECT count(*) FROM workspaces WHERE id = $1`, shared.ID))

	// An hour later not even the id is left.
	d.exec(t, `UPDATE users SET erased_at = now() - interval '2 hours' WHERE id = $1`, id)
	require.NoError(t, d.SweepErased(t.Context()))
	require.ElementsMatch(t, []string{"google_revocations"}, found(id))
}

// Nobody is erased who would leave others without an OWNER, or the system without an operator.
func TestWhoCannotBeErased(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, alice := d.signIn(t, person("alice"))
	_, bob := d.signIn(t, person("bob"))
	join(t, d.workspaces, alice.User, alice.Memberships[0].WorkspaceID, bob.User, "ADMIN")
	require.Equal(t, "last-owner", requireFault(t, fault.Conflict, d.Erase(t.Context(), meta, alice.User.ID, "x")).Code)
	require.NoError(t, d.SetSystemRole(t.Context(), meta, bob.User.ID, events.SystemRoleAdmin))
	require.Equal(t, "last-operator", requireFault(t, fault.Conflict, d.Erase(t.Context(), meta, bob.User.ID, "x")).Code)
	require.Equal(t, 2, d.count(t, `SELECT count(*) FROM users WHERE erased_at IS NULL`), "nothing has changed")
}
