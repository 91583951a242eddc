// Package audit writes and reads the audit log: one row of audit_logs for every event, in monthly partitions that are made ahead. Package
// archive moves months out of the log and back.
//
// # Guarantees
//
//   - Every column of a row is a function of the event alone (no insertion time, no default). An event that is delivered or replayed again
//     meets its own row under the key (occurred_at, event_id) and changes nothing.
//   - The Writer returns only after the commit. The worker acknowledges after that.
//   - A month is a month in UTC, whatever the time zone of the session: the bounds are written with an explicit +00.
//   - The current month and [MonthsAhead] more have a partition, unless no Keeper has run for that long. When fewer than two
//     are left, the Keeper emits audit.partitions_low.
//   - The Log reads entries newest first and exports them in bounded memory. A read is recorded before anything is shown. An export is
//     recorded at its end, too, with the number of entries that went out.
//
// # Failure modes
//
//   - Postgres is unavailable, read-only or locked, or the schema is not the expected one: the worker repeats the batch for as long as
//     that lasts. No event becomes a dead letter for what is not its own fault.
//   - The time of an event is out of the log's range (see [Writer]), or Postgres refuses its data: that event alone becomes a dead letter
//     with the reason. The rest of its batch is written.
//   - A month has no partition, for instance in a replay: the writer makes it.
//   - A month is detached: its events are retried, the others pass. A month is in the archive: its events become dead letters that name
//     the command to run.
package audit
