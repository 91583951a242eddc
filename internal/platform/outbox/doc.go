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
// lock is free. The lock lives on the very connection that reads and deletes, and the server ends that session when it
// has been silent for some seconds, so a relay that was paused or cut off can't hold it and, once it lost it, can't
// delete. The relay always reads from the lowest id: there is no cursor that could pass over a late commit.
//
// It publishes a batch (atomic, one fsync) or, for a few rows, one message after the other; the id of the event is the
// message id, under which the stream drops repetitions for an hour. Rows are deleted after the acknowledgement. Whenever
// the outcome of a publish is unknown, and whenever a relay takes over, it first compares the head of the table with the
// tail of the stream, event by event, and deletes what has already arrived; so a repetition is noticed after any outage.
//
// # Failure modes
//
//   - NATS away: commits go on, rows pile up in the table (not in memory), Stats shows their number and age.
//   - Postgres away: the relay reconnects; nothing is in flight that the table doesn't hold.
//   - A process killed between publish and delete: the next relay finds the events in the stream and deletes the rows.
//   - A relay paused for over an hour between reading and publishing: one batch may be stored twice. Consumers are
//     idempotent by event id.
package outbox
