// Command cache-invalidator runs the service of that name from its environment; see the README for the variables.
package main

import (
	"os"

	"fdc/internal/platform/daemon"
	"fdc/internal/service"
)

func main() {
	os.Exit(daemon.Main("cache-invalidator", os.Environ(), os.Stderr, service.CacheInvalidator))
}
