// Package service joins features and platform into the four services, one file each: a config struct that is filled from
// the environment, and a Run function.
//
// A service starts in any order with the others: it waits for Postgres, the schema, NATS and the streams, says what it
// waits for (log and /readyz), and makes none of them. When its context ends it takes no more work, finishes what it has,
// drains and closes, in that order, and returns nil.
//
// cmd/<service> runs one of them from the environment; `fdc dev` runs all of them in one process.
package service
