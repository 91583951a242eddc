// Package natstest gives a test its own NATS server: the embedded one, from the project's nats.conf, with a JetStream
// store that goes away with the test. One costs a few milliseconds: a test that stops it, or counts what is in it, has one of its own.
package natstest
