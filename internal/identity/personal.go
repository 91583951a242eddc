package identity

import "fdc/internal/platform/takeout"

// Personal is what this package stores about a person, without secrets.
func Personal() []takeout.Section {
	return []takeout.Section{
		{File: "user", First: takeout.ZeroID, SQL: `
			SELECT id::text, to_jsonb(u) FROM users u WHERE id = @user AND id > @after::uuid ORDER BY id LIMIT @limit`},
		{File: "sessions", First: takeout.ZeroID, SQL: `
			SELECT id::text, to_jsonb(s) - 'token_hash' FROM sessions s WHERE user_id = @user AND id > @after::uuid ORDER BY id LIMIT @limit`},
	}
}
