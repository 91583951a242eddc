// Package audit keeps the audit log: one row of audit_logs for every event, in monthly partitions that are made ahead. Old months leave for
// an archive that proves itself, and come back on demand.
//
// # The log
//
//   - Every column of a row is a function of the event alone (no insertion time, no default), so an event that is
//     delivered or replayed again meets its own row under the key (occurred_at, event_id) and changes nothing.
//   - The Writer returns only after the commit; the worker acknowledges after that.
//   - A month is a month in UTC, whatever the time zone of the session: the bounds are written with an explicit +00.
//   - There is always a partition for the current month and [MonthsAhead] more, unless nobody has run for so long; when fewer than two
//     are left, the Keeper tells (audit.partitions_low).
//   - The Log reads it, newest first, and exports it in bounded memory. Whoever begins to read is put on record before anything is shown,
//     an export also at its end with what went out.
//
// # The archive
//
// The Archiver detaches a month that is older than the retention, without standing in anybody's way, and writes its rows to the Storage
// in a canonical form, in the order of the log, with a hash of each beside them. It reads all of that back, signs a manifest with the
// Merkle root (RFC 9162) and the digest of the manifest before, and puts it on record in one transaction with the event. The table is
// dropped [DropAfter] later, if the manifest is still there. A run that is killed at any step is gone on with by the next.
//
// [Verify] needs the files and the public key alone. It names the first row that was changed, taken out or put in, and finds a month
// that is missing in the chain. A chain that was cut at its end looks like one that has not grown: the checkpoints name its newest
// manifest. [Prove] makes a proof for one row.
//
// Restore verifies a month while it loads it into a table with the bounds of the month as a constraint, so that attaching it reads no
// rows, all in one transaction. A restored month takes late events again, and goes back to the archive after [KeepRestored], with a
// manifest of its own.
//
// # Checkpoints
//
// Of months in the database, every hour that is over is signed for once an hour: how many rows, and their Merkle root, in a chain of
// messages in the stream CHECKPOINTS, which allows neither deletes nor purges and is copied into Postgres (package backup): after a loss of NATS no
// new chain begins while the old one is to be restored. Rows that are fewer, or as many but others, are findings
// of [VerifyLive]. Rows that are more are not: events may come late (an outage, a dead letter that was requeued). Who puts in more rows
// than they take out of one hour between two checkpoints is therefore seen as late events, not as a finding, until the hour is read
// by somebody who knows better.
//
// # Failure modes
//
//   - Postgres away, read-only, locked, or the schema not as expected: the writer holds the batch (the worker repeats it
//     for ever); nothing is set aside for what is not the event's own fault.
//   - An event whose time is out of the log's range (see [Writer]) and one whose data Postgres refuses are set aside as
//     dead letters with the reason, each alone; the rest of their batch is written.
//   - A month without a partition, for instance in a replay: the writer makes it and goes on.
//   - A month that is detached: its events are retried, the others pass. One in the archive: its events are set aside with what to do.
//   - The storage away, full, read-only, or not holding what was written to it: nothing is dropped, the error is logged and counted
//     (audit_archive_failures_total), and the next run goes on. The month is detached meanwhile: exports name it.
//   - A database that was restored to a state of the past and has forgotten what it archived: nothing is archived over it.
//   - The signing key lost: what was signed stays verifiable; a new key begins to sign, and a chain over both is verified with each in
//     turn. The key leaked: manifests and checkpoints that were copied elsewhere before still tell.
package audit
