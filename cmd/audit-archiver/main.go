// Command audit-archiver runs the service of that name from its environment; see the README for the variables.
package main

import (
	"os"

	"fdc/internal/platform/daemon"
	"fdc/internal/service/auditarchiver"
)

func main() { os.Exit(daemon.Main("audit-archiver", os.Environ(), os.Stderr, auditarchiver.Main)) }
