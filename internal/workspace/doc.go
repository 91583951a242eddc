// Package workspace keeps workspaces, who is in them with which role, and the one document that each of them has.
//
// # Guarantees
//
//   - No change of the members leaves a workspace without an OWNER who can sign in: each change locks the workspace's row and
//     then counts the other OWNERs who are not disabled. Disabling a user (package identity) is always possible and may leave a
//     workspace without one; an operator then appoints one (AppointOwner).
//   - Nobody is a member before accepting. See Invitations.
//   - The limits (MaxOwned and the others) hold whatever happens at one moment. A refused request changes nothing.
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
// everything that neither touches an OWNER nor makes one; a MEMBER may only leave. Leaving is removing oneself. The same holds
// for invitations: who may make a membership may invite to it, send the invitation again and withdraw it.
//
// # Invitations
//
// An invitation is an offer of a role to an address, in a row of its own. It goes to the owner of the address: a user accepts or
// declines it whose address, verified by Google, is the same but for case. That is so for users of FDC, too, and an inviter
// can't tell the two cases apart before the answer:
//
//   - The answer, the statements and the list of members are the same for both.
//   - The events have scope user, and go to the invitee's sockets only. Without a user they go to the operators. The row in the
//     workspace's audit log does not name the invitee until the invitee accepts.
//   - A decline is in no workspace's audit log, as its row has the client address of somebody who wants no part in it.
//
// An invitation ends with the answer, by being withdrawn, or after 30 days; its row is deleted then. It also ends when its
// inviter leaves, is removed, or gets a role that may not grant the offered one: a removed OWNER must not come back through it.
// It outlives the disabling of its inviter.
//
// # The document
//
// It starts as {} at version 0. PutData replaces it and always makes a new version. PatchData merges (RFC 7396) into the
// newest version while that is locked, so that edits of different parts never conflict; a patch that changes nothing
// makes no version and no event.
//
// # Deletion
//
// Delete makes the members former members, so that nobody sees anything of the workspace, and withdraws its open invitations. A former
// OWNER restores it within RestorableFor (30 days); the document then has a new version, because caches refuse the old one. Purge deletes
// it for good afterwards. LeaveAllTx ends the memberships of a user who is erased, and deletes workspaces without another member at once.
//
// # Locks
//
// A user's row is locked before a workspace's, a workspace's before members, invitations and documents. The user's lock guards
// the number of the user's memberships, the workspace's lock its members and invitations. Declining and sweeping lock the
// invitation only. The locks leave foreign keys alone (NO KEY UPDATE), so that nobody who makes a task waits for them.
//
// # Failure modes
//
// Postgres away: fault.Unavailable, nothing changed, or the outcome of the commit unknown. All methods are safe for
// concurrent use.
package workspace
