package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin answers /healthz (the process lives), /readyz (its services have all they need) and /metrics. One Admin serves
// all services of a process.
type Admin struct {
	// Wrap goes around the handler that Serve serves, if it is set before.
	Wrap func(http.Handler) http.Handler

	registry *prometheus.Registry

	mu       sync.Mutex
	services map[string]*Handle
}

// Handle is one service's part of an Admin.
type Handle struct {
	// Metrics takes the service's collectors and labels them with its name.
	Metrics prometheus.Registerer
	// Gather reads the metrics of the whole process.
	Gather prometheus.Gatherer

	mu      sync.Mutex
	waiting string // what the service waits for; empty when ready
	checks  map[string]func(context.Context) error
}

// NewAdmin returns an Admin with the metrics of the process itself.
func NewAdmin() *Admin {
	a := &Admin{registry: prometheus.NewRegistry(), services: make(map[string]*Handle)}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a
}

// Service adds a service, not ready until it says so.
func (a *Admin) Service(name string) *Handle {
	h := &Handle{
		Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"service": name}, a.registry),
		Gather:  a.registry,
		waiting: "start",
		checks:  make(map[string]func(context.Context) error),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.services[name] = h
	return h
}

// Waiting says what keeps the service from working.
func (h *Handle) Waiting(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = what
}

// Ready says that the service works.
func (h *Handle) Ready() { h.Waiting("") }

// Check adds something to ask at every /readyz.
func (h *Handle) Check(name string, ask func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = ask
}

// status returns what is wrong by name; empty when nothing is.
func (h *Handle) status(ctx context.Context) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	problems := make(map[string]string)
	if h.waiting != "" {
		problems["waiting"] = h.waiting
	}
	for name, ask := range h.checks {
		if err := ask(ctx); err != nil {
			problems[name] = err.Error()
		}
	}
	return problems
}

// problems returns what keeps which service from being ready.
func (a *Admin) problems(ctx context.Context) map[string]map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	services := make(map[string]map[string]string)
	for name, h := range a.services {
		if problems := h.status(ctx); len(problems) > 0 {
			services[name] = problems
		}
	}
	return services
}

// Handler serves the three paths.
func (a *Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if services := a.problems(ctx); len(services) > 0 {
			answer(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "services": services})
			return
		}
		answer(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	return mux
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone when this fails
}

// Serve answers on the listener until ctx ends.
func (a *Admin) Serve(ctx context.Context, listener net.Listener) error {
	handler := a.Handler()
	if a.Wrap != nil {
		handler = a.Wrap(handler)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	return ServeHTTP(ctx, server, listener, time.Second)
}

// ServeHTTP runs a server until ctx ends, then lets requests in hand finish for at most grace.
func ServeHTTP(ctx context.Context, server *http.Server, listener net.Listener, grace time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	graceCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(graceCtx); err != nil {
		err = errors.Join(err, server.Close())
		if !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("shut down %s: %w", listener.Addr(), err)
		}
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}

// AwaitReady waits until every service is ready.
func (a *Admin) AwaitReady(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if len(a.problems(ctx)) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the services: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
