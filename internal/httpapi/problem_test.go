package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func TestProblemOf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    error
		status int
		code   string
		title  string
		retry  int
	}{
		"malformed":      {fault.New(fault.Malformed, "", "x"), 400, "malformed", "Bad Request", 0},
		"own code":       {fault.New(fault.Conflict, "google-not-connected", "x"), 409, "google-not-connected", "Google not connected", 0},
		"wrapped":        {fmt.Errorf("read: %w", fault.Missing("task")), 404, "not-found", "Not Found", 0},
		"joined":         {errors.Join(fault.New(fault.Forbidden, "", "x"), errors.New("y")), 403, "forbidden", "Forbidden", 0},
		"unavailable":    {&fault.Error{Kind: fault.Unavailable, Detail: "x", RetryAfter: 1500 * time.Millisecond}, 503, "unavailable", "Service Unavailable", 2},
		"no retry given": {fault.New(fault.Unavailable, "", "x"), 503, "unavailable", "Service Unavailable", 1},
		"rate limited":   {&fault.Error{Kind: fault.RateLimited, Detail: "x", RetryAfter: time.Minute}, 429, "rate-limited", "Too Many Requests", 60},
		"too late":       {fmt.Errorf("query: %w", context.DeadlineExceeded), 503, "timeout", "Timeout", 1},
		"unknown":        {errors.New("password=hunter2"), 500, "internal", "Internal Server Error", 0},
		"internal fault": {fault.New(fault.Internal, "secret", "hunter2"), 500, "internal", "Internal Server Error", 0},
		"unknown kind":   {fault.New(fault.Kind(99), "", "x"), 500, "internal", "Internal Server Error", 0},
		"no method":      {errNoMethod, 405, "method-not-allowed", "Method Not Allowed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, retry := problemOf(test.err)
			require.Equal(t, test.status, p.Status)
			require.Equal(t, "urn:fdc:problem:"+test.code, p.Type)
			require.Equal(t, test.title, p.Title)
			require.Equal(t, test.retry, retry)
			require.NotContains(t, p.Detail, "hunter2")
			require.NotEmpty(t, p.Detail)
		})
	}
}

func TestEveryKindHasAStatus(t *testing.T) {
	t.Parallel()
	for kind := fault.Internal; kind <= fault.Unavailable; kind++ {
		entry, ok := statuses[kind]
		require.True(t, ok, "kind %d", kind)
		require.NotEmpty(t, http.StatusText(entry.status))
		require.NotEmpty(t, entry.code)
	}
}

func TestProblemExtrasDoNotReplaceMembers(t *testing.T) {
	t.Parallel()
	err := fault.New(fault.Conflict, "stale-version", "x")
	err.Extra = map[string]any{"currentVersion": 7, "status": 200, "errors": "none"}
	p, _ := problemOf(err)
	text, encodeErr := json.Marshal(p)
	require.NoError(t, encodeErr)
	require.JSONEq(t, `{"type":"urn:fdc:problem:stale-version","title":"Stale version","status":409,"detail":"x","instance":"",
		"requestId":"","currentVersion":7}`, string(text))
}
