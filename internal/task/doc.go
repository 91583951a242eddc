// Package task keeps the tasks of workspaces: the rules they obey, their rows and the facts about them.
//
// # Guarantees
//
//   - Another tenant's task, a deleted one and one that never was look the same: fault.NotFound. Every member of a
//     workspace may read and write its tasks.
//   - A stored task obeys the rules of Draft, whoever wrote it: a user through Create and Patch, or the sync with Google
//     through CreateTx, UpdateTx and DeleteTx.
//   - Every change and its event commit together; the task's row is locked or bumped before the event is appended, so
//     the events of one task are in the order of their versions. A change that changes nothing is none: no version, no
//     event.
//   - Patch merges (RFC 7396) into the newest version while that is locked: edits of different fields never conflict.
//   - List walks the tasks in the order of their creation, each exactly once, whatever is made or deleted meanwhile;
//     those made while it walks may or may not appear.
//
// A deleted task stays as a tombstone, unseen by everything here, until the sync has told Google.
//
// # Failure modes
//
// Bodies that are wrong are fault.Invalid with pointers to everything wrong at once; a patch that is not JSON and a
// cursor that is none are fault.Malformed; a stale If-Match is fault.PreconditionFailed with currentVersion. Postgres
// away: fault.Unavailable, nothing changed, or the outcome of the commit unknown. All methods are safe for concurrent use.
package task
