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
	ctx, cancel := context.WithTimeout(c.ctx(), checkTimeout)
	defer cancel()
	health, status := DeepHealth{Status: "ok", Checks: map[string]Check{}}, http.StatusOK
	var checks map[string]error
	if a.Checks != nil {
		checks = a.Checks(ctx)
	}
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
