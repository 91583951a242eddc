// Package postgres opens the pools, migrates the schema and translates SQLSTATEs into faults. It holds no queries: each
// feature owns its own.
//
// A pool may go through a transaction pooler (PgBouncer): it uses no session state and no named prepared statements
// beyond what the pooler tracks. Migrations and advisory locks want a direct connection, see Config.Direct.
//
// Failure modes: every function waits no longer than its context; a server that is away is reported as
// fault.Unavailable by Fault, and pools reconnect by themselves.
package postgres
