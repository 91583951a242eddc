package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// TuneCollector makes the garbage collector run once in about so many bytes of garbage while less than that is in use. Beside a small
// heap it would run many times a second. A larger heap is collected as by default, when it has doubled. A limit of the memory
// (GOMEMLIMIT) stays in force. stop restores the setting from before.
//
// The collector takes percentages of what is in use only, so the percentage is set anew after each cycle.
func TuneCollector(garbage uint64) (stop func()) {
	c := &collector{garbage: garbage}
	c.before = debug.SetGCPercent(c.percent())
	c.afterCycle()
	return c.stop
}

type collector struct {
	garbage uint64
	before  int

	mu      sync.Mutex
	stopped bool
}

// afterCycle sets the percentage after the next cycle, which finds cycle unused, and so on.
func (c *collector) afterCycle() {
	cycle := new([64]byte)
	runtime.AddCleanup(cycle, func(c *collector) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.stopped {
			debug.SetGCPercent(c.percent())
			c.afterCycle()
		}
	}, c)
}

// smallestHeap is what the runtime takes for in use at least, times the percentage.
const smallestHeap = 4 << 20

// percent is how much garbage there may be, of what was in use after the last cycle.
func (c *collector) percent() int {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	used := uint64(0)
	for _, s := range samples {
		used += s.Value.Uint64()
	}
	return int(max(100, 100*c.garbage/max(used, smallestHeap))) //nolint:gosec // a percentage
}

func (c *collector) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stopped = true
		debug.SetGCPercent(c.before)
	}
}
