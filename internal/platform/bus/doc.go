// Package bus is FDC's NATS: the connection, and every stream, consumer and bucket as a Go value, one file each kind.
//
// Provision, which `fdc migrate` runs as the user provision, makes them and brings changed settings up to date; it never
// recreates one, so no message is lost by it. Services only bind: they wait until what they need is there and say what
// they wait for.
//
// Failure modes: a connection reconnects for ever with jitter. While it is away, publishing fails at once instead of
// piling up in memory: what must not be lost is in Postgres (see outbox).
package bus
