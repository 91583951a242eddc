// Command syncer runs the service of that name from its environment; see the README for the variables.
package main

import (
	"os"

	"fdc/internal/platform/daemon"
	"fdc/internal/service"
)

func main() { os.Exit(daemon.Main("syncer", os.Environ(), os.Stderr, service.Syncer)) }
