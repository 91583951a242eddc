package httpapi

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/workspace"
)

func TestEncodeDocumentIsWhatEncodingJSONWrites(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{time.Unix(0, 0), time.Date(2026, 3, 1, 9, 0, 0, 123456000, time.FixedZone("", 9*3600))} {
		doc := workspace.Document{
			WorkspaceID: "00000000-0000-7000-8000-000000000000", Stored: json.RawMessage(`{"a":[1.50,"日本"]}`), Version: 7, LastModified: at,
		}
		want, err := json.Marshal(Document{WorkspaceID: doc.WorkspaceID, Data: doc.Stored, Version: doc.Version, LastModified: at.UTC()})
		require.NoError(t, err)
		require.Equal(t, string(want), string(encodeDocument(doc)))
	}
}
