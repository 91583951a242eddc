package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"fdc/internal/gsync"
)

// How far the replica may be behind. The API asks it for nothing that it doesn't have yet, so that is a matter of load.
const (
	replicaWarning = 10 * time.Second
	replicaFailure = 5 * time.Minute
)

func (c Config) examineReplica(ctx context.Context) []Finding {
	if c.Database.ReplicaURL == "" {
		return nil
	}
	return c.run(ctx, check{"replica", c.replica})
}

func (c Config) replica(ctx context.Context) ([]Finding, error) {
	conn, err := pgx.Connect(ctx, c.Database.ReplicaURL)
	if pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded) {
		return nil, context.DeadlineExceeded
	}
	if err != nil {
		return []Finding{failure("start it, or take DATABASE_REPLICA_URL away", "The replica can't be reached: %v.", oneLine(err))}, nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var recovering bool
	var lag float64
	// Without new transactions the last one gets old, though nothing is missing.
	err = conn.QueryRow(ctx, `
		SELECT pg_is_in_recovery(), CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
			ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float8 END`).Scan(&recovering, &lag)
	if err != nil {
		return nil, fmt.Errorf("ask the replica for its lag: %w", err)
	}
	if !recovering {
		return []Finding{warning("set DATABASE_REPLICA_URL to a standby, or take it away",
			"DATABASE_REPLICA_URL leads to a server that is no replica: it takes writes of its own.")}, nil
	}
	return []Finding{graded(lag, replicaWarning.Seconds(), replicaFailure.Seconds(), "see what the replica is busy with: its log, its disk, long queries on it",
		"The replica is %.1f s behind.", lag)}, nil
}

// archive looks whether the place where old months go is there. It makes no folder.
func (b *broker) archive(ctx context.Context) ([]Finding, error) {
	if b.ArchiveURL == "" || b.OpenArchive == nil {
		return ok("Not examined: ARCHIVE_URL is not set here."), nil
	}
	const fix = "make it, or set ARCHIVE_URL to where it is; months stay in the database until it can be written"
	if dir, is := strings.CutPrefix(b.ArchiveURL, "file://"); is {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return []Finding{failure(fix, "There is no folder %s for the archive of the audit log.", dir)}, nil
		}
	}
	storage, err := b.OpenArchive(ctx, b.js)
	if err != nil {
		return []Finding{failure(fix, "The archive of the audit log can't be opened: %v.", oneLine(err))}, nil
	}
	defer storage.Close() //nolint:errcheck // it was only read
	objects, err := storage.Keys(ctx)
	if err != nil {
		return []Finding{failure(fix, "The archive of the audit log can't be read: %v.", oneLine(err))}, nil
	}
	return ok("The archive of the audit log is there, with %d objects.", len(objects)), nil
}

func (c Config) examineGoogle(ctx context.Context) []Finding {
	return c.run(ctx, check{"google", c.google})
}

// google asks for an answer, whatever it says: that takes no account.
func (c Config) google(ctx context.Context) ([]Finding, error) {
	hosts := gsync.OAuth{Endpoint: c.Google}.Hosts()
	for _, host := range hosts {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, host, nil)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", host, err)
		}
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		response, err := client.Do(request)
		if err != nil {
			return []Finding{warning("let this machine, and the syncers, out to it (DNS, firewall, proxy), or set GOOGLE_ENDPOINT; syncs wait meanwhile, nothing else does",
				"Google does not answer at %s: %v.", host, oneLine(err))}, nil
		}
		_ = response.Body.Close() // the status was all
		if response.StatusCode >= http.StatusInternalServerError {
			return []Finding{warning("wait; syncs are retried by themselves", "Google answers %d at %s.", response.StatusCode, host)}, nil
		}
	}
	return ok("Google answers at %s.", strings.Join(hosts, ", ")), nil
}
