// Package postgres opens the pools, migrates the schema and translates SQLSTATEs into faults. It holds no queries: each
// feature owns its own.
//
// # Limits
//
// A pool of Open bounds every statement (Config.QueryTimeout), every wait for a lock (5 s, or half of that if it is less),
// every idle moment of a transaction (30 s), and, with Config.MaxWait, the wait for a connection: who finds all of them
// busy hears so at once instead of joining a queue. The server enforces the first three; the client gives up a statement
// one second later, for when the server can't or its answer doesn't arrive. (Batches it does not know: nothing sends any.)
//
// # Poolers
//
// A pool may go through a transaction pooler (PgBouncer) when Config.DirectURL names the way past it. It then prepares no
// statements and sets nothing that outlives a transaction: the limits come with each BEGIN, where TxOptions is used, and a
// statement on its own has the client's. Migrations and advisory locks take the direct connection.
//
// # Leaders
//
// Leader has one process of many do something, by an advisory lock on the connection that it is done with.
//
// # Failure modes
//
// Every function waits no longer than its context. Fault reports a server that is away, a pool without a free connection,
// a lock not to be had and a deadlock as fault.Unavailable: the same call may succeed a moment later. Pools reconnect by
// themselves.
package postgres
