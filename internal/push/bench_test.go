package push

import (
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

// counting is a transport that counts down what all sockets are written.
type counting struct{ left *sync.WaitGroup }

func (c counting) write(*message, bool) error { c.left.Done(); return nil }
func (counting) ping() error                  { return nil }
func (counting) end(int)                      {}
func (counting) abort()                       {}

// BenchmarkDispatch is the hub's own share of telling many sockets of one event: routing, queues and goroutines, but no
// network.
func BenchmarkDispatch(b *testing.B) {
	for _, sockets := range []int{1, 100, 5000} {
		b.Run(strconv.Itoa(sockets), func(b *testing.B) {
			h := New(nil, nil, nopLog, newRegistry())
			h.live = true
			workspace := events.NewID()
			var left sync.WaitGroup
			left.Add(sockets) // ready
			for range sockets {
				sub := someone(workspace)
				s := &socket{hub: h, user: sub.UserID, session: sub.SessionID, t: counting{&left}}
				_, err := h.admit(b.Context(), sub.UserID, "")
				require.NoError(b, err)
				require.True(b, h.enter(b.Context(), s, sub, start{}))
				defer s.finish()
			}
			left.Wait()
			ev := taskIn(workspace)
			raw, err := events.Encode(ev)
			require.NoError(b, err)
			seq := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				seq++
				left.Add(sockets)
				h.dispatch(seq, ev, raw)
				left.Wait()
			}
		})
	}
}
