// Package fdc holds what every binary carries from the root of the repository.
package fdc

import _ "embed"

// NATSConf is the project's nats.conf. It reads NATS_STORE_DIR and one password variable per user; whoever starts a
// server from it either exports those or puts their definitions in front of the text.
//
//go:embed nats.conf
var NATSConf string
