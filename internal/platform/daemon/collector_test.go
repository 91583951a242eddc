package daemon_test

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/daemon"
)

// percent is the collector's present setting.
func percent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

var sink []byte

// cycles counts the collector's runs while so many bytes of garbage are made.
func cycles(garbage int) uint32 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for made := 0; made < garbage; made += 4096 {
		sink = make([]byte, 4096)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

// The collector runs seldom beside a small heap, as ever beside a large one, and as before at the end.
func TestTuneCollector(t *testing.T) { //nolint:paralleltest // it changes the process
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	const garbage = 512 << 20
	usual := cycles(garbage)
	stop := daemon.TuneCollector(64 << 20)
	tuned := cycles(garbage)
	t.Logf("%d cycles, tuned %d", usual, tuned)
	require.Less(t, tuned, usual/2)
	require.NotZero(t, tuned)

	func() {
		large := make([]byte, 256<<20)
		require.Eventually(t, func() bool { runtime.GC(); return percent() == 100 }, time.Minute, time.Millisecond)
		runtime.KeepAlive(large)
	}()
	require.Eventually(t, func() bool { runtime.GC(); return percent() > 400 }, time.Minute, time.Millisecond)
	stop()
	require.EqualValues(t, 100, percent())
	runtime.GC()
	stop()
	require.EqualValues(t, 100, percent())
}
