package workspace

import (
	"context"
	"fmt"
	"time"

	"fdc/events"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// Invalidator withdraws outdated documents from the cache bucket.
type Invalidator struct{ cache *nearcache.Monitor }

// NewInvalidator returns an Invalidator for the bucket of documents, whose keys are workspace ids.
func NewInvalidator(cache *nearcache.Monitor) *Invalidator { return &Invalidator{cache: cache} }

// Withdraw withdraws every version before the new one, which may be in the bucket already, and fences their fills; of a
// deleted workspace all versions. It may be called late, twice or out of order.
func (i *Invalidator) Withdraw(ctx context.Context, d *worker.Delivery) error {
	list := Outdated(d.Event)
	if list == nil {
		return worker.Discard(fmt.Errorf("want workspace.data_updated or workspace.deleted, got %s", d.Event.Type))
	}
	return i.cache.Withdraw(ctx, list)
}

// Outdated is what Withdraw withdraws: a key of the bucket with its newest outdated version; nothing for other events.
func Outdated(ev events.Event) map[string]int64 {
	switch data := ev.Data.(type) {
	case events.WorkspaceDataUpdated:
		return map[string]int64{data.WorkspaceID: data.Version - 1}
	case events.WorkspaceDeleted:
		return map[string]int64{data.WorkspaceID: data.DocumentVersion}
	default:
		return nil
	}
}

// DocumentDigest is what tells whether a copy of a document is true, without the document.
type DocumentDigest struct {
	WorkspaceID  string
	Version      int64
	LastModified time.Time
	SHA256       []byte // of Document.Stored
}

// DocumentDigests reads the digests of some documents; a workspace that there is not is left out. Like DocumentOf, it asks
// for no right.
func (s *Service) DocumentDigests(ctx context.Context, workspaceIDs []string) ([]DocumentDigest, error) {
	digests, err := digestDocuments(ctx, s.outbox.Pool(), workspaceIDs)
	if err != nil {
		return nil, fmt.Errorf("digest %d documents: %w", len(workspaceIDs), postgres.Fault(err))
	}
	return digests, nil
}
