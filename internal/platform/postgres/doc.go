// Package postgres opens the pools, migrates the schema and translates SQLSTATEs into faults. It holds no queries: each
// feature owns its own.
//
// A pool may go through a transaction pooler (PgBouncer) when Config.DirectURL names the way past it: it then uses no
// prepared statements; session state it never uses. Migrations and advisory locks take the direct connection.
//
// Failure modes: every function waits no longer than its context; a server that is away is reported as
// fault.Unavailable by Fault, and pools reconnect by themselves.
package postgres
