package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/daemon"
	"fdc/internal/service"
)

// The id of an answer leads to its events and to the end of the sync that it asked for.
func (d *dev) testExplain(t *testing.T) {
	alice := d.signIn(t, "alice@example.com")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.HTTP+"/api/google/sync", strings.NewReader(`{"type":"calendar","mode":"resync"}`))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Request-Id", "explain-me")
	response, err := alice.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusAccepted, response.StatusCode)
	id := response.Header.Get("X-Request-Id")
	require.NotEqual(t, "explain-me", id)
	// Somebody else who calls a request the same has a story of their own.
	other, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.HTTP+"/api/workspaces", strings.NewReader(`{"name":"x"}`))
	require.NoError(t, err)
	other.Header.Set("Content-Type", "application/json")
	other.Header.Set("X-Request-Id", "explain-me")
	response, err = d.signIn(t, "bob@example.com").Do(other)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusCreated, response.StatusCode)

	var list struct{ Items []service.Effect }
	require.Eventually(t, func() bool {
		out, err := command(t, "explain", id, "--data", d.Data).Output()
		return err == nil && strings.Contains(string(out), "sync.completed")
	}, patience, 100*time.Millisecond)
	d.json(t, &list, "explain", id)
	var actions []string
	for _, e := range list.Items {
		actions = append(actions, e.Action)
	}
	require.Subset(t, actions, []string{"sync.requested", "sync.started", "sync.completed", "sync completed"})
	require.Equal(t, "sync.requested", actions[0])
	require.NotContains(t, actions, "workspace.created")

	d.run(t, daemon.ExitFailed, "explain", "explain-me")
	_, problem := d.run(t, daemon.ExitFailed, "explain", "nobody's")
	require.Contains(t, problem, "nothing is known of request")
	d.run(t, daemon.ExitUsage, "explain")
}
