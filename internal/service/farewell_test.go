package service_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// An API that is asked to stop tells its WebSockets to come back, ends its streams in an orderly way, and then ends itself.
func TestTheAPISaysGoodbye(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start(t, "api")
	u := s.signUp(t, "goodbye@example.com")
	var reading sync.WaitGroup
	for range 20 {
		dialer := websocket.Dialer{Jar: u.client.Jar, HandshakeTimeout: patience}
		conn, response, err := dialer.DialContext(t.Context(), strings.Replace(s.api, "http", "ws", 1)+"/api/ws", nil)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		t.Cleanup(func() { _ = conn.Close() }) // it may be closed
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		reading.Go(func() {
			var err error
			for err == nil {
				_, _, err = conn.ReadMessage()
			}
			if !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
				t.Errorf("not told to come back: %v", err)
			}
			_ = conn.Close()
		})
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.api+"/api/events", nil)
	require.NoError(t, err)
	response, err := (&http.Client{Jar: u.client.Jar}).Do(request)
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // read to its end
	stream := bufio.NewReader(response.Body)
	first, err := stream.ReadString('\n')
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(first, "id: "), first)
	reading.Go(func() {
		if _, err := io.Copy(io.Discard, stream); err != nil {
			t.Errorf("the stream was cut off: %v", err)
		}
	})
	began := time.Now()
	s.stop(t, "api")
	reading.Wait()
	t.Logf("it took %s", time.Since(began))
}
