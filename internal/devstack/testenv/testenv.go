// Package testenv is what tests and benchmarks ask of the machine that they run on.
package testenv

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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

// Parallel sets how many tests of this process run at once, unless -parallel does. It is for packages whose tests wait for timeouts more
// than they work: the default is the number of processors. Call it in TestMain, before the tests run.
func Parallel(tests int) {
	if err := flag.Set("test.parallel", strconv.Itoa(tests)); err != nil {
		panic(err) // testing has no such flag
	}
}

// Run returns the process that ends with the test run: `go test`, or this process if something else started it. What the
// test processes of a run share is kept under this number.
func Run() int {
	parent := os.Getppid()
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent))
	if err != nil {
		name, err = exec.Command("ps", "-p", strconv.Itoa(parent), "-o", "comm=").Output() //nolint:gosec,noctx // a number; it is quick
	}
	if err == nil && filepath.Base(strings.TrimSpace(string(name))) == "go" {
		return parent
	}
	return os.Getpid()
}

// given are the ports that this process was given.
var given sync.Map

// FreePort is a loopback port that nobody listens on, given once in a process and seldom to two of them, for between the look and the
// server's start another test may ask. It stays free while its server is down: the system gives connections ports from 32768 up.
func FreePort(tb testing.TB) int {
	tb.Helper()
	first := 20_000 + os.Getpid()%12*1000 // packages are tested side by side
	for range 1000 {
		port := first + rand.IntN(1000) //nolint:gosec // no secret
		if _, before := given.LoadOrStore(port, true); before {
			continue
		}
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
