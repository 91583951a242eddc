package httpapi_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/httpapi"
)

func TestPages(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.visitor()
	page := v.get("/")
	require.Equal(t, http.StatusOK, page.status)
	require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
	require.Equal(t, "no-cache", page.header.Get("Cache-Control"))
	policy := page.header.Get("Content-Security-Policy")
	require.NotContains(t, policy, "unsafe")
	require.Contains(t, policy, "default-src 'none'; script-src 'self'; style-src 'self';")
	require.Contains(t, policy, "connect-src 'self' "+strings.Replace(w.url, "http", "ws", 1)+";")
	require.NotRegexp(t, `<script[^>]*>[^<]|<style| on\w+=| style=`, page.text, "nothing inline, which the policy would forbid")
	require.Equal(t, http.StatusNotModified, v.send(http.MethodGet, "/", nil, "If-None-Match", page.header.Get("ETag")).status)
	require.Equal(t, http.StatusOK, v.send(http.MethodGet, "/", nil, "If-None-Match", `"other"`).status)

	// Everything that it loads may be kept for ever, and comes compressed.
	assets := regexp.MustCompile(`/assets/[\w.-]+`).FindAllString(page.text, -1)
	require.NotEmpty(t, assets)
	for len(assets) > 0 {
		at := assets[0]
		assets = assets[1:]
		asset := v.send(http.MethodGet, at, nil, "Accept-Encoding", "gzip")
		require.Equal(t, http.StatusOK, asset.status, at)
		require.Equal(t, "public, max-age=31536000, immutable", asset.header.Get("Cache-Control"))
		require.Equal(t, "Accept-Encoding", asset.header.Get("Vary"))
		require.Equal(t, "nosniff", asset.header.Get("X-Content-Type-Options"))
		if asset.header.Get("Content-Encoding") == "gzip" {
			require.Less(t, len(asset.text), 12<<10, at)
		}
		require.Empty(t, asset.header.Get("Set-Cookie"))
	}
	for _, path := range []string{"/assets/console-app.js", "/assets/console-app.AAAAAAAAAAAA.js", "/assets/", "/assets/../nats.conf", "/index.html", "/console/index.html"} {
		require.Equal(t, http.StatusNotFound, v.get(path).status, path)
	}
	require.Equal(t, http.StatusMethodNotAllowed, v.send(http.MethodPost, "/", nil).status)
	require.Equal(t, http.StatusOK, v.send(http.MethodHead, "/", nil).status)
}

// To everybody but operators there is no page for them.
func TestTheOperatorsPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) {
		c.Status = func(context.Context) (any, error) { return map[string]int{"all": 7}, nil }
	})
	alice, v := w.signIn("alice"), w.visitor()
	for _, path := range []string{"/ops", "/ops/status"} {
		require.Equal(t, http.StatusNotFound, v.get(path).status, path)
		require.Equal(t, http.StatusNotFound, alice.get(path).status, path)
	}
	_, err := w.db.Pool.Exec(t.Context(), `UPDATE users SET system_role = 'SA', version = version + 1 WHERE id = $1`, alice.id())
	require.NoError(t, err)
	operator := w.signIn("alice")
	require.Equal(t, http.StatusOK, operator.get("/ops").status)
	status := operator.get("/ops/status")
	require.Equal(t, http.StatusOK, status.status)
	require.Equal(t, "no-store", status.header.Get("Cache-Control"))
	require.InDelta(t, 7, status.field("status", "all"), 0)
	metrics, ok := status.field("metrics").([]any)
	require.True(t, ok)
	var names []string
	for i := range metrics {
		names = append(names, status.str("metrics", i, "name"))
	}
	require.Contains(t, names, "http_request_seconds")
	require.Contains(t, names, "cache_requests_total")
	require.NotContains(t, names, "go_goroutines", "only what is drawn")
}
