// Package outbox carries committed events from Postgres to the stream EVENTS: every one, none twice in effect, and in
// commit order per aggregate.
//
// # Writing
//
// Append inserts the event in the caller's transaction. The caller locks or bumps the aggregate's row before it appends,
// so for one aggregate the order of ids is the order of commits; UNIQUE (aggregate, version) turns a caller that forgot
// into an error. Outbox.Tx is the usual way in: it commits, then nudges the relay.
//
// # Relaying
//
// One Relay at a time works, in whichever process holds the advisory lock; the others stand by and take over when the
// lock is free. The lock lives on the very connection that reads and records, and the server ends that session when it
// has been silent for some seconds, so a relay that was paused or cut off can't hold it and, once it lost it, can't
// record. The relay always reads what is pending from the lowest id: there is no cursor that could pass over a late commit.
//
// It publishes a batch (atomic, one fsync) or, for a few rows, one message after the other; the id of the event is the
// message id, under which the stream drops repetitions for an hour. After the acknowledgement each row is given its sequence.
// Whenever the outcome of a publish is unknown, and whenever a relay takes over, it first compares the table with the
// tail of the stream, event by event, and records what has already arrived; so a repetition is noticed after any outage.
//
// # Holding
//
// A published row stays until the audit-archiver, which commits before it acknowledges, has acknowledged its sequence. So
// every event is in the outbox or in the audit log at any time, and a stream that lost its data is given again what is
// written nowhere else: rows that were published to a stream of another creation time are pending again. At most 20,000
// rows are held; of an audit-archiver that lags further behind, the rest is in the stream alone.
//
// # Failure modes
//
//   - NATS away: commits go on, rows pile up in the table (not in memory), Stats shows their number and age.
//   - Postgres away: the relay reconnects; nothing is in flight that the table doesn't hold.
//   - A process killed between publish and record: the next relay finds the events in the stream and records them.
//   - NATS comes back empty: see above. What the audit log had is not published again.
//   - The audit-archiver away: published rows stay, 20,000 of them; nothing else waits for it.
//   - A relay paused for over an hour between reading and publishing: one batch may be stored twice. Consumers are
//     idempotent by event id.
package outbox
