// Package devstack runs the whole of FDC in one process, with nothing set up: an embedded nats-server from the project's
// nats.conf, a private PostgreSQL, the Google emulator, and the four services, joined by the same service.Run functions
// that the service binaries use.
//
// Everything it keeps is under one data directory, which one process uses at a time. A second start finds the data of the
// first. It is for development and tests: its passwords and keys lie in that directory, readable by their owner only.
package devstack
