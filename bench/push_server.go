package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/push"
)

// pushServerCommand serves sockets and does nothing else, so that the process's memory is the sockets'.
const pushServerCommand = "push-server"

// Kinds of server.
const (
	hubServer        = "hub"
	bareServer       = "bare"
	centrifugeServer = "centrifuge"
)

// serverQuestion is what the process is to do: one of its fields is set.
type serverQuestion struct {
	Start  *serverStart `json:"start,omitempty"`
	Send   string       `json:"send,omitempty"` // to all sockets, but the hub's: what those get comes over NATS
	Memory bool         `json:"memory,omitempty"`
	Count  bool         `json:"count,omitempty"`
}

type serverStart struct {
	Kind       string `json:"kind"`
	NATS       string `json:"nats,omitempty"`       // of the hub
	SendBuffer int    `json:"sendBuffer,omitempty"` // the kernel's, of each connection; 0 leaves it to the kernel
}

type serverAnswer struct {
	Addr     string  `json:"addr,omitempty"`
	Began    int64   `json:"began,omitempty"`    // Send: the moment before the first byte, as in clientsAnswer
	Resident float64 `json:"resident,omitempty"` // Memory: bytes of the process; 0 where the system doesn't tell
	Live     float64 `json:"live,omitempty"`     // Memory: bytes of objects and stacks
	Open     int     `json:"open"`               // Count: sockets of the hub
	Slow     int     `json:"slow"`               // Count: sockets that the hub closed because nobody read
}

// pushServer is one kind of server.
type pushServer interface {
	http.Handler
	send(body []byte) (began time.Time, err error)
	stop() error
}

func runPushServer(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	runtime.GOMAXPROCS(2)
	var server pushServer
	var web *http.Server
	err := answerAll(ctx, stdin, stdout, func(ctx context.Context, q serverQuestion) (any, error) {
		switch {
		case q.Start != nil:
			var err error
			if server, err = newPushServer(ctx, *q.Start); err != nil {
				return nil, err
			}
			var addr string
			web, addr, err = listen(ctx, server, q.Start.SendBuffer)
			return serverAnswer{Addr: addr}, err
		case q.Memory:
			return memoryInUse(), nil
		case q.Count:
			hub, ok := server.(*runningHub)
			if !ok {
				return nil, errors.New("only the hub counts")
			}
			return hub.count()
		default:
			began, err := server.send([]byte(q.Send))
			return serverAnswer{Began: began.UnixNano()}, err
		}
	})
	if server != nil {
		err = errors.Join(err, server.stop())
	}
	if web != nil {
		err = errors.Join(err, web.Close())
	}
	return err
}

func newPushServer(ctx context.Context, request serverStart) (pushServer, error) {
	switch request.Kind {
	case hubServer:
		return newRunningHub(ctx, request.NATS)
	case bareServer:
		return new(bareLoop), nil
	case centrifugeServer:
		return newCentrifuge()
	default:
		return nil, fmt.Errorf("no server is called %q", request.Kind)
	}
}

func listen(ctx context.Context, handler http.Handler, sendBuffer int) (*http.Server, string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	web := &http.Server{Handler: handler, ReadHeaderTimeout: patience, ConnState: func(conn net.Conn, state http.ConnState) {
		if tcp, ok := conn.(*net.TCPConn); ok && state == http.StateNew && sendBuffer > 0 {
			_ = tcp.SetWriteBuffer(sendBuffer) // a connection that has gone already needs none
		}
	}}
	go func() { _ = web.Serve(ln) }() // until it is closed
	return web, ln.Addr().String(), nil
}

// runningHub is FDC's hub with nothing before it: who a client is stands in its request.
type runningHub struct {
	*push.Hub
	metrics *prometheus.Registry
	end     func() error
}

func newRunningHub(ctx context.Context, natsURL string) (*runningHub, error) {
	nc, err := bus.Connect(bus.Config{URL: natsURL}, "api", zerolog.Nop())
	if err != nil {
		return nil, err
	}
	js, err := bus.JetStream(nc)
	if err != nil {
		return nil, err
	}
	h := &runningHub{metrics: prometheus.NewRegistry()}
	h.Hub = push.New(js, nc, zerolog.Nop(), h.metrics)
	stop := background(context.WithoutCancel(ctx), h.Run)
	h.end = func() error {
		defer nc.Close()
		return stop()
	}
	select {
	case <-h.Ready():
		return h, nil
	case <-time.After(patience):
		return nil, errors.Join(fmt.Errorf("the hub isn't ready after %s", patience), h.end())
	}
}

// ServeHTTP stands for httpapi.
func (h *runningHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	err := h.ServeWS(w, r, push.Subscriber{
		UserID: query.Get("user"), SessionID: query.Get("session"), WorkspaceIDs: query["workspace"],
	}, query.Get("cursor"))
	if err != nil {
		status := http.StatusInternalServerError
		if fault.KindOf(err) == fault.Unavailable {
			status = http.StatusServiceUnavailable
		}
		http.Error(w, err.Error(), status)
	}
}

// subscriberPath is where a new user of the workspace connects.
func subscriberPath(user, workspace string) string {
	return "/?" + url.Values{"user": {user}, "session": {user}, "workspace": {workspace}}.Encode()
}

func (h *runningHub) send([]byte) (time.Time, error) {
	return time.Time{}, errors.New("the hub sends what comes over NATS")
}

func (h *runningHub) stop() error { return h.end() }

func (h *runningHub) count() (answer serverAnswer, err error) {
	families, err := h.metrics.Gather()
	if err != nil {
		return answer, fmt.Errorf("count sockets: %w", err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			switch family.GetName() {
			case "push_sockets":
				answer.Open += int(metric.GetGauge().GetValue())
			case "push_slow_total":
				answer.Slow += int(metric.GetCounter().GetValue())
			}
		}
	}
	return answer, nil
}

// memoryInUse is what the process needs now that nothing happens: what can be collected is, and what is free is given back.
func memoryInUse() serverAnswer {
	for range 3 { // a pool keeps what it holds for two collections
		runtime.GC()
	}
	debug.FreeOSMemory()
	reading := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(reading)
	return serverAnswer{
		Resident: resident(),
		Live:     float64(reading[0].Value.Uint64() + reading[1].Value.Uint64()),
	}
}

// envelopeOf is the message that the hub makes of an event, but for the cursor's value.
func envelopeOf(event json.RawMessage) string {
	return fmt.Sprintf(`{"type":"event","cursor":"%s","event":%s}`, push.Cursor{}, event)
}

// resident is 0 where there is no /proc.
func resident() float64 { return processMemory("VmRSS") }
