package push

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// The first byte of a frame.
const (
	final        = 0x80
	compressed   = 0x40
	continuation = 0x00
	text         = websocket.TextMessage
	binaryData   = websocket.BinaryMessage
	closing      = websocket.CloseMessage
	ping         = websocket.PingMessage
)

// rawFrame is a client's frame as it is on the wire, with a mask of zeroes, that claims to be claimed bytes long.
func rawFrame(first byte, claimed uint64, payload ...byte) []byte {
	b := []byte{first}
	switch {
	case claimed < 126:
		b = append(b, 0x80|byte(claimed))
	case claimed < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(claimed))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), claimed)
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// pour writes again and again until the server hangs up, or there was more than any buffer takes. It reports whether it hung up.
func pour(c *client, b []byte) bool {
	const plenty = 64 << 20
	conn := c.conn.UnderlyingConn()
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		c.tb.Errorf("set the deadline: %v", err)
	}
	for sent := 0; sent < plenty; sent += len(b) {
		if _, err := conn.Write(b); err != nil {
			return !isTimeout(err)
		}
	}
	return false
}

// Whatever a client sends, it ends at most its own socket.
func TestHostileFrames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bystander := someone()
	other, _ := r.open(t, bystander)
	open := func(t *testing.T) *client {
		t.Helper()
		c, _ := r.open(t, someone())
		return c
	}
	part := make([]byte, 100)

	t.Run("frames", func(t *testing.T) {
		for name, raw := range map[string][]byte{
			"a length beyond all memory":     rawFrame(final|text, 1<<63-1),
			"a length that is negative":      rawFrame(final|text, 1<<63),
			"a gigabyte of binary":           rawFrame(final|binaryData, 1<<30),
			"an unmasked frame":              {final | text, 1, 'x'},
			"a reserved opcode":              rawFrame(final|0x3, 0),
			"a reserved bit":                 rawFrame(final|0x20|text, 0),
			"compression nobody agreed on":   rawFrame(final|compressed|text, 4, 0xff, 0xff, 0xff, 0xff),
			"a continuation of nothing":      rawFrame(final|continuation, 0),
			"a text within a text":           append(rawFrame(text, 1, 'x'), rawFrame(final|text, 1, 'y')...),
			"a ping in parts":                rawFrame(ping, 0),
			"a ping that is too long":        rawFrame(final|ping, 126, make([]byte, 126)...),
			"a close code that there is not": rawFrame(final|closing, 2, 0, 7),
			"a goodbye that is no text":      rawFrame(final|closing, 4, 0x03, 0xe8, 0xff, 0xfe),
			"HTTP":                           []byte("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"),
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := open(t)
				_, err := c.conn.UnderlyingConn().Write(raw)
				require.NoError(t, err)
				code, before := c.closed()
				require.Empty(t, before)
				require.Contains(t, []int{
					0, websocket.CloseProtocolError, websocket.CloseMessageTooBig, websocket.CloseUnsupportedData,
				}, code)
			})
		}
		t.Run("fragments without end", func(t *testing.T) {
			t.Parallel()
			c := open(t)
			_, err := c.conn.UnderlyingConn().Write(rawFrame(text, 100, part...))
			require.NoError(t, err)
			require.True(t, pour(c, rawFrame(continuation, 100, part...)))
		})
		t.Run("frames without end", func(t *testing.T) {
			t.Parallel()
			require.True(t, pour(open(t), rawFrame(final|text, 10<<20, make([]byte, 10<<20)...)))
		})
		t.Run("binary frames without end", func(t *testing.T) {
			t.Parallel()
			require.True(t, pour(open(t), rawFrame(final|binaryData, 100, part...)))
		})
		t.Run("a header that never ends", func(t *testing.T) {
			t.Parallel()
			quick := newNode(t, r.nats, func(l *limits) { l.ping, l.write = 25*time.Millisecond, time.Second })
			c, _ := quick.open(t, someone())
			_, err := c.conn.UnderlyingConn().Write([]byte{final | text})
			require.NoError(t, err)
			c.conn.SetPingHandler(func(string) error { return nil }) // it can't answer in the middle of a frame
			code, _ := c.closed()
			require.Zero(t, code, "cut off")
		})
		t.Run("what costs nothing is not refused", func(t *testing.T) {
			t.Parallel()
			me := someone()
			c, _ := r.open(t, me)
			conn := c.conn.UnderlyingConn()
			for _, b := range [][]byte{rawFrame(text, 100, part...), rawFrame(continuation, 100, part...)} {
				_, err := conn.Write(b)
				require.NoError(t, err)
			}
			for range 5 { // empty ones; more would be too many frames in a second
				_, err := conn.Write(rawFrame(continuation, 0))
				require.NoError(t, err)
			}
			_, err := conn.Write(append(rawFrame(final|ping, 2, 'h', 'i'), rawFrame(final|continuation, 0)...))
			require.NoError(t, err)
			var pong string
			c.conn.SetPongHandler(func(data string) error {
				pong = data
				return nil
			})
			for begun := time.Now(); pong == "" && time.Since(begun) < patience; { // events may overtake it
				ev := syncOf(me.UserID)
				r.publish(t, ev)
				c.expect(ev)
			}
			require.Equal(t, "hi", pong)
		})
	}) // all of them have ended
	ev := syncOf(bystander.UserID)
	r.publish(t, ev)
	other.expect(ev)
}
