// Package embednats runs the official nats-server inside this process, from the project's own nats.conf, so that what
// a developer and the tests use is what is deployed.
//
// Guarantees: Start returns only when the server takes connections and its JetStream store is usable; every password
// variable of nats.conf is defined, so nothing is read from the environment; Stop returns only when the server has let
// go of its port and its store. A server that stopped can be started again on the same port, with the same store and
// passwords, and clients made by Connect find it there, in process or over TCP.
//
// Failure: a taken port or an unusable store directory makes Start return an error that names it; nothing is left
// running then. A store directory must have one server at a time; keeping a second one away is the caller's task.
package embednats
