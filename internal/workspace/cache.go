package workspace

import (
	"context"
	"fmt"

	"fdc/events"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/worker"
)

// Invalidator withdraws outdated documents from the cache bucket.
type Invalidator struct{ bucket *nearcache.Bucket }

// NewInvalidator returns an Invalidator for the bucket of documents, whose keys are workspace ids.
func NewInvalidator(bucket *nearcache.Bucket) *Invalidator { return &Invalidator{bucket: bucket} }

// DataUpdated withdraws every version before the new one, which may be in the bucket already, and fences their fills. It
// may be called late, twice or out of order.
func (i *Invalidator) DataUpdated(ctx context.Context, d *worker.Delivery) error {
	data, ok := d.Event.Data.(events.WorkspaceDataUpdated)
	if !ok {
		return worker.Discard(fmt.Errorf("want workspace.data_updated, got %s", d.Event.Type))
	}
	_, err := i.bucket.PutIfNewer(ctx, data.WorkspaceID, nearcache.Entry{Version: data.Version - 1, Tombstone: true})
	return err
}
