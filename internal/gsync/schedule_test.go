package gsync

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/task"
)

// due makes the user's schedule due.
func (p *person) due() {
	p.t.Helper()
	p.exec(`UPDATE sync_schedules SET next_at = now() - interval '1 minute' WHERE user_id = $1`, p.id)
}

// next is how long it is until the user's next sync by itself; false when there is none.
func (p *person) next() (wait time.Duration, scheduled bool) {
	p.t.Helper()
	var at *time.Time
	require.NoError(p.t, p.db.Pool.QueryRow(p.t.Context(),
		`SELECT max(next_at) FROM sync_schedules WHERE user_id = $1`, p.id).Scan(&at))
	if at == nil {
		return 0, false
	}
	return time.Until(*at), true
}

// makes runs the scheduler once and says how many jobs it has to make.
func (w *world) makes(want int) {
	w.t.Helper()
	made, err := w.makeDue(w.t.Context())
	require.NoError(w.t, err)
	require.Equal(w.t, want, made)
}

func (w *world) pending(trigger string) (n int) {
	w.t.Helper()
	require.NoError(w.t, w.db.Pool.QueryRow(w.t.Context(),
		`SELECT count(*) FROM sync_jobs WHERE status = 'pending' AND trigger = $1`, trigger).Scan(&n))
	return n
}

// notified counts the user's pending jobs that a notification made.
func (p *person) notified() (n int) {
	p.t.Helper()
	require.NoError(p.t, p.db.Pool.QueryRow(p.t.Context(),
		`SELECT count(*) FROM sync_jobs WHERE user_id = $1 AND status = 'pending' AND trigger = $2`, p.id, events.TriggerWebhook).Scan(&n))
	return n
}

func TestTheFirstSyncComesByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	require.Zero(t, w.pending(events.TriggerConnect))
	w.makes(1)
	require.Equal(t, 1, w.pending(events.TriggerConnect))
	w.makes(0)

	p.synced(events.SyncFull, events.SyncIncremental) // takes the pending one on
	wait, scheduled := p.next()
	require.True(t, scheduled)
	require.InDelta(t, 15*60, wait.Seconds(), 1.5*60+30, "an interval from its end, give or take a tenth")
	w.makes(0)

	p.due()
	w.makes(1)
	require.Equal(t, 1, w.pending(events.TriggerSchedule))
}

func TestScheduleFollowsAccountAndSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	p.synced(events.SyncFull, events.SyncIncremental)
	settings, err := w.Settings(t.Context(), p.id)
	require.NoError(t, err)

	settings.IntervalMinutes = 60
	_, err = w.PutSettings(t.Context(), p.id, settings)
	require.NoError(t, err)
	wait, _ := p.next()
	require.InDelta(t, 60*60, wait.Seconds(), 6*60+30)

	settings.AutoSync = false
	_, err = w.PutSettings(t.Context(), p.id, settings)
	require.NoError(t, err)
	_, scheduled := p.next()
	require.False(t, scheduled)
	p.synced(events.SyncFull, events.SyncIncremental)
	_, scheduled = p.next()
	require.False(t, scheduled, "the end of a sync that was asked for schedules none")

	settings.AutoSync = true
	_, err = w.PutSettings(t.Context(), p.id, settings)
	require.NoError(t, err)
	require.NoError(t, w.Disconnect(t.Context(), testMeta, p.id))
	p.due()
	w.makes(0)
	_, scheduled = p.next()
	require.False(t, scheduled, "nothing is due without Google")

	require.NoError(t, w.Connect(t.Context(), testMeta, p.id, p.consent(alice, true)))
	w.makes(1)
}

func TestAFailedSyncIsTriedAgainAnIntervalLater(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	w.fault("GET", "/calendar/v3/*", 1, 0, object{"status": 400, "reason": "invalid"})
	w.fault("GET", "/tasks/v1/*", 1, 0, object{"status": 400, "reason": "invalid"})
	require.Equal(t, StatusFailed, p.sync(events.SyncFull, events.SyncIncremental).Status)
	wait, scheduled := p.next()
	require.True(t, scheduled)
	require.Greater(t, wait, 10*time.Minute)
}

// After an outage everybody is due at once. The queue stays short, and who asks comes before all who were only due.
func TestAnOutageMakesNoStampede(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const users = 1000
	w.exec(`INSERT INTO users (id, email, google_id) SELECT gen_random_uuid(), 'user' || n || '@example.com', 'g-' || n FROM generate_series(1, $1::int) n`, users)
	w.exec(`INSERT INTO google_accounts (user_id, google_id, email, state, scopes)
		SELECT id, email, email, 'connected', ARRAY[$1] FROM users`, scopeTasks)
	w.exec(`INSERT INTO sync_schedules (user_id, next_at)
		SELECT id, now() - interval '1 hour' + row_number() OVER (ORDER BY id) * interval '1 second' FROM users`)
	p := w.connected(alice)
	p.exec(`DELETE FROM sync_schedules WHERE user_id = $1`, p.id)

	w.makes(maxScheduled)
	w.makes(0)
	asked, coalesced, err := w.Request(t.Context(), testMeta, p.id, Ask{})
	require.NoError(t, err)
	require.False(t, coalesced)
	first, err := w.claim(t.Context(), 1, time.Minute, "")
	require.NoError(t, err)
	require.Equal(t, asked.ID, first[0].ID)

	w.makes(0)
	taken, err := w.claim(t.Context(), 3, time.Minute, "")
	require.NoError(t, err)
	require.Len(t, taken, 3)
	w.makes(3)

	var inOrder bool
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `
		SELECT bool_and(waited = made) FROM (
			SELECT row_number() OVER (ORDER BY user_id) AS waited, row_number() OVER (ORDER BY id) AS made
			FROM sync_jobs WHERE trigger = 'connect') j`).Scan(&inOrder))
	require.True(t, inOrder, "who has been due for longest comes first")
}

func TestWhoAsksMovesTheDueJobUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, other := w.connected(alice), w.connected(bob)
	for _, one := range []*person{other, p} {
		one.synced(events.SyncTasks, events.SyncIncremental)
		one.due()
	}
	w.makes(2)
	job, coalesced, err := w.Request(t.Context(), testMeta, p.id, Ask{})
	require.NoError(t, err)
	require.True(t, coalesced)
	first, err := w.claim(t.Context(), 1, time.Minute, "")
	require.NoError(t, err)
	require.Equal(t, job.ID, first[0].ID)
}

func TestSchedulersSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var people []*person
	for i := range 10 {
		people = append(people, w.connected(fmt.Sprintf("user%d@example.com", i)))
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 5 {
				_, err := w.makeDue(t.Context())
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	require.Equal(t, len(people), w.pending(events.TriggerConnect))
	for _, p := range people {
		require.Equal(t, 1, w.count(p.id, "sync.requested"))
	}
}

func TestOldJobsArePruned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	var ids []string
	for range 4 {
		ids = append(ids, p.sync(events.SyncTasks, events.SyncIncremental).ID)
	}
	p.exec(`UPDATE sync_jobs SET status = 'failed' WHERE id = $1`, ids[3])
	w.pruned(pruneJobs(), 0)
	p.exec(`UPDATE sync_jobs SET completed_at = completed_at - $1::interval`, keepJobs)
	w.pruned(pruneJobs(), 2)
	for _, id := range ids[2:] {
		_, err := w.Job(t.Context(), p.id, id)
		require.NoError(t, err, "the newest, and the newest that was completed")
	}
}

// pruned runs a whole pass, which must remove so many rows.
func (w *world) pruned(p *prune, want int) {
	w.t.Helper()
	var removed int64
	for p.next.IsZero() {
		n, err := p.step(w.t.Context(), w.db.Pool, time.Now())
		require.NoError(w.t, err)
		removed += n
	}
	require.EqualValues(w.t, want, removed)
}

// A deleted task leaves for good a month later, unless Google has still to hear of it.
func TestTombstonesArePruned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "stays"})
	gone, pending := p.create(task.Draft{Title: "goes"}), p.create(task.Draft{Title: "is at Google"})
	p.synced("", "")
	for _, made := range []task.Task{gone, pending} {
		require.NoError(t, w.tasks.Delete(t.Context(), testMeta, p.id, p.workspaceID, made.ID))
		if made.ID == gone.ID {
			p.synced("", "")
		}
	}
	w.pruned(pruneTombstones(), 0)
	p.exec(`UPDATE tasks SET deleted_at = deleted_at - $1::interval`, keepTombstones)
	w.pruned(pruneTombstones(), 1)
	p.synced("", "")
	w.pruned(pruneTombstones(), 1)
	var left int
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM tasks`).Scan(&left))
	require.Equal(t, 1, left)
	p.quiet()
}

// A pass goes on behind what it leaves, and does not begin again before an hour is over.
func TestPruningPassesWhatStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO users (id, email, google_id) SELECT gen_random_uuid(), 'u' || i || '@example.com', 'u' || i FROM generate_series(1, 2 * $1::int) i`, pruneBatch)
	w.exec(`INSERT INTO sync_jobs (id, user_id, type, mode, status, completed_at)
		SELECT gen_random_uuid(), id, 'full', 'incremental', 'completed', now() - interval '90 days' FROM users`)
	p := pruneJobs()
	now := time.Now()
	var looked []position
	for p.next.IsZero() {
		looked = append(looked, p.from)
		_, err := p.step(t.Context(), w.db.Pool, now)
		require.NoError(t, err)
	}
	require.Len(t, looked, 3, "every row once")
	require.NotContains(t, looked[1:], beginning)
	q := &explainer{Querier: w.db.Pool, t: t}
	_, err := p.step(t.Context(), q, now.Add(pruneEvery-time.Second))
	require.NoError(t, err)
	require.Empty(t, q.plans, "nothing is asked")
	_, err = p.step(t.Context(), q, now.Add(pruneEvery))
	require.NoError(t, err)
	require.Len(t, q.plans, 1)
}
