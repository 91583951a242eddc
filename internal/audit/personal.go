package audit

import "fdc/internal/platform/takeout"

// Personal is the entries of the audit log about what a person did.
func Personal() []takeout.Section {
	return []takeout.Section{{File: "audit", First: "-infinity|" + takeout.ZeroID, SQL: `
		SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '|' || event_id, to_jsonb(l) FROM audit_logs l
		WHERE actor_id = @user AND (occurred_at, event_id) > (split_part(@after, '|', 1)::timestamptz, split_part(@after, '|', 2)::uuid)
		ORDER BY occurred_at, event_id LIMIT @limit`}}
}
