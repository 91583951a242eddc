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
// After an error that looks like an outage the worker pings NATS and what the handler depends on (Config.Ping). If the ping
// fails, a dependency is unavailable: the worker keeps the event in progress and tries again, which uses up no attempts. If it
// succeeds, the attempt counts: a handler that always takes too long ends as a dead letter, too.
//
// At each attempt an event of a batch comes in a smaller batch, and alone at the last: an event that makes every batch fail
// takes no other event to DEAD.
//
// One poison event therefore holds nothing up, and the number of events in memory is bounded by Concurrency or, for
// batches, by twice BatchSize: of live events, and as many again of each of the two that follow.
//
// A worker handles again what operators ask for, beside its live events, with the same handler, retries and dead letters:
//
//   - copies in the stream REPLAY, such as requeued dead letters. Delivery.Sequence and a dead letter's subject and headers
//     are those of the original.
//   - a selection of EVENTS, as a second consumer on it that carries the rest of the selection (bus.ReplayOrder). It may
//     come, be paused and go while the worker runs; what it lists and doesn't mean is acknowledged unhandled. One that a
//     worker doesn't understand in full it leaves alone. A new one under the name of one that was given up is told apart
//     within a second.
package worker
