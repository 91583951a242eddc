// Package ratelimit limits the requests of each subject (a user, a client's address) per key and minute. All nodes share one
// budget. The package knows no key and no route.
//
// # Design
//
// The size of a limit decides how it is kept. A node may admit a twentieth of a limit before it has heard what the other
// nodes admitted. That is nothing for a limit below 20: such a limit is exact.
//
//   - Exact (limits below 20): the stream RATELIMIT_EXACT holds one message per key and subject, the times of the requests
//     admitted in the last minute. Each request replaces it by compare-and-set on the message's sequence, and is admitted when
//     that succeeds. A request waits at most a second for each answer.
//   - Counted (all others): the stream RATELIMIT holds one counter per key, subject and minute. The server answers each
//     increment with the total over all nodes. What counts is the current minute's total and, of the previous minute's, the
//     share that the last 60 seconds still cover, rounded down.
//
// A counted request is charged in memory as long as this node alone serves the subject; its increment is sent at once and not
// waited for. A request waits for its total, at most 500 ms, when it is the subject's first one on this node in a minute, when
// another node has counted for the subject in this minute or the one before, or when a twentieth of the limit is on its way.
// RATELIMIT republishes each total, so a node learns within a millisecond that another one serves the subject.
//
// Subjects appear in NATS as hashes.
//
// # Guarantees
//
//   - Exact limits: at most the limit is admitted in any 60 seconds, by all nodes together.
//   - Counted limits: in any d seconds up to a minute at most q·(1+d/60s)+1 requests of a limit of q are admitted, and a
//     twentieth of q more in a burst over several nodes. A minute's edge gives no second budget.
//   - Remaining doesn't rise before Reset has passed, whichever nodes answer a client's successive requests. The first time in a
//     minute that a client changes the node, this needs the message under way to have arrived, which takes about as long.
//   - A subject that has used up its budget is refused from memory, without a message.
//   - A node tracks Config.MaxSubjects pairs of key and subject (65,536, about 500 bytes each) and forgets the one unused for
//     longest. When that one comes back, its counts are read from the stream.
//
// # Failure modes
//
//   - NATS unavailable or slow: each node limits by its own count. It refuses nobody because of the outage and admits no more
//     than the limit itself. For one second after a failure no request waits for NATS. Exact charges made meanwhile are added
//     to the stream with the subject's next request; counted ones stay on the node's own count.
//   - A server that runs alone and restarts keeps both streams. One that crashes may lose the counts of the last moments.
//   - Clocks of nodes that differ by a second move a window by a second.
//   - A waiting request that its total refuses has been counted all the same.
//   - The streams are bounded, and drop the oldest entries first.
package ratelimit
