// Package workspace keeps workspaces, who is in them with which role, and the one document that each of them has.
//
// # Guarantees
//
//   - A workspace has at least one OWNER who can sign in, always: every change of its members locks its row first, so two
//     owners who leave at the same moment can't both succeed.
//   - Another tenant's workspace looks like none: fault.NotFound. A member without the right gets fault.Forbidden.
//   - Every change and its event commit together, in the order of the version they carry: members under
//     workspaces.version, the document under its own.
//   - A document that was accepted is given back with every number digit for digit in value and every string unchanged;
//     the order of names, the white space and the spelling of numbers (1e2 is 100, -0 is 0) are not kept. What Postgres could
//     not hold so is refused with the place.
//
// # Rights
//
// Every member reads the members and reads and writes the document. An OWNER may do everything with members; an ADMIN
// everything that neither touches an OWNER nor makes one; a MEMBER may only leave. Leaving is removing oneself.
//
// # The document
//
// It starts as {} at version 0. PutData replaces it and always makes a new version. PatchData merges (RFC 7396) into the
// newest version while that is locked, so that edits of different parts never conflict; a patch that changes nothing
// makes no version and no event.
//
// # Locks
//
// users before workspaces before members and documents, several workspaces in the order of their ids: see AddMember and
// JoinTx. The locks leave foreign keys alone (NO KEY UPDATE), so that nobody who makes a task waits for them.
//
// # Failure modes
//
// Postgres away: fault.Unavailable, nothing changed, or the outcome of the commit unknown. All methods are safe for
// concurrent use.
package workspace
