package workspace

import "fdc/internal/platform/takeout"

// Mine selects the workspaces that a person is in, for other packages' sections.
const Mine = `SELECT workspace_id::text FROM workspace_members WHERE user_id = @user ORDER BY workspace_id`

// Personal is what this package stores about a person, the documents of their workspaces included.
func Personal() []takeout.Section {
	return []takeout.Section{
		{File: "workspaces", First: takeout.ZeroID, SQL: `
			SELECT w.id::text, to_jsonb(m) || jsonb_build_object('name', w.name, 'created_at', w.created_at)
			FROM workspace_members m JOIN workspaces w ON w.id = m.workspace_id
			WHERE m.user_id = @user AND w.id > @after::uuid ORDER BY w.id LIMIT @limit`},
		{File: "deleted-workspaces", First: takeout.ZeroID, SQL: `
			SELECT w.id::text, to_jsonb(m) || jsonb_build_object('name', w.name, 'deleted_at', w.deleted_at, 'purge_at', w.purge_at)
			FROM former_members m JOIN workspaces w ON w.id = m.workspace_id
			WHERE m.user_id = @user AND w.id > @after::uuid ORDER BY w.id LIMIT @limit`},
		{File: "documents", Each: Mine, First: takeout.ZeroID, Page: 1, SQL: `
			SELECT workspace_id::text, to_jsonb(d) FROM workspace_data d
			WHERE workspace_id = @scope::uuid AND workspace_id > @after::uuid ORDER BY workspace_id LIMIT @limit`},
		{File: "invitations-received", First: takeout.ZeroID, SQL: `
			SELECT i.id::text, to_jsonb(i) - 'invited_by' FROM users u JOIN invitations i ON lower(i.email) = lower(u.email)
			WHERE u.id = @user AND i.id > @after::uuid ORDER BY i.id LIMIT @limit`},
		{File: "invitations-sent", First: takeout.ZeroID, SQL: `
			SELECT i.id::text, to_jsonb(i) FROM invitations i WHERE invited_by = @user AND id > @after::uuid ORDER BY id LIMIT @limit`},
	}
}
