package telemetry

import (
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	flushEvery = 100 * time.Millisecond
	bufferSize = 64 << 10
)

// Buffer gathers lines of a log and writes them together: on a busy service a system call for each line costs more than
// the rest of the line. A line waits for 100 ms at most, and for less when the buffer is full; a warning or an error is
// written at once, with all that came before it. Lines keep their order, and whoever finds the buffer full waits for the
// write, so none is dropped. A process that is killed loses what still waits.
//
// It is safe for concurrent use. Use NewBuffer.
type Buffer struct {
	w io.Writer

	mu     sync.Mutex
	lines  []byte
	later  *time.Timer
	failed error // of the last write that nobody waited for
	closed bool
}

// NewBuffer returns a Buffer in front of w. Close it before the process ends.
func NewBuffer(w io.Writer) *Buffer {
	b := &Buffer{w: w, lines: make([]byte, 0, bufferSize)}
	b.later = time.AfterFunc(flushEvery, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if err := b.flush(); err != nil {
			b.failed = err
		}
	})
	return b
}

// Write takes a line of an unknown level and writes it at once.
func (b *Buffer) Write(line []byte) (int, error) { return b.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel takes a line. The error may be that of lines before, which are lost.
func (b *Buffer) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.failed
	b.failed = nil
	if err == nil && len(b.lines)+len(line) > bufferSize {
		err = b.flush()
	}
	if err != nil {
		return 0, err
	}
	if len(b.lines) == 0 {
		b.later.Reset(flushEvery)
	}
	b.lines = append(b.lines, line...)
	if level >= zerolog.WarnLevel || b.closed {
		err = b.flush()
	}
	return len(line), err
}

// Close writes what waits. What is logged afterwards is written at once.
func (b *Buffer) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.flush()
}

// flush wants the lock held.
func (b *Buffer) flush() error {
	b.later.Stop()
	if len(b.lines) == 0 {
		return nil
	}
	_, err := b.w.Write(b.lines)
	b.lines = b.lines[:0]
	return err
}
