// Package flags holds the switches that operators flip on a live system: whether caches are used, whether syncs run in
// the background. Each is on unless the bucket flags says otherwise.
//
// # Reading
//
// Flags.Enabled reads memory. Run keeps that true to the bucket by a watch, which takes milliseconds, and by reading all
// flags again every second: after a restart of the server a watch may be silent for many seconds, so it is never the only
// source. What Run read last holds while NATS is away.
//
// A flag that was set for a time goes back to its default when that time is over, by the reader's own clock: nobody needs
// to do anything, and NATS need not be there.
//
// A lock, which New is given from the process's environment, keeps a flag off in this process whatever the bucket says.
// The bucket does not know of locks.
//
// # Writing
//
// Set and Clear first commit the event flag.changed, by the outbox, and then write the bucket, if it still holds what it
// held before. So there is no change that the audit log doesn't tell of. The other way round it can be: when the
// write fails, or somebody else came first, the caller is told, the flag is as it was, and the audit log tells of an
// attempt. Doing it again converges: it tells the event again and writes.
//
// # Failure modes
//
// A value that can't be read counts as none and is logged; the next Set replaces it. PostgreSQL or NATS away: Set and
// Clear fail. All methods are safe for concurrent use.
package flags
