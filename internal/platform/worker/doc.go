// Package worker feeds the events of a durable consumer to a handler: fetch, decode, handle, then acknowledge, retry or
// set aside.
//
// Guarantees: an event is acknowledged only after its handler returned nil, so handlers run at least once and must be
// idempotent by event id (or version) in the transaction of their effect. Events of one aggregate usually arrive in
// order, but a retry or a second copy of the service can change that; handlers compare versions where it matters.
//
// A handler steers by its error: Discard sets the event aside at once, RetryAfter says when to come again, and anything
// else is retried with exponential backoff and full jitter. After MaxAttempts, or when the body can't be decoded, the
// event goes to the stream DEAD with its headers, the reason and the number of attempts, and only then is the original
// terminated; when DEAD can't take it, the original stays. An event whose handling ends in a crash of the process is set
// aside unhandled on the delivery after the last allowed one.
//
// While a dependency is away (a database or server that can't be reached) the worker holds the event, says that it is in
// progress and tries again: an outage uses up no attempts and sets nothing aside.
//
// One poison event therefore holds nothing up, and the number of events in memory is bounded by Concurrency or, for
// batches, by twice BatchSize.
package worker
