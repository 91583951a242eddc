// Package pgtest gives a test its own PostgreSQL database with the project's schema.
//
// One temporary cluster serves all test processes of a `go test` run. The first that needs it starts it and builds the
// template, a migrated database; each New clones that. The cluster ends with the run, however the run ends; five minutes
// later when a test failed, whose database is then kept and logged. Nothing is left behind.
//
// Clones are not free (15 ms in memory, 160 ms on a disk, far more on a busy machine): take one per top-level test and let subtests share it.
package pgtest
