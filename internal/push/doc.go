// Package push tells browsers what happened: it carries the events of EVENTS, and the progress of syncs, to WebSockets
// and Server-Sent Events.
//
// # Who gets what
//
// A socket belongs to a session. It gets the events of the workspaces its user is a member of, the user's own events,
// and as a system administrator those of the operators (auth, access, flag, audit, ops). The session says who and where
// the user is when the socket opens; from then on the events themselves change it, in the order of the stream: the event
// that adds a member is the first one of that workspace that they get, the event that removes them the last. A user that
// was away then finds out from the list of their workspaces. Events of a workspace go out without the client address and
// user agent of whoever acted: those are for the audit log, which plain members can't read.
//
// # Guarantees
//
//   - Every event of a socket's scopes comes exactly once and in the order of EVENTS, from its "ready" on, and with a
//     cursor from there on: what was missed comes before "ready". Where that can't be done (the cursor is older than the
//     stream, of another stream, or of the future), the client is told to fetch everything anew ("resync").
//   - A node reads EVENTS once, in order and without acknowledgements, and starts again after the last event it has seen
//     whenever the connection, the server or the reading breaks: an outage delays events and neither loses nor repeats.
//   - A node remembers the newest events (16 MiB of them) and gives them to clients that come back; only who was away for
//     longer, or is new to the node since, has it read the stream, for so many at a time that the server answers in time.
//   - The end of a session closes its sockets with 4001 as soon as the event arrives; a session that ended less than
//     a minute ago can't open one, even if it was looked up before. The end of a session that nobody uses is no event: each minute
//     the hub checks the sessions of all its sockets in one statement (UseSessions). An open socket does not count as use.
//   - A client may send 10 WebSocket frames in any second, of whatever kind: text, continuation, ping, pong, close. One more closes the
//     socket with 1008.
//   - A socket's queue is bounded (256 messages, 64 KiB). What doesn't fit, such as the thousands of events of a first sync, it gets
//     from what the node remembers, as fast as its client reads. Who is left behind by that too, or whose rights change meanwhile,
//     is closed with 4008; who takes nothing for 5 s is cut off. Either can resume from its cursor, and holds up nobody else.
//   - A user has at most 32 sockets on a node, and a node at most 50,000. Those beyond are refused before the connection is
//     upgraded: with 429, too-many-sockets, or 503. Both counts are exact, however many connect at once.
//   - Progress is told once, the newest wins, and it is lost when nobody listens.
//
// # Failure modes
//
//   - NATS away: open sockets stay and fall silent; a new one without a cursor is taken, one with a cursor is refused as
//     unavailable. After the reconnect everything comes, in order.
//   - EVENTS deleted and made again: all sockets are closed with 1012; their cursors are then of another stream.
//   - A message that can't be read, or whose subject is not its event's, is skipped and counted.
//   - The hub's end takes no more sockets, closes those that there are with 1012, and waits for them. It goes through them in random
//     order, 2 ms each, faster when that were more than 10 s in all, so that the other nodes don't get all clients in one
//     moment; until its turn comes a socket gets its events as ever. Cut ends what is left at once.
package push
