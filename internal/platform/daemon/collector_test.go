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

// The collector runs seldom beside a small heap, as ever beside a large one, and as before at the end.
func TestTuneCollector(t *testing.T) { //nolint:paralleltest // it changes the process
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	runtime.GC()
	stop := daemon.TuneCollector(64 << 20)
	require.Greater(t, percent(), uint64(400))

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
