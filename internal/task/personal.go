package task

import "fdc/internal/platform/takeout"

// Personal is the tasks of a person's workspaces, which mine selects; deleted ones are in a file of their own.
func Personal(mine string) []takeout.Section {
	return []takeout.Section{
		{File: "tasks", Each: mine, First: takeout.ZeroID, SQL: `
			SELECT id::text, to_jsonb(t) FROM tasks t
			WHERE workspace_id = @scope::uuid AND deleted_at IS NULL AND id > @after::uuid ORDER BY id LIMIT @limit`},
		{File: "deleted-tasks", Each: mine, First: takeout.ZeroID, SQL: `
			SELECT id::text, to_jsonb(t) FROM tasks t
			WHERE workspace_id = @scope::uuid AND deleted_at IS NOT NULL AND id > @after::uuid ORDER BY id LIMIT @limit`},
	}
}
