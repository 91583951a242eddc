package push

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"fdc/events"
)

// The frames are made here and not by the library; its client must understand them, one by one and together.
func TestFrames(t *testing.T) {
	t.Parallel()
	messages := []*message{ready(Cursor{1, 2}), resync(Cursor{1, 2}, reasonReset)}
	for _, size := range []int{0, 1, 125, 126, 1<<16 - 1, 1 << 16, 1 << 20} {
		messages = append(messages, newMessage(kindEvent, append(make([]byte, frameHead), bytes.Repeat([]byte("x"), size)...)))
	}
	for name, together := range map[string]bool{"one by one": false, "together": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := upgrader.Upgrade(w, r, nil)
				if err != nil {
					t.Errorf("upgrade: %v", err)
					return
				}
				transport := &wsTransport{conn: conn, raw: conn.NetConn(), limits: &defaults}
				for i, m := range messages {
					if err := transport.write(m, together && i < len(messages)-1); err != nil {
						t.Errorf("write: %v", err)
					}
				}
				transport.end(CodeRestart)
			}))
			defer server.Close()
			conn, res, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(server.URL, "http"), nil)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			c := &client{t, conn}
			defer conn.Close() //nolint:errcheck // nothing is pending on it
			for _, m := range messages {
				kind, body, err := conn.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, websocket.TextMessage, kind)
				require.Equal(t, m.body, body)
			}
			code, more := c.closed()
			require.Equal(t, CodeRestart, code)
			require.Empty(t, more)
		})
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	message := func(seq uint64) *message {
		m := newMessage(kindEvent, make([]byte, frameHead+42))
		m.seq = seq
		return m
	}
	to := address{events.ScopeUser, "u"}
	size := past{to, message(1)}.size()
	sequences := func(list []past) (seqs []uint64) {
		for _, e := range list {
			seqs = append(seqs, e.m.seq)
		}
		return seqs
	}
	var h history
	_, ok := h.since(7, 9)
	require.False(t, ok, "nothing is known before the first event")
	h.reach(10)
	for _, seq := range []uint64{10, 13, 14, 20} { // the others were unreadable
		h.add(to, message(seq), 4*size)
	}
	_, ok = h.since(8, 20)
	require.False(t, ok)
	for _, test := range []struct {
		from, to uint64
		want     []uint64
	}{{9, 20, []uint64{10, 13, 14, 20}}, {10, 14, []uint64{13, 14}}, {11, 13, []uint64{13}}, {14, 19, nil}, {20, 20, nil}, {20, 25, nil}} {
		list, ok := h.since(test.from, test.to)
		require.True(t, ok)
		require.Equal(t, test.want, sequences(list))
	}
	before, _ := h.since(9, 20)
	for seq := uint64(21); seq < 60; seq++ {
		h.add(to, message(seq), 4*size)
	}
	require.Equal(t, []uint64{10, 13, 14, 20}, sequences(before), "who reads is not disturbed")
	_, ok = h.since(54, 59)
	require.False(t, ok)
	list, ok := h.since(55, 59)
	require.True(t, ok)
	require.Equal(t, []uint64{56, 57, 58, 59}, sequences(list))
	h.add(to, message(60), 0)
	list, ok = h.since(60, 60)
	require.True(t, ok)
	require.Empty(t, list)
	_, ok = h.since(59, 60)
	require.False(t, ok)
}
