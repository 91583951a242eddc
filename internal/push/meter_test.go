package push

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// Frames of a client, masked with zeros and empty.
var (
	textFrame         = []byte{0x81, 0x80, 0, 0, 0, 0}
	begunFrame        = []byte{0x01, 0x80, 0, 0, 0, 0} // of a text that goes on
	continuationFrame = []byte{0x00, 0x80, 0, 0, 0, 0}
	pingFrame         = []byte{0x89, 0x80, 0, 0, 0, 0}
	pongFrame         = []byte{0x8a, 0x80, 0, 0, 0, 0}
)

// A client that sends more frames than it may is closed with 1008, whatever frames they are; one that sends as many is not.
func TestFloodsAreClosed(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *limits) { l.framesWithin, l.ping = time.Hour, time.Hour }) // a pong would count, too
	for name, frames := range map[string][]byte{
		"texts":         bytes.Repeat(textFrame, 11),
		"pings":         bytes.Repeat(pingFrame, 11),
		"pongs":         bytes.Repeat(pongFrame, 11),
		"continuations": slices.Concat(begunFrame, bytes.Repeat(continuationFrame, 10)),
		"many":          bytes.Repeat(textFrame, 5000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			me := someone()
			quiet, _ := r.open(t, me)
			client, _ := r.open(t, me)
			_, err := quiet.conn.NetConn().Write(frames[:9*len(textFrame)]) // its end is the tenth
			require.NoError(t, err)
			_, err = client.conn.NetConn().Write(frames)
			require.NoError(t, err)
			code, _ := client.closed()
			require.Equal(t, CodeFlood, code)
			ev := syncOf(me.UserID)
			r.publish(t, ev)
			quiet.expect(ev)
		})
	}
	t.Cleanup(func() { require.InDelta(t, 5, testutil.ToFloat64(r.hub.flooded), 0) })
}

// Frames are counted as they are, however their bytes come.
func TestTheMeterReadsFrames(t *testing.T) {
	t.Parallel()
	frame := func(size int, length ...byte) []byte {
		return slices.Concat([]byte{0x81}, length, []byte{1, 2, 3, 4}, bytes.Repeat([]byte{0x81}, size))
	}
	stream := slices.Concat(
		frame(0, 0x80), frame(125, 0x80|125), frame(126, 0x80|126, 0, 126), frame(70_000, 0x80|127, 0, 0, 0, 0, 0, 1, 0x11, 0x70),
		[]byte{0x8a, 2, 'n', 'o'}, // not masked: the library refuses it
	)
	for _, step := range []int{1, 2, 3, 7, 1000, len(stream)} {
		m := meter{most: 5, within: time.Hour, begun: time.Now()}
		for part := range slices.Chunk(stream, step) {
			require.NoError(t, m.read(part))
		}
		require.Len(t, m.recent, 5)
		require.Zero(t, m.have)
		require.Zero(t, m.skip)
		require.ErrorIs(t, m.read(textFrame), errFlood)
	}
}

func TestTheMeterForgets(t *testing.T) {
	t.Parallel()
	m := meter{most: 2, within: time.Second}
	for _, at := range []time.Duration{0, 500, 1000, 1500, 2500, 2600} {
		require.NoError(t, m.count(at*time.Millisecond), at)
	}
	require.ErrorIs(t, m.count(3499*time.Millisecond), errFlood)
	require.NoError(t, m.count(3500*time.Millisecond))
}

// What can't be hijacked can't become a socket.
func TestAMeteredWriterWithoutAConnection(t *testing.T) {
	t.Parallel()
	_, _, err := (&meteredWriter{ResponseWriter: nil}).Hijack()
	require.True(t, errors.Is(err, http.ErrNotSupported), "%v", err)
}
