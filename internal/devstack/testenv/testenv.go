// Package testenv is what tests and benchmarks ask of the machine that they run on.
package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
)

// Size is the number in an environment variable, or a small one, which takes little time.
func Size(tb testing.TB, variable string, small int) int {
	tb.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return small
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		tb.Fatalf("%s: %v", variable, err)
	}
	return n
}

// FreePort is a loopback port that nobody listens on. It stays free while its server is down: the system gives connections ports
// from 32768 up.
func FreePort(tb testing.TB) int {
	tb.Helper()
	for range 1000 {
		port := 20_000 + rand.IntN(12_000) //nolint:gosec // no secret
		if l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", Loopback(port)); err == nil {
			if err := l.Close(); err != nil {
				tb.Fatal(err)
			}
			return port
		}
	}
	tb.Fatal("no free port")
	return 0
}

// Loopback is the address of a port on this machine.
func Loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
