// Package backup keeps a copy in Postgres of the streams that hold what is nowhere else: the flags (KV_flags), the dead letters
// (DEAD) and the checkpoints of the audit log (CHECKPOINTS). When NATS has lost its data, `fdc migrate` puts them back.
//
// # Copying
//
// One [Keeper] at a time copies, in whichever audit-archiver holds the advisory lock; the lock lives on the very connection that
// writes. It follows each stream with a consumer of its own that delivers in order, and inserts what arrives within milliseconds,
// in batches. A stream is known by its name and the moment of its creation, its incarnation: when it is made anew, the new
// incarnation is copied beside the old one, whose rows stay until they are restored.
//
// Of the present incarnation the table holds what the stream holds. A flag's older values go with the copy of the next. A dead
// letter that is requeued or discarded goes in the transaction that tells of it, by [Forget]. Once a minute, and whenever a Keeper
// begins, both sides are counted: rows of messages that have left the stream go, and when rows are missing all is copied again.
//
// # Restoring
//
// [Restore] publishes the rows of lost incarnations in their order, and makes each a row of the present one in the statement that
// takes the old one away: no message is without its copy at any moment. Done again after a crash at any step it doubles nothing:
//
//   - A flag is published if its subject has no message yet. One that was set or cleared meanwhile stays as it is.
//   - A dead letter keeps its message id, and is not published when DEAD holds one with that id. It is listed with a new sequence
//     and the time of the restore.
//   - Checkpoints are a chain that counts sequences. Each is published as the next sequence, and one that is there already must be
//     the same. When somebody has begun another chain the old rows stay and the log says so; the Checkpointer waits with an empty
//     stream while there are rows of a lost one ([Lost]).
//
// # Failure modes
//
//   - NATS or Postgres away, slow or cut off: the Keeper goes on where its table ends, or lets another. What was published
//     meanwhile is copied then.
//   - NATS lost before a message was copied: that message is lost. stream_backup_pending tells how many wait.
//   - NATS lost after a letter was requeued and before its consumer has handled it: its copy in REPLAY is gone, and the letter has left
//     the backup. The audit log names it.
//   - Postgres restored to a state before a loss of NATS: `fdc migrate` restores once more. Flags and checkpoints are there
//     already; letters that were dealt with since come back, and their handlers recognise what they have done.
//   - NATS brought back to an earlier state of the same streams, from a copy of its disk: the copy follows, and the log says what
//     is missing.
//   - A header that is no UTF-8, or has a zero byte, is copied with U+FFFD in the place of what Postgres refuses.
package backup
