// Package replay selects events of the stream EVENTS, shows and exports them, and feeds them to one consumer again.
//
// # Guarantees
//
//   - Reading never changes a stream and never moves a durable consumer: each reader has a consumer of its own, which
//     acknowledges nothing. Events come in the order of the stream, each once, also over restarts of NATS.
//   - An exported line holds the event's bytes as they are in the stream. What is there but is no JSON is exported too, as
//     base64, so that nothing goes missing silently.
//
// # Failure modes
//
//   - NATS away: a reader says so and goes on after the last event it had when the server is back. One that has an end
//     gives up after half a minute.
//   - The stream was made anew, or restored to a state before what was read already: the reading ends with an error,
//     because sequences no longer mean what they did.
package replay
