// Package gsync keeps a user's tasks and calendars here and at Google the same: OAuth and its tokens, the queue of sync
// jobs, the pull of calendars, the two-way sync of tasks, and reads of what was pulled.
//
// # Accounts
//
// Tokens are sealed before they reach Postgres, each for its user and kind. One process at a time refreshes them, under a lease in the
// account's row; it holds no transaction and no connection while Google answers, and the others wait for its result. The new tokens
// are stored only if the lease is still held and the account still has the version that was read, before anybody uses them. A
// disconnect, a switch or a new consent therefore doesn't wait for a refresh and is not undone by one; the tokens that arrive after a
// disconnect or a switch are revoked. If the process dies between Google's answer and the commit, the next refresh starts when the
// lease has expired, after 15 s; a refresh token that Google has rotated is then lost and the account becomes reauth_required.
// When Google refuses the refresh token the account becomes reauth_required, in one transaction with the event that says
// so. Another Google account than before is refused on reconnecting, never merged; Switch is for who wants it. Reseal changes the
// key that tokens are sealed with, account by account, under a lock on the account's row.
//
// An access ends in one transaction (Disconnect, or Access.RevokeTx for a user who is disabled): its jobs, schedules and channels with it,
// and its tokens leave the account for google_revocations. A Revoker revokes them at Google without holding a transaction, and deletes them
// when Google has answered; it goes on for a week. A new consent for the same Google account drops what is queued for the old one,
// but a request that is already on its way to Google may end the new consent too: the account is reauth_required then.
//
// # Jobs
//
// A job is a row of sync_jobs; the event sync.requested and Runner.Wake only wake. Per user at most one job is pending
// and one processing: a request while one is pending widens that one, a request while one is processing makes one more, so
// the last change is never lost. A Runner holds a job by a lease that it renews; every write of a run is fenced by the
// lease's token in the same transaction, so a run that was presumed dead can't write after another has taken over.
// Runs are idempotent: whatever was committed before a crash is found again and not repeated. A job is completed in the
// transaction that applies the last page, stores how far it read, and appends the event, or not at all.
//
// Every write of a run also checks that its user is enabled and, for tasks, still a member of the workspace. After a user was disabled
// or removed, no more reaches Google or FDC than the one request that is under way at that moment.
//
// Who is due for a sync by themselves is a row of sync_schedules. A Scheduler makes jobs of those, a bounded number at a time, and a
// Runner claims them after the jobs that somebody asked for.
//
// # Calendars
//
// Pulled with singleEvents=false: masters, single events and exceptions are kept as Google has them, and reads expand the
// series in the event's own zone. A full read marks what it sees with a generation and sweeps the rest at its end; until
// then everything stays visible. A sweep, of events or of tasks, that would delete more than half of over 20 is not carried out: the
// job does all else and fails with the code sweep_guard, and a resync with force is the answer to it. Data that breaks the rules (an end before the start, an unknown zone, a bad RRULE) is
// kept and shown as far as it can be, and never fails a sync.
//
// A read takes a bounded number of steps, in all and for each series, and looks at its context at least every 1000 steps. A rule
// without COUNT is followed from the window on, one with COUNT from its start. A series that needs more steps than it has is shown
// once, at its start, with a warning.
//
// Channels (events.watch) make Google tell of changes. They are a hint: a lost or late notification costs the time until the next
// sync by the clock, a repeated or forged one nothing.
//
// # Tasks
//
// A link holds what Google had of a task when last heard of. It is the base of a three-way merge, field by field: edits of
// different fields both survive, of the same field the later wins. An insert at Google is journalled before it is sent;
// when its outcome is unknown the list is searched for it before anything is sent again, so an answer that was lost makes
// no second task. Google gives a client no id of its own to look for: what has the same content is it, and, if it came after the
// journal entry, what has the same title or notes (its user has edited it since), or has been deleted. Who changes both before the
// next sync has it twice. Changes are journalled, too:
// what turns up at Google as it was sent is no edit of its user's.
//
// A deleted task stays as a tombstone for 30 days, and longer while a link has to delete it at Google. The Scheduler removes tombstones
// and ended jobs in passes, one an hour, that look at each row once.
//
// # Failure modes
//
//   - Google's quotas used up, by the processes' common count: a call waits for its turn, or the job goes back to the queue until
//     then; that is no failed attempt.
//   - Google slow, limiting or down: calls are repeated with backoff; then the job goes back to the queue for later, up to
//     a number of attempts, and fails with a stable code.
//   - Google refuses one task or one calendar: that one is marked and warned of, the rest completes.
//   - Postgres away: the run ends, its lease runs out, and another takes over.
//   - NATS away: progress is not told; jobs start at the next poll, within a second.
package gsync
