package httpapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/httpapi"
	"fdc/internal/platform/fault"
)

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	checks := map[string]error{"postgres": nil, "nats": nil}
	w := newWorld(t, func(c *httpapi.Config) {
		c.Checks = func(ctx context.Context) map[string]error {
			if _, ok := ctx.Deadline(); !ok {
				return map[string]error{"deadline": errors.New("there is none")}
			}
			return checks
		}
	})
	v := w.visitor()
	require.Equal(t, "ok", v.get("/api/health").str("status"))
	require.Equal(t, object{"status": "ok", "checks": object{"postgres": object{"status": "ok"}, "nats": object{"status": "ok"}}}, v.get("/api/health/deep").field())

	checks["nats"] = errors.New("dial tcp 10.0.0.7:4222: password hunter2")
	checks["outbox"] = fault.New(fault.Unavailable, "", "The oldest event waits for 12 s.")
	var deep *result
	require.Eventually(t, func() bool { // an outcome is served for a second
		deep = v.get("/api/health/deep")
		return deep.status == http.StatusServiceUnavailable
	}, patience, 100*time.Millisecond)
	require.Equal(t, "failing", deep.str("status"))
	require.Equal(t, object{"status": "failing"}, deep.field("checks", "nats"))
	require.Equal(t, "The oldest event waits for 12 s.", deep.str("checks", "outbox", "detail"))
	require.Equal(t, "ok", deep.str("checks", "postgres", "status"))
	require.Contains(t, w.log.String(), "10.0.0.7", "the log has the cause")
	require.Equal(t, http.StatusOK, v.get("/api/health").status)
}

func TestHealthWithoutChecks(t *testing.T) {
	t.Parallel()
	w := shared(t)
	require.Equal(t, object{"status": "ok", "checks": object{}}, w.visitor().get("/api/health/deep").field())
}

func TestEventSchemas(t *testing.T) {
	t.Parallel()
	w := shared(t)
	v := w.visitor()
	for _, et := range events.Types() {
		r := v.get("/api/schemas/" + et.Name)
		require.Equal(t, "application/schema+json", r.header.Get("Content-Type"))
		want, ok := events.Schema(et.Name)
		require.True(t, ok)
		require.JSONEq(t, string(want), r.text)
	}
	require.Equal(t, "not-found", v.get("/api/schemas/fdc.task.eaten.v1").code())
	require.Equal(t, http.StatusNotFound, v.get("/api/schemas/").status)
	require.Equal(t, "application/json", v.get("/api/openapi.json").header.Get("Content-Type"))
}

func TestDatabaseAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.signIn("alice")
	home := alice.home()
	w.database.Cut()
	for _, path := range []string{"/api/workspaces", "/api/workspaces/" + home + "/data", "/api/auth/sessions"} {
		r := alice.get(path)
		require.Equal(t, http.StatusServiceUnavailable, r.status, path)
		require.Equal(t, "database-unavailable", r.code())
		require.Equal(t, "1", r.header.Get("Retry-After"))
	}
	stranger := w.visitor()
	stranger.header = http.Header{"Cookie": {"fdc_session=" + base64.RawURLEncoding.EncodeToString(make([]byte, 32))}}
	require.Equal(t, http.StatusServiceUnavailable, stranger.get("/api/auth/session").status, "nobody can say whether there is such a session")
	require.Equal(t, http.StatusForbidden, alice.send(http.MethodPost, "/api/workspaces", object{"name": "x"}, "Origin", "https://evil.example").status)
	require.Equal(t, "sign-in-expired", w.visitor().get("/api/auth/callback").code(), "told, though it can't be put on record")
	require.Equal(t, http.StatusOK, alice.get("/api/health").status)
	require.NotContains(t, w.log.String(), `"level":"error"`)
	require.Contains(t, w.log.String(), `"unrecorded":"record auth.login_failed`)
}
