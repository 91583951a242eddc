// Package googleemu is a Google in one http.Handler: OAuth 2.0 (code flow with PKCE), Calendar v3 and Tasks v1 on Google's
// own paths, and a control API under /_emulator/ to make users, inject faults, move the clock and read what was asked.
// The official Go clients work against it unchanged.
//
// # The control API
//
//	POST   /_emulator/users      {email,name}                      makes a user
//	POST   /_emulator/calendars  {email,id,summary,timeZone,noDeletions}   makes a calendar; with noDeletions its deltas name none
//	POST   /_emulator/token      {email}                           {access_token}, of all scopes
//	POST   /_emulator/revoke     {email}                           the user takes back every grant
//	PUT    /_emulator/settings   {rotateRefreshTokens,accessTokenSeconds,grantedScopes:{EMAIL:[…]}}
//	GET    /_emulator/requests?since=SEQ                           what was asked of Google's paths after that number
//	PUT    /_emulator/faults     [{match:{method,path,user},nth,count,fault}]   replaces all; DELETE removes them
//	POST   /_emulator/clock      {advanceSeconds}
//
// A fault is any of {status,reason,retryAfter,latencyMs,drop,truncate,expireSyncTokens}; it begins with the nth match (1 when left
// out) and lasts for count matches (1 when left out, 0 for ever). drop is before or after: after commits first.
//
// # What it guarantees
//
//   - Every change of a user's calendars gets the next number of that user's log. A sync token is a signed {user, resource,
//     number, filter}: the delta behind it is every record with a higher number, nothing else, in order of change.
//   - The pages of one listing are cut from a snapshot taken at its first request, and cut before filters apply: a page may
//     be short or empty and still have a successor. The last page, and only the last, carries nextSyncToken, and that token
//     is as old as the snapshot, so what changed while paging is in the next delta.
//   - Records are never changed in place. Whoever holds one, a snapshot say, may read it without a lock.
//   - With Options.File the state outlives the process, tokens too. Writes are atomic (temporary file, then rename) and some
//     milliseconds behind the answers; Close writes everything. A kill may lose the newest changes, so after one every sync
//     token is void (410): none can speak of a change that the file never saw.
//   - Memory is bounded: bodies, page sizes, records per list, snapshots, the request log, faults and the notification queue
//     all have limits.
//
// # Where Google's behaviour is unknown
//
// The choice made here is the one that asks more of a client: deleting a series reports the series alone and says nothing
// about its exceptions; moving a task to another list leaves no trace in the first; a restart forgets snapshots, and with them
// the page tokens (400); a sync token asked again gives what is newest by then; unknown query parameters are refused.
//
// # How it fails
//
// Calendar, Tasks and userinfo answer errors in Google's envelope, /token and /revoke in OAuth's form, the sign-in page as
// HTML. New refuses a state file it cannot read; a failing save is logged, tried again, and returned by Close.
package googleemu
