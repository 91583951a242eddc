// Package ratelimit gives every subject (a user, a client's address) a budget of requests per minute under each key, one
// budget over all nodes. It knows no key and no route.
//
// # The window
//
// A budget of q slides: what counts is the current minute's requests and of the previous minute's the share that the last
// sixty seconds still cover, rounded down. So at most q·(1+d/60s)+1 requests pass in any d seconds up to a minute, which is
// what a token bucket of q allows too: a client that spends all at a minute's end gets back one after the other, never the
// double at the edge. Minutes are those of the wall clock, so nodes have to agree on it within a second or so.
//
// # One budget over all nodes
//
// The counts live in the stream RATELIMIT, in memory, as one counter per key, subject and minute: each increment's answer
// is the total over all nodes. Subjects appear there as hashes.
//
//   - A key that is Exact waits for that answer, at most 250 ms. What is admitted is exact over all nodes. A racer that the
//     answer refuses has still counted.
//   - Any other key is charged in memory and never waits. Its increments are sent within 50 ms, at once when they make up
//     a sixteenth of the limit, and the answer replaces what the node believed. So a node admits too much only what arrives
//     at it between a request elsewhere and the answer: at most 100 ms' worth of its share of the traffic, and never more
//     than its own limit. TestOverAdmission measures two nodes on one server and a limit of 60: 63 are admitted of 100
//     requests a second spread over both; 120 when all come within one round trip, 1,600 of them in a millisecond.
//   - Whoever has used up the budget is refused from memory, without a message.
//
// # Failure
//
// Without NATS, or when it is slow, every node keeps the budget by what it knows itself: nobody is refused for the outage,
// and no node admits more than the limit. What a node has counted without an answer stays on its own count for as long as
// it matters and is not sent again. After a failure the next second's requests don't wait for NATS.
//
// Memory is bounded: a node tracks Config.MaxSubjects pairs of key and subject (65,536, about 400 bytes each) and forgets
// the one unused for longest; when that comes back, its counts are read from the stream. The stream is bounded too, and
// drops the oldest counts first.
package ratelimit
