// Package daemon is what every service's process shares: its environment, its signals and exit codes, its admin
// endpoints (/healthz, /readyz, /metrics), and an ordered shutdown.
package daemon
