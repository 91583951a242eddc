package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/caarlos0/env/v11"
)

// Exit codes of every binary.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// UsageError is a mistake of whoever started the program: wrong flags, a wrong environment. It exits with 2.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Main runs a program until it ends or a signal asks it to, and returns its exit code. A second signal kills.
func Main(name string, environ []string, stderr io.Writer, run func(ctx context.Context, environ map[string]string) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Exit(name, stderr, run(ctx, env.ToMap(environ)))
}

// Exit prints err, if any, as the last line of stderr and returns the exit code that fits it.
func Exit(name string, stderr io.Writer, err error) int {
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err) //nolint:errcheck // there is nowhere left to report to
	if _, ok := errors.AsType[*UsageError](err); ok {
		return ExitUsage
	}
	return ExitFailed
}
