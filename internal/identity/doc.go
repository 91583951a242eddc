// Package identity knows who is asking: users, their sign-in with Google, and their sessions.
//
// # Guarantees
//
//   - A person is known by the account id that Google gives, never by the address. The first sign-in makes the user and
//     an own workspace in one transaction; the same person signing in twice at the same moment for the first time is one
//     user with one workspace and two sessions.
//   - A user is someone who has signed in. The address is one that Google has verified; invitations go to addresses (package
//     workspace), and a sign-in accepts none of them.
//   - A token has 256 random bits and is stored as its SHA-256 only; it leaves SignIn or Rotate once, as a seal.Secret.
//   - When a user's role has changed, the system's or one in a workspace, Authenticate marks the sessions from before, and Rotate
//     gives each a new token: to one of the requests that try at one moment. The token before goes on for 30 s and is refused
//     then. The session stays what it is; when it ends, all its tokens do. Who loses the answer with the new token signs in again.
//   - A session ends 7 days after the sign-in, 24 hours after it was last seen, when it is revoked, or when its user is
//     disabled.
//   - A session records when its user last signed in with Google: at its start (CreatedAt), and again with Reauthenticate. Only the
//     user's own Google account counts. Session.Reauthenticated is true for 10 minutes after it, on every node, and is kept when the
//     token is replaced.
//   - Authenticate answers from memory when it can (package nearcache). An end, a new role and a lost membership are effective
//     at once on the node that was told, within a second on every other, and within 3 s on one that is cut off, paused or
//     behind a bus that restarts: it then asks the database. This holds as long as the node that was told reaches the
//     bus, or else the relay and a cache-invalidator do; if none does for so long, nodes that do may serve a session for 5
//     minutes more.
//     Expiry is looked at each time.
//   - That a session was seen is written down within a minute, by one statement a second for all sessions; no request waits.
//   - An hour after its lifetime has ended, a session's row is removed, by one place at a time; if nobody had revoked it, the
//     same transaction tells session.revoked with the reason expired. Its history is in the audit log.
//   - Disable ends all sessions of a user and the access to Google, and no session begins until Enable. Neither that nor a new role takes away the last operator
//     who can sign in, whatever happens at one moment.
//   - Erase takes the address, the name, the Google id and everything that came from Google out of the database in one transaction,
//     and ends sessions, memberships and the access to Google. A blank row is left for an hour, by which caches find what to withdraw.
//   - Every fact and its event commit together. Ending what has ended already changes and tells nothing.
//
// # Refusals
//
// SignIn refuses with fault.Forbidden, and records auth.login_failed for it: an address that isn't verified
// (email-unverified), a disabled user (account-disabled), an address that is another person's (email-taken). What fails
// before there is a profile (consent, state, code) the caller records with LoginFailed.
//
// # Failure modes
//
// Postgres away: fault.Unavailable; nobody is let in who is not in the cache, and nothing changed, or the outcome of the
// commit is unknown. The bus away: every request asks Postgres; what ends a session waits for the bus for 1.5 s at most and
// then answers, and the cache repeats it. All methods are safe for concurrent use.
package identity
