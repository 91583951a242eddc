package gsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/postgres"
)

// cursor is how far a collection at Google was read: by a sync token or, where there are none, by the time of the latest
// change that Google told of.
type cursor struct {
	SyncToken    string
	UpdatedMin   *time.Time
	FullSyncedAt *time.Time
}

// maxDeltas is how long deltas are trusted before everything is read anew, less up to a day, so that those who have connected at the same
// time don't read everything at the same time.
const maxDeltas = 7 * 24 * time.Hour

func (c cursor) aged(userID string) bool {
	return c.FullSyncedAt == nil || time.Since(*c.FullSyncedAt) > maxDeltas-spread(userID, 24*time.Hour)
}

func readCursor(ctx context.Context, q postgres.Querier, userID, resource string) (cursor, error) {
	var c cursor
	err := q.QueryRow(ctx, `
		SELECT sync_token, updated_min, full_synced_at FROM sync_state WHERE user_id = $1 AND resource = $2`, userID, resource).
		Scan(&c.SyncToken, &c.UpdatedMin, &c.FullSyncedAt)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return cursor{}, fmt.Errorf("read cursor of %s: %w", resource, err)
	}
	return c, nil
}

// beginFull takes a number for a full read. What was read up to now stays where to go on from, should the full read not
// come to its end.
func beginFull(ctx context.Context, tx pgx.Tx, userID, resource string) (generation int64, err error) {
	err = tx.QueryRow(ctx, `
		INSERT INTO sync_state (user_id, resource, generation) VALUES ($1, $2, 1)
		ON CONFLICT (user_id, resource) DO UPDATE SET generation = sync_state.generation + 1
		RETURNING generation`, userID, resource).Scan(&generation)
	if err != nil {
		return 0, fmt.Errorf("begin full read of %s: %w", resource, err)
	}
	return generation, nil
}

// endFull stores where the next read goes on after a full one.
func endFull(ctx context.Context, tx pgx.Tx, userID, resource, syncToken string, updatedMin *time.Time) error {
	_, err := tx.Exec(ctx, `
		UPDATE sync_state SET sync_token = $3, updated_min = $4, full_synced_at = now(), synced_at = now()
		WHERE user_id = $1 AND resource = $2`, userID, resource, syncToken, updatedMin)
	if err != nil {
		return fmt.Errorf("end full read of %s: %w", resource, err)
	}
	return nil
}

// saveToken stores where the next read of a calendar goes on. A token that is as before is no reason to write.
func saveToken(ctx context.Context, tx pgx.Tx, userID, resource, syncToken string) error {
	_, err := tx.Exec(ctx, `
		UPDATE sync_state SET sync_token = $3, synced_at = now() WHERE user_id = $1 AND resource = $2 AND sync_token <> $3`,
		userID, resource, syncToken)
	if err != nil {
		return fmt.Errorf("save cursor of %s: %w", resource, err)
	}
	return nil
}

// saveUpdatedMin stores where the next read of a task list goes on.
func saveUpdatedMin(ctx context.Context, tx pgx.Tx, userID, resource string, updatedMin time.Time) error {
	_, err := tx.Exec(ctx, `
		UPDATE sync_state SET updated_min = $3, synced_at = now() WHERE user_id = $1 AND resource = $2 AND updated_min < $3`,
		userID, resource, updatedMin)
	if err != nil {
		return fmt.Errorf("save cursor of %s: %w", resource, err)
	}
	return nil
}
