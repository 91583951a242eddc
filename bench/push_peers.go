package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/gorilla/websocket"
)

// bareLoop is what is left of fan-out without FDC: connections, upgraded as the hub does it, and a loop that writes the same
// frame to each.
type bareLoop struct {
	mu    sync.Mutex
	conns []*websocket.Conn
}

// The hub's own settings.
var bareUpgrader = websocket.Upgrader{
	ReadBufferSize:  512,
	WriteBufferSize: 4 << 10,
	WriteBufferPool: new(sync.Pool),
	CheckOrigin:     func(*http.Request) bool { return true },
}

func (s *bareLoop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := bareUpgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the client was told
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, conn)
	if conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"ready","cursor":""}`)) != nil {
		return // the client notices
	}
	go func() {
		for err := error(nil); err == nil; {
			_, _, err = conn.NextReader()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns = slices.DeleteFunc(s.conns, func(c *websocket.Conn) bool { return c == conn })
		_ = conn.Close() // the client has gone
	}()
}

func (s *bareLoop) send(body []byte) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	began := time.Now()
	frame, err := websocket.NewPreparedMessage(websocket.TextMessage, body)
	if err != nil {
		return began, fmt.Errorf("prepare message: %w", err)
	}
	var writing sync.WaitGroup
	writers := runtime.GOMAXPROCS(0)
	for n := range writers {
		writing.Go(func() {
			for i := n; i < len(s.conns); i += writers {
				_ = s.conns[i].WritePreparedMessage(frame) // who misses it says so
			}
		})
	}
	writing.Wait()
	return began, nil
}

func (s *bareLoop) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		_ = conn.Close() // the client may have been first
	}
	return nil
}

// centrifugeNode is the engine of Centrifugo, in this process and with the broker in its memory. All clients are
// subscribed to one channel by the server.
type centrifugeNode struct {
	http.Handler
	node *centrifuge.Node
}

// centrifugeHello is how its clients begin.
const centrifugeHello = `{"id":1,"connect":{}}`

const centrifugeChannel = "workspace"

func newCentrifuge() (*centrifugeNode, error) {
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone})
	if err != nil {
		return nil, fmt.Errorf("make Centrifuge's node: %w", err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{UserID: "bench"},
			Subscriptions: map[string]centrifuge.SubscribeOptions{centrifugeChannel: {}},
		}, nil
	})
	if err := node.Run(); err != nil {
		return nil, fmt.Errorf("run Centrifuge's node: %w", err)
	}
	handler := centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		CheckOrigin: func(*http.Request) bool { return true },
		// What makes idle sockets smaller.
		ReadBufferSize: 512, WriteBufferSize: 4 << 10, UseWriteBufferPool: true, ProcessCommandsOffReadLoop: true,
	})
	return &centrifugeNode{Handler: handler, node: node}, nil
}

func (s *centrifugeNode) send(body []byte) (time.Time, error) {
	began := time.Now()
	if _, err := s.node.Publish(centrifugeChannel, body); err != nil {
		return began, fmt.Errorf("publish: %w", err)
	}
	return began, nil
}

func (s *centrifugeNode) stop() error { return s.node.Shutdown(context.Background()) }
