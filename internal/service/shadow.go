package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/postgres"
	"fdc/internal/replay"
	"fdc/internal/workspace"
)

// shadow compares a batch with what is there, as one transaction that can only read sees it.
type shadow func(ctx context.Context, q postgres.Querier, batch []events.Event) ([]string, error)

// Shadow returns what tells, for the named consumer, what its handlers would change, without changing anything.
func Shadow(ctx context.Context, consumer string, pool *pgxpool.Pool, js jetstream.JetStream) (replay.Shadow, error) {
	var compare shadow
	var err error
	switch consumer {
	case bus.AuditArchiver:
		compare = audit.Shadow
	case bus.Syncer:
		compare = gsync.Shadow
	case bus.CacheInvalidator:
		compare, err = shadowCaches(ctx, js)
	default:
		err = fmt.Errorf("consumer %s is not declared", consumer)
	}
	return func(ctx context.Context, batch []events.Event) (whats []string, err error) {
		err = pgx.BeginTxFunc(ctx, pool, postgres.TxOptions(pool), func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SET TRANSACTION READ ONLY`); err != nil {
				return err
			}
			whats, err = compare(ctx, tx, batch)
			return err
		})
		return whats, err
	}, err
}

// shadowCaches compares versions: which entries the invalidator would replace by tombstones.
func shadowCaches(ctx context.Context, js jetstream.JetStream) (shadow, error) {
	buckets := map[string]*nearcache.Bucket{}
	for _, name := range []string{bus.Sessions, bus.WorkspaceData} {
		kv, err := js.KeyValue(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("open the bucket %s (has fdc migrate run?): %w", name, err)
		}
		buckets[name] = nearcache.NewBucket(kv)
	}
	return func(ctx context.Context, q postgres.Querier, batch []events.Event) ([]string, error) {
		whats := make([]string, len(batch))
		for i, ev := range batch {
			name, outdated := bus.WorkspaceData, workspace.Outdated(ev)
			if outdated == nil {
				var err error
				if outdated, err = identity.Outdated(ctx, q, ev); err != nil {
					return nil, err
				}
				name = bus.Sessions
			}
			var writes []string
			for _, key := range slices.Sorted(maps.Keys(outdated)) {
				fence := nearcache.Entry{Version: outdated[key], Tombstone: true}
				takes, old, found, err := buckets[name].Takes(ctx, key, fence)
				switch {
				case err != nil:
					return nil, err
				case takes && found:
					writes = append(writes, fmt.Sprintf("%s/%.36s: version %d would be withdrawn (up to %d)", name, key, old.Version, fence.Version))
				case takes:
					writes = append(writes, fmt.Sprintf("%s/%.36s: a fence up to version %d, where no entry is", name, key, fence.Version))
				}
			}
			whats[i] = strings.Join(writes, "; ")
		}
		return whats, nil
	}, nil
}
