// Package archive moves months of the audit log into signed files in a [Storage], verifies them there, and restores them.
//
// # Design
//
// The Archiver detaches a month that is older than the retention, without blocking readers or writers. It writes the rows to the Storage
// in a canonical form, in the order of the log, with a hash of each in a second file. It reads both back, signs a manifest with the
// Merkle root (RFC 9162) and the digest of the previous manifest, and records the manifest in one transaction with the event. It drops
// the table [DropAfter] later, if the manifest is still in the Storage.
//
// Restore verifies a month while it loads it into a table with the month's bounds as a constraint. Attaching that table reads no rows.
// All of it is one transaction. A restored month takes late events again. It returns to the archive after [KeepRestored], with a new
// manifest.
//
// The Checkpointer signs, once an hour, the number of rows and the Merkle root of every hour that has ended, for months in the database.
// Checkpoints are a chain of messages in the stream CHECKPOINTS, which allows neither deletes nor purges and is copied into Postgres
// (package backup). After a loss of NATS no new chain begins before the old one is restored.
//
// Signing keys are a chain, too: links in the archive, each signed by the new key and by the one before ([KeyLink]). An archiver signs only
// with the newest key of the chain, and a checkpoint by an older key never follows one by a newer.
//
// # Guarantees
//
//   - If the process dies at any step, the next run continues from that step.
//   - No table is dropped before all of its rows were read back from the Storage.
//   - [Verify] needs the files and the public key only. It names the first row that was changed, removed or added, and finds a month that
//     is missing in the chain. A chain that was cut at its end looks like one that has not grown: the checkpoints name its newest manifest.
//   - [Prove] makes a proof for one row, which can be checked with the public key only.
//   - [VerifyLive] finds an hour with fewer rows than were signed, or with as many but other rows. More rows are no finding: events
//     may come late (an outage, a requeued dead letter). A person who adds more rows to an hour than they remove, between two checkpoints,
//     is therefore reported as late events.
//
// # Failure modes
//
//   - The storage is unavailable, full or read-only, or does not return what was written: nothing is dropped, the error is logged and counted
//     (audit_archive_failures_total), and the next run continues. The month is detached meanwhile: exports name it.
//   - The database was restored to an earlier state and does not know what it archived: nothing is archived over it.
//   - The signing key leaked: [Archiver.Rotate] has a new key sign over the last manifest of the old one. [Verify] with the new public key
//     finds a month that the old key signs anew, because manifests are a chain of digests. A proof ([Prove]) of a month before the last
//     one of the old key holds only its own manifest, so it is only as good as the old key.
//   - The signing key is lost: what was signed stays verifiable with its public key, but nobody can make the link to a new one.
package archive
