// Package httpapi is the HTTP face of FDC: every route under /api, its DTOs, its errors and the OpenAPI document that
// describes them. It is the only package that knows Gin, and it decides nothing: features do.
//
// # One table
//
// Every route is an entry of the table in routes.go. The router, the checks that run before a handler (origin, session,
// ids, query, body) and the OpenAPI 3.1 document are all made from that entry, so that they can't disagree. A DTO's struct
// tags are likewise read by both the decoder and the document:
//
//	doc      what it means
//	format   a JSON Schema format, such as date-time; a hint, the feature judges
//	enum     the values there are, separated by |
//	min, max of a string its length in characters, of a number its value, of an array its length
//
// # What a handler may rely on
//
//   - It runs under a deadline (30 s) unless its route is a stream.
//   - The session is authenticated where the route needs one; an unsafe request is not from another origin.
//   - Where the route's entry has reauth, the user signed in with Google within the last 10 minutes.
//   - The user, or the client's address before sign-in, is within the rate limit of the route (limits.go). A session that this node
//     doesn't remember was looked up within the budget of the client's address (lookups.go).
//   - Path ids are UUIDs and declared query parameters have their types.
//   - A JSON body is within the route's limit and reads the same everywhere (RFC 7493: UTF-8, no repeated names, no
//     unpaired surrogates); moreover it has no U+0000 (Postgres has none) and is at most 1000 levels deep.
//
// # Failure
//
// A handler returns an error and writes nothing. One function (problem.go) turns it into RFC 9457 problem+json by its
// [fault.Kind]; what has no kind is a 500 with a generic text, logged once with its cause. A panic is logged with its
// stack and answered the same way. A client that went away is no failure. Every answer carries X-Request-Id, which is also
// on the log line, the span and every event that the request causes.
package httpapi
