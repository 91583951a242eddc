package httpapi_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/httpapi"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/seal"
	"fdc/internal/workspace"
)

// The truth holds for the bytes that the cache loads, of any document, and for no others.
func TestDocumentTruth(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	nc := natstest.Connect(t, natstest.Provisioned(t), "api")
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	workspaces := workspace.New(outbox.New(db.Pool, nil))
	sealKeys, err := seal.ParseKeys(seal.NewKey("v1"))
	require.NoError(t, err)
	signer, err := sealKeys.Signer("cache")
	require.NoError(t, err)
	documents, err := httpapi.NewDocuments(workspaces, nearcache.Config{
		KV: kv, Signer: signer, JS: js, NATS: nc, MaxBytes: 1 << 20, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	owner := events.NewID()
	_, err = db.Pool.Exec(t.Context(), `INSERT INTO users (id, email, google_id) VALUES ($1, 'alice@example.com', 'g-1')`, owner)
	require.NoError(t, err)
	keys := []string{"no-id", events.NewID()}
	for i, data := range []string{
		`{}`,
		`{"data":{"data":1},"version":7,"lastModified":"never"}`,
		`{"n":12345678901234567890.1200,"é":"\u0001 ` + "\u2028" + ` 😀 < &"}`,
	} {
		w, err := workspaces.Create(t.Context(), events.Meta{ActorID: owner, Source: "/fdc/test"}, owner, "W")
		require.NoError(t, err)
		keys = append(keys, w.ID)
		// Fractions of a second that end in zeros are written shorter.
		modified := time.Date(2026, time.March, 1, 12, 0, 0, i*120_000_000, time.UTC)
		_, err = db.Pool.Exec(t.Context(), `UPDATE workspace_data SET data = $2, version = $3, last_modified = $4 WHERE workspace_id = $1`,
			w.ID, data, i, modified)
		require.NoError(t, err)
	}
	rows, err := httpapi.DocumentTruth(workspaces)(t.Context(), keys)
	require.NoError(t, err)
	require.Len(t, rows, len(keys)-2, "what has no row is left out")
	for _, id := range keys[2:] {
		var entry nearcache.Entry
		require.Eventually(t, func() bool {
			_, err := documents.Get(t.Context(), id, 0)
			require.NoError(t, err)
			var found bool
			entry, found, err = nearcache.NewBucket(kv).Get(t.Context(), id)
			return found && err == nil
		}, patience, time.Millisecond, "the cache does not fill the bucket")
		require.Equal(t, entry.Version, rows[id].Version)
		body := entry.Data
		require.True(t, rows[id].Holds(body), "%s", body)
		for i := range body {
			wrong := bytes.Clone(body)
			wrong[i] ^= 1
			require.False(t, rows[id].Holds(wrong), "%s", wrong)
			require.False(t, rows[id].Holds(body[:i]))
		}
		require.False(t, rows[id].Holds(append(body, ' ')))
	}
}
