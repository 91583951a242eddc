// Package replay selects events of the stream EVENTS, shows and exports them, and feeds them to one consumer again.
//
// # Guarantees
//
//   - Reading never changes a stream and never moves a durable consumer: each reader has a consumer of its own, which
//     acknowledges nothing. Events come in the order of the stream, each once, also over restarts of NATS.
//   - An exported line holds the event's bytes as they are in the stream. What is there but is no JSON is exported too, as
//     base64, so that nothing goes missing silently.
//   - A replay that follows one that was given up is not taken for it: it is created paused for longer than copies of the
//     service take to notice.
//   - A dead letter that is requeued goes to the consumer that gave up on it and to no other. It leaves DEAD only after its
//     copy is in REPLAY and the outbox tells of it: an interruption at any moment loses nothing, and doing the same again
//     doubles nothing within the hour that REPLAY remembers. An event that died twice goes back once.
//
// # Failure modes
//
//   - NATS away: a reader says so and goes on after the last event it had when the server is back. One that has an end
//     gives up after half a minute.
//   - The stream was made anew, or restored to a state before what was read already: the reading ends with an error,
//     because sequences no longer mean what they did.
//   - A copy of the service hangs for seconds, just while a replay is given up and another one begun: when it wakes it may pass
//     over some of the new one's events. Replay them again; handlers recognise what they have done.
//   - The database away, or REPLAY full: dead letters stay as they are. Many are dealt with in portions, those before are
//     done then.
//   - An interruption after the outbox was told and before a letter is deleted: it is told of again with the next attempt.
package replay
