package embednats

import (
	"fmt"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

// logger carries the server's log over to zerolog. The server reports a failed start only by a fatal log line, so that
// is kept as an error.
type logger struct {
	log zerolog.Logger

	mu    sync.Mutex
	muted bool
	died  error
}

// Noticef logs the server's banner and its ordinary news, of interest only when looking for a fault.
func (l *logger) Noticef(format string, v ...any) { l.write(zerolog.DebugLevel, format, v) }

// Warnf logs at warn level, save for the advice against passwords: they are generated and stay on this machine.
func (l *logger) Warnf(format string, v ...any) {
	level := zerolog.WarnLevel
	if strings.HasPrefix(format, "Plaintext passwords detected") {
		level = zerolog.DebugLevel
	}
	l.write(level, format, v)
}

// Errorf logs at error level.
func (l *logger) Errorf(format string, v ...any) { l.write(zerolog.ErrorLevel, format, v) }

// Debugf logs at trace level: the server's own debugging is finer than ours.
func (l *logger) Debugf(format string, v ...any) { l.write(zerolog.TraceLevel, format, v) }

// Tracef logs at trace level.
func (l *logger) Tracef(format string, v ...any) { l.write(zerolog.TraceLevel, format, v) }

// Fatalf keeps the first fatal line for the caller of Start and never ends the process.
func (l *logger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.died == nil {
		l.died = fmt.Errorf(format, v...)
	}
}

func (l *logger) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.died
}

// mute ends the logging: a goroutine of a server that is down must not write to the log of a test that is over.
func (l *logger) mute() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.muted = true
}

func (l *logger) write(level zerolog.Level, format string, v []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.muted || format == "" { // blank lines of the banner
		return
	}
	l.log.WithLevel(level).Str("component", "nats").Msgf(format, v...)
}
