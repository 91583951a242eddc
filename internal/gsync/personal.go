package gsync

import "fdc/internal/platform/takeout"

// Personal is what this package stores about a person, without tokens.
func Personal() []takeout.Section {
	one := func(file, table string) takeout.Section {
		return takeout.Section{File: file, First: takeout.ZeroID, SQL: `
			SELECT user_id::text, to_jsonb(t) - 'access_token' - 'refresh_token' FROM ` + table + ` t
			WHERE user_id = @user AND user_id > @after::uuid ORDER BY user_id LIMIT @limit`}
	}
	many := func(file, table, key string) takeout.Section {
		return takeout.Section{File: file, First: takeout.ZeroID, SQL: `
			SELECT ` + key + `::text, to_jsonb(t) - 'access_token' - 'refresh_token' - 'lease_token' FROM ` + table + ` t
			WHERE user_id = @user AND ` + key + ` > @after::uuid ORDER BY ` + key + ` LIMIT @limit`}
	}
	return []takeout.Section{
		one("google-account", "google_accounts"), one("google-settings", "sync_settings"), one("google-schedule", "sync_schedules"),
		many("google-jobs", "sync_jobs", "id"), many("google-channels", "google_channels", "id"),
		many("google-revocations", "google_revocations", "id"), many("google-task-links", "google_task_links", "task_id"),
		{File: "google-sync-state", SQL: `
			SELECT resource, to_jsonb(s) FROM sync_state s WHERE user_id = @user AND resource > @after ORDER BY resource LIMIT @limit`},
		{
			File: "google-events", Each: `SELECT DISTINCT calendar_id FROM calendar_events WHERE user_id = @user ORDER BY 1`, SQL: `
			SELECT event_id, to_jsonb(e) FROM calendar_events e
			WHERE user_id = @user AND calendar_id = @scope AND event_id > @after ORDER BY event_id LIMIT @limit`,
		},
	}
}
