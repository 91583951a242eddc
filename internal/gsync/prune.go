package gsync

import (
	"context"
	"fmt"
	"time"

	"fdc/internal/platform/postgres"
)

// prune removes rows that ended long ago, in passes over all of them: each step looks at the next rows after those of the step
// before, so that what stays is passed once in a pass and not again at each step. It is for one goroutine; several processes
// side by side do the work twice and no harm.
type prune struct {
	what string
	sql  string // takes (age, after, id, limit), gives (removed, looked at, the last one's end and id)
	keep time.Duration

	next time.Time // when the next pass begins, once one has ended
	from position
}

// position is the last row that a pass has looked at.
type position struct {
	ended time.Time
	id    string
}

var beginning = position{time.Unix(0, 0), nilUUID}

// pruneJobs removes sync jobs but for the newest and the newest completed one of each user.
func pruneJobs() *prune {
	return &prune{what: "sync jobs", keep: keepJobs, from: beginning, sql: `
		WITH old AS MATERIALIZED (
			SELECT id, user_id, status, created_at, completed_at AS ended FROM sync_jobs
			WHERE completed_at < now() - $1::interval AND (completed_at, id) > ($2, $3)
			ORDER BY completed_at, id LIMIT $4
		), gone AS (
			DELETE FROM sync_jobs WHERE id IN (
				SELECT j.id FROM old j WHERE EXISTS (SELECT 1 FROM sync_jobs n WHERE n.user_id = j.user_id AND n.created_at > j.created_at
					AND (j.status <> 'completed' OR n.status = 'completed')))
			RETURNING id
		)
		SELECT (SELECT count(*) FROM gone), count(*) OVER (), ended, id::text FROM old ORDER BY ended DESC, id DESC LIMIT 1`}
}

// pruneTombstones removes deleted tasks that no link to Google needs any more.
func pruneTombstones() *prune {
	return &prune{what: "deleted tasks", keep: keepTombstones, from: beginning, sql: `
		WITH old AS MATERIALIZED (
			SELECT id, deleted_at AS ended FROM tasks
			WHERE deleted_at < now() - $1::interval AND (deleted_at, id) > ($2, $3)
			ORDER BY deleted_at, id LIMIT $4
		), gone AS (
			DELETE FROM tasks WHERE id IN (
				SELECT o.id FROM old o WHERE NOT EXISTS (SELECT 1 FROM google_task_links l WHERE l.task_id = o.id))
			RETURNING id
		)
		SELECT (SELECT count(*) FROM gone), count(*) OVER (), ended, id::text FROM old ORDER BY ended DESC, id DESC LIMIT 1`}
}

// step looks at the next rows of a pass, if one is due, and reports how many it has removed.
func (p *prune) step(ctx context.Context, q postgres.Querier, now time.Time) (removed int64, err error) {
	if now.Before(p.next) {
		return 0, nil
	}
	rows, err := q.Query(ctx, p.sql, p.keep, p.from.ended, p.from.id, pruneBatch)
	if err != nil {
		return 0, fmt.Errorf("prune %s: %w", p.what, err)
	}
	defer rows.Close()
	var seen int64
	if rows.Next() {
		if err := rows.Scan(&removed, &seen, &p.from.ended, &p.from.id); err != nil {
			return 0, fmt.Errorf("prune %s: %w", p.what, err)
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("prune %s: %w", p.what, err)
	}
	if seen < pruneBatch {
		p.from, p.next = beginning, now.Add(pruneEvery)
	}
	return removed, nil
}
