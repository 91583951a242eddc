package testenv

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// Shared is a value that the tests of a package share, such as a database in which each of them has users of its own. Make it a
// package variable, and let TestMain call [Main].
type Shared[T any] struct {
	Make func(testing.TB) T // releases what it made by the Cleanup of its argument

	once    sync.Once
	value   T
	skipped string
}

// Get returns the value, which the first call makes. A test that is skipped for want of it skips all that ask for it.
func (s *Shared[T]) Get(tb testing.TB) T {
	tb.Helper()
	s.once.Do(func() {
		defer func() {
			switch reason := recover().(type) {
			case nil:
			case skip:
				s.skipped = string(reason)
			default:
				panic(reason)
			}
		}()
		s.value = s.Make(everyone)
	})
	if s.skipped != "" {
		tb.Skip(s.skipped)
	}
	return s.value
}

// Main runs the tests and releases what they shared.
func Main(m *testing.M) { everyone.end(m.Run()) }

var everyone = &packageTB{}

// packageTB is the testing.TB of what outlives a test. It keeps the log for a run that fails, in which no test may be to blame.
type packageTB struct {
	testing.TB // nil: a method that is not below is not for shared values

	mu       sync.Mutex
	cleanups []func()
	log      strings.Builder
	failed   bool
}

type skip string

func (p *packageTB) Helper()                  {}
func (p *packageTB) Name() string             { return "the package" }
func (p *packageTB) Context() context.Context { return context.Background() }

func (p *packageTB) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, f)
}

func (p *packageTB) Failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

func (p *packageTB) Log(args ...any) { p.print(fmt.Sprintln(args...), false) }
func (p *packageTB) Logf(format string, args ...any) {
	p.print(fmt.Sprintf(format+"\n", args...), false)
}
func (p *packageTB) Error(args ...any) { p.print(fmt.Sprintln(args...), true) }

func (p *packageTB) Errorf(format string, args ...any) {
	p.print(fmt.Sprintf(format+"\n", args...), true)
}

// Fatal ends the process: without what they share no test of the package can run.
func (p *packageTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (p *packageTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (p *packageTB) FailNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	panic("a shared value could not be made: " + p.log.String())
}

func (p *packageTB) Skip(args ...any) { panic(skip(fmt.Sprint(args...))) }

func (p *packageTB) TempDir() string {
	dir, err := os.MkdirTemp("", "fdc-test-")
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			p.Error(err)
		}
	})
	return dir
}

func (p *packageTB) pop() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.cleanups) - 1
	if last < 0 {
		return nil
	}
	f := p.cleanups[last]
	p.cleanups = p.cleanups[:last]
	return f
}

func (p *packageTB) print(text string, failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.WriteString(text)
	p.failed = p.failed || failed
}

// end runs the cleanups, the last first, as a test does, and prints the log of a run that has failed.
func (p *packageTB) end(code int) {
	p.mu.Lock()
	p.failed = p.failed || code != 0
	p.mu.Unlock()
	for f := p.pop(); f != nil; f = p.pop() {
		f()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.failed {
		return
	}
	fmt.Fprint(os.Stderr, p.log.String())
	if code == 0 {
		panic("what the tests shared has failed")
	}
}
