package telemetry_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/platform/telemetry"
)

// sink notes each write.
type sink struct {
	mu     sync.Mutex
	writes []string
	fail   error
}

func (s *sink) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

func (s *sink) failWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	s.writes = append(s.writes, string(p))
	return len(p), nil
}

func TestBufferWritesLinesTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out sink
		b := telemetry.NewBuffer(&out)
		log := zerolog.New(b)
		log.Info().Msg("a")
		log.Info().Msg("b")
		<-time.After(99 * time.Millisecond)
		synctest.Wait()
		require.Empty(t, out.got())
		<-time.After(2 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{`{"level":"info","message":"a"}` + "\n" + `{"level":"info","message":"b"}` + "\n"}, out.got())

		log.Info().Msg("c")
		<-time.After(101 * time.Millisecond)
		synctest.Wait()
		require.Len(t, out.got(), 2, "a later line has its own time")
	})
}

func TestBufferDoesNotHoldWhatMatters(t *testing.T) {
	t.Parallel()
	var out sink
	b := telemetry.NewBuffer(&out)
	log := zerolog.New(b)
	log.Info().Msg("before")
	require.Empty(t, out.got())
	log.Warn().Msg("warning")
	require.Len(t, out.got(), 1)
	require.Less(t, strings.Index(out.got()[0], "before"), strings.Index(out.got()[0], "warning"), "the order is kept")

	line := bytes.Repeat([]byte("x"), 10<<10)
	for range 7 {
		_, err := b.WriteLevel(zerolog.InfoLevel, line)
		require.NoError(t, err)
	}
	require.Len(t, out.got(), 2, "full")
	require.NoError(t, b.Close())
	require.Len(t, out.got(), 3)
	require.Len(t, out.got()[1]+out.got()[2], 7*len(line), "nothing is dropped")

	log.Info().Msg("after")
	require.Len(t, out.got(), 4, "nothing waits once it is closed")
	require.NoError(t, b.Close())
}

func TestBufferTellsOfAFailedWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("disk full")
		out := sink{fail: full}
		b := telemetry.NewBuffer(&out)
		_, err := b.WriteLevel(zerolog.InfoLevel, []byte("lost\n"))
		require.NoError(t, err)
		<-time.After(101 * time.Millisecond)
		synctest.Wait()
		_, err = b.WriteLevel(zerolog.InfoLevel, []byte("told\n"))
		require.ErrorIs(t, err, full)
		out.failWith(nil)
		_, err = b.Write([]byte("fine\n"))
		require.NoError(t, err)
		require.Equal(t, []string{"fine\n"}, out.got())
	})
}
