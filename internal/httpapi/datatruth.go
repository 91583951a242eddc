package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"

	"fdc/events"
	"fdc/internal/platform/nearcache"
	"fdc/internal/workspace"
)

// DocumentTruth tells whether the bucket of a NewDocuments holds what would be loaded into it now. The documents stay in the
// database; their digests are compared.
func DocumentTruth(workspaces *workspace.Service) nearcache.Truth {
	return func(ctx context.Context, keys []string) (map[string]nearcache.Row, error) {
		// Something else than an id has no row, and must not fail the statement for the others.
		ids := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !events.ValidID(key) })
		digests, err := workspaces.DocumentDigests(ctx, ids)
		if err != nil {
			return nil, err
		}
		rows := make(map[string]nearcache.Row, len(digests))
		for _, d := range digests {
			rows[d.WorkspaceID] = nearcache.Row{Version: d.Version, Holds: func(body []byte) bool { return encodes(body, d) }}
		}
		return rows, nil
	}
}

// encodes reports whether body is what encodeDocument makes of the document.
func encodes(body []byte, d workspace.DocumentDigest) bool {
	frame := encodeDocument(workspace.Document{WorkspaceID: d.WorkspaceID, Version: d.Version, LastModified: d.LastModified})
	gap := bytes.Index(frame, []byte(`"data":,`)) + len(`"data":`)
	body, hasHead := bytes.CutPrefix(body, frame[:gap])
	stored, hasTail := bytes.CutSuffix(body, frame[gap:])
	sum := sha256.Sum256(stored)
	return hasHead && hasTail && bytes.Equal(sum[:], d.SHA256)
}
