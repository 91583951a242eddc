// Package audit keeps the audit log: one row of audit_logs for every event, in monthly partitions that are made ahead.
//
// # Guarantees
//
//   - Every column of a row is a function of the event alone (no insertion time, no default), so an event that is
//     delivered or replayed again meets its own row under the key (occurred_at, event_id) and changes nothing.
//   - The Writer returns only after the commit; the worker acknowledges after that.
//   - A month is a month in UTC, whatever the time zone of the session: the bounds are written with an explicit +00.
//   - There is always a partition for the current month and [MonthsAhead] more, unless nobody has run for so long.
//
// # Failure modes
//
//   - Postgres away, read-only, locked, or the schema not as expected: the writer holds the batch (the worker repeats it
//     for ever); nothing is set aside for what is not the event's own fault.
//   - An event whose time is out of the log's range (see [Writer]) and one whose data Postgres refuses are set aside as
//     dead letters with the reason, each alone; the rest of their batch is written.
//   - A month without a partition, for instance in a replay: the writer makes it and goes on.
//   - A month whose table exists but is detached (being archived or restored): its events are retried, the others pass.
package audit
