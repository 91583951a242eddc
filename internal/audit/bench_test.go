package audit

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/worker"
)

// BenchmarkWriter compares the writer with bare COPY of rows that are made already, on the same table, and shows what a
// batch costs that is known already.
func BenchmarkWriter(b *testing.B) {
	for _, size := range []int{1000, 5000} {
		batch := func() []*worker.Delivery {
			list := make([]events.Event, size)
			for i := range list {
				list[i] = taskEvent(time.Time{})
			}
			return deliveries(list...)
		}
		rate := func(b *testing.B) {
			b.Helper()
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "rows/s")
		}
		b.Run("copy/"+strconv.Itoa(size), func(b *testing.B) {
			db := ensured(b)
			for b.Loop() {
				b.StopTimer()
				rows := make([]row, size)
				for i, d := range batch() {
					r, err := rowOf(d.Event)
					require.NoError(b, err)
					rows[i] = r
				}
				b.StartTimer()
				require.NoError(b, copyRows(b.Context(), db.Pool, rows))
			}
			rate(b)
		})
		b.Run("writer/"+strconv.Itoa(size), func(b *testing.B) {
			db := ensured(b)
			w := newWriter(b, db.Pool)
			for b.Loop() {
				b.StopTimer()
				events := batch()
				b.StartTimer()
				require.NoError(b, w.HandleBatch(b.Context(), events))
			}
			rate(b)
		})
		b.Run("again/"+strconv.Itoa(size), func(b *testing.B) {
			db := ensured(b)
			w := newWriter(b, db.Pool)
			events := batch()
			require.NoError(b, w.HandleBatch(b.Context(), events))
			for b.Loop() {
				require.NoError(b, w.HandleBatch(b.Context(), events))
			}
			rate(b)
		})
	}
}
