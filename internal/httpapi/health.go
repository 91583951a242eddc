package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"fdc/internal/platform/fault"
)

const (
	healthTag    = "health"
	checkTimeout = 3 * time.Second
	checkAge     = time.Second // how long an outcome is served
)

// Health says that the process answers.
type Health struct {
	Status string `json:"status" enum:"ok" doc:"Always ok."`
}

// DeepHealth says how the process's dependencies are.
type DeepHealth struct {
	Status string           `json:"status" enum:"ok|failing" doc:"Failing when any check is."`
	Checks map[string]Check `json:"checks" doc:"By the dependency's name: postgres, nats, outbox and so on."`
}

// Check is how one dependency is.
type Check struct {
	Status string `json:"status"           enum:"ok|failing" doc:"How it is."`
	Detail string `json:"detail,omitempty" doc:"What is wrong, where that may be told."`
}

func healthRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/api/health", id: "getHealth", tag: healthTag, public: true,
			summary: "Is the process alive?",
			answers: []answer{ok[Health](http.StatusOK, "It is.")},
			handle:  func(_ *api, c *call) error { return c.json(http.StatusOK, Health{Status: "ok"}) },
		},
		{
			method: http.MethodGet, path: "/api/health/deep", id: "getDeepHealth", tag: healthTag, public: true,
			summary: "Are its dependencies well?",
			answers: []answer{
				ok[DeepHealth](http.StatusOK, "All of them."),
				ok[DeepHealth](http.StatusServiceUnavailable, "Not all of them."),
			},
			handle: (*api).deepHealth,
		},
	}
}

func (a *api) deepHealth(c *call) error {
	checks, err := a.health.ask(c.ctx(), a.Checks)
	if err != nil {
		return err
	}
	health, status := DeepHealth{Status: "ok", Checks: map[string]Check{}}, http.StatusOK
	for name, err := range checks {
		check := Check{Status: "ok"}
		if err != nil {
			check.Status, health.Status, status = "failing", "failing", http.StatusServiceUnavailable
			if f, ok := errors.AsType[*fault.Error](err); ok {
				check.Detail = f.Detail // the one part of an error that is safe to show
			}
			c.failure = errors.Join(c.failure, err)
		}
		health.Checks[name] = check
	}
	return c.json(status, health)
}

// recentChecks serves one outcome of the checks to all who ask within a second, so that a request that needs no session
// costs the dependencies nothing. It is safe for concurrent use.
type recentChecks struct {
	turn chan struct{} // holds one token while the fields below are in use
	now  func() time.Time
	at   time.Time // when the checks ended; zero: never
	last map[string]error
}

func newRecentChecks() *recentChecks {
	return &recentChecks{turn: make(chan struct{}, 1), now: time.Now}
}

// ask returns the last outcome, or runs the checks if it is too old. Callers that come meanwhile wait for that run. It does
// not end when the first of them leaves.
func (r *recentChecks) ask(ctx context.Context, checks func(context.Context) map[string]error) (map[string]error, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if checks != nil && (r.at.IsZero() || r.now().Sub(r.at) >= checkAge) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		r.last = checks(ctx)
		r.at = r.now()
	}
	return r.last, nil
}
