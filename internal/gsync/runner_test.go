package gsync

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/task"
)

// holding blocks the nth request whose path has the part, until release is called. reached is closed when it is there.
func (w *world) holding(part string, nth int32) (reached <-chan struct{}, release func()) {
	w.t.Helper()
	there, open := make(chan struct{}), make(chan struct{})
	var seen atomic.Int32
	w.before(func(r *http.Request) {
		if strings.Contains(r.URL.Path, part) && seen.Add(1) == nth {
			close(there)
			select {
			case <-open:
			case <-r.Context().Done():
			}
		}
	})
	return there, func() { close(open) }
}

func (p *person) request(typ string) Job {
	p.t.Helper()
	job, _, err := p.Request(p.t.Context(), testMeta, p.id, Ask{Type: typ})
	require.NoError(p.t, err)
	return job
}

func TestRunnersShareTheQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var people []*person
	for i := range 6 {
		people = append(people, w.connected(fmt.Sprintf("user%d@example.com", i)))
		people[i].create(task.Draft{Title: "one"})
	}
	var runners []*Runner
	for range 3 {
		r, _ := w.run(w.newService(nil), RunnerConfig{Slots: 2})
		runners = append(runners, r)
	}
	last := map[*person]Job{}
	for range 5 {
		for _, p := range people {
			last[p] = p.request("")
		}
		for _, r := range runners {
			require.NoError(t, r.Handle(t.Context(), nil))
		}
	}
	for _, p := range people {
		require.Equal(t, StatusCompleted, p.ended(last[p].ID).Status)
		p.eventually("no job is left", func() bool {
			st, err := p.Status(t.Context(), p.id)
			require.NoError(t, err)
			return st.ActiveJobID == nil
		})
		p.oneThere("one")
		running := 0
		for _, action := range w.told(p.id) {
			switch action {
			case "sync.started":
				running++
			case "sync.completed", "sync.failed":
				running--
			}
			require.LessOrEqual(t, running, 1, "one job of a user at a time")
		}
		require.Zero(t, running)
	}
}

func TestTakeoverOfADeadProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	for i := range 3 {
		p.create(task.Draft{Title: fmt.Sprintf("number %d", i)})
	}
	// The first process is stuck before the second insert, in its only slot, until its lease is over for all but itself.
	reached, _ := w.holding("/lists/", 5)
	_, stop := w.run(w.Service, RunnerConfig{Slots: 1, Lease: time.Hour, Grace: time.Millisecond})
	job := p.request("")
	<-reached
	_, err := w.db.Pool.Exec(t.Context(), `UPDATE sync_jobs SET lease_expires_at = clock_timestamp()`)
	require.NoError(t, err)
	_, stopHeir := w.run(w.newService(nil), RunnerConfig{})
	ended := p.ended(job.ID)
	require.Equal(t, StatusCompleted, ended.Status)
	require.Equal(t, 2, ended.Attempt)
	require.EqualValues(t, 3, ended.Result.Tasks.Pushed, "counts of both attempts")
	require.Equal(t, 2, w.count(p.id, "sync.started"))

	stop()
	stopHeir()
	require.Equal(t, 1, w.count(p.id, "sync.completed"))
	require.Equal(t, ended, p.ended(job.ID))
	w.before(nil)
	for title, same := range p.there() {
		require.Len(t, same, 1, title)
	}
	p.equal()
	p.quiet()
}

func TestARunEndsBeforeItsLease(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	w.holding("/lists/", 1)
	job := p.request("")
	taken, err := w.claim(t.Context(), 1, time.Second, p.id)
	require.NoError(t, err)
	w.runClaimed(t.Context(), taken[0], RunnerConfig{Lease: time.Second, Heartbeat: time.Hour})
	require.EqualValues(t, 1, testutil.ToFloat64(w.metrics.jobs.WithLabelValues("lost")))
	lost, err := w.Job(t.Context(), p.id, job.ID)
	require.NoError(t, err)
	require.Equal(t, StatusProcessing, lost.Status, "the next process finds it by its lease")
}

func TestALostLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	job := p.request("")
	old, err := w.claim(t.Context(), 1, time.Millisecond, p.id)
	require.NoError(t, err)
	run, err := w.begin(t.Context(), old[0])
	require.NoError(t, err)
	var heir []claimed
	w.eventually("the job is taken over", func() bool {
		heir, err = w.claim(t.Context(), 1, time.Minute, p.id)
		require.NoError(t, err)
		return len(heir) == 1
	})
	require.Equal(t, job.ID, heir[0].ID)
	touch := func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		_, err := tx.Exec(ctx, `UPDATE google_accounts SET email = 'touched' WHERE user_id = $1`, p.id)
		return err
	}
	require.ErrorIs(t, run.tx(t.Context(), touch), errLeaseLost)
	require.ErrorIs(t, run.complete(t.Context(), touch), errLeaseLost)
	require.ErrorIs(t, w.fail(t.Context(), old[0], JobError{}), errLeaseLost)
	require.ErrorIs(t, w.endCancelled(t.Context(), old[0]), errLeaseLost)
	require.ErrorIs(t, w.release(t.Context(), old[0], 0, nil), errLeaseLost)
	_, err = w.renewLease(t.Context(), old[0], time.Minute)
	require.ErrorIs(t, err, errLeaseLost)
	a, err := w.account(t.Context(), w.db.Pool, p.id)
	require.NoError(t, err)
	require.Equal(t, alice, a.Email)
	require.NoError(t, w.release(t.Context(), heir[0], 0, nil))
	require.Equal(t, StatusCompleted, p.sync("", "").Status)
}

func TestALeaseIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	reached, release := w.holding("/lists/", 1)
	cfg := RunnerConfig{Lease: 4 * time.Second, Heartbeat: 50 * time.Millisecond}
	w.run(w.Service, cfg)
	w.run(w.newService(nil), cfg)
	job := p.request("")
	<-reached
	expires := func() (at time.Time) {
		require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT lease_expires_at FROM sync_jobs`).Scan(&at))
		return at
	}
	first := expires()
	w.eventually("the lease is renewed beyond its first end", func() bool { return expires().Sub(first) > cfg.Lease })
	release()
	ended := p.ended(job.ID)
	require.Equal(t, StatusCompleted, ended.Status)
	require.Equal(t, 1, ended.Attempt)
}

func TestCancelBetweenPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	start := march
	for range 2*testPage + 1 {
		start = start.Add(time.Minute)
		p.event("one of many", start.Format(time.RFC3339), nil)
	}
	reached, release := w.holding("/events", 2)
	w.run(w.Service, RunnerConfig{})
	job := p.request(events.SyncCalendar)
	<-reached
	cancelled, err := w.Cancel(t.Context(), testMeta, p.id, job.ID)
	require.NoError(t, err)
	require.Equal(t, StatusProcessing, cancelled.Status)
	release()
	ended := p.ended(job.ID)
	require.Equal(t, StatusCancelled, ended.Status)
	require.EqualValues(t, testPage, ended.Result.Calendar.Created, "the first page was done")
	require.Equal(t, 1, w.count(p.id, "sync.cancelled"))
	w.before(nil)
	require.EqualValues(t, testPage+1, p.synced("", "").Calendar.Created)
	p.sameEvents(march, may)
}

func TestDisconnectEndsWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	reached, release := w.holding("/lists/", 2)
	w.run(w.Service, RunnerConfig{})
	job := p.request("")
	<-reached
	require.NoError(t, w.Disconnect(t.Context(), testMeta, p.id))
	release()
	require.Equal(t, StatusCancelled, p.ended(job.ID).Status)
	require.Zero(t, w.count(p.id, "google.reauth_required"))
	require.Equal(t, 1, w.count(p.id, "sync.cancelled"))
}

func TestStoppingGivesTheJobBack(t *testing.T) {
	t.Parallel()
	for _, another := range []bool{false, true} {
		t.Run(fmt.Sprintf("another pending %t", another), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.connected(alice)
			p.create(task.Draft{Title: "one"})
			reached, _ := w.holding("/lists/", 2)
			_, stop := w.run(w.Service, RunnerConfig{Grace: time.Millisecond})
			job := p.request("")
			<-reached
			last := job
			if another {
				last = p.request("")
				require.NotEqual(t, job.ID, last.ID)
			}
			stop()
			released, err := w.Job(t.Context(), p.id, job.ID)
			require.NoError(t, err)
			require.False(t, released.Ended())
			require.Zero(t, released.Attempt, "an interruption is no attempt")

			w.before(nil)
			w.run(w.newService(nil), RunnerConfig{})
			require.Equal(t, StatusCompleted, p.ended(job.ID).Status)
			require.Equal(t, StatusCompleted, p.ended(last.ID).Status)
			p.oneThere("one")
		})
	}
}

func TestStoppingLetsTheJobFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	reached, release := w.holding("/lists/", 2)
	_, stop := w.run(w.Service, RunnerConfig{Grace: time.Minute})
	job := p.request("")
	<-reached
	release()
	stop()
	require.Equal(t, StatusCompleted, p.ended(job.ID).Status)
}

func TestTroubleAtGoogleIsSatOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "one"})
	w.fault(http.MethodGet, "/tasks/*", 1, 2*maxTries, object{"status": 503})
	w.run(w.Service, RunnerConfig{})
	job := p.ended(p.request("").ID)
	require.Equal(t, StatusCompleted, job.Status)
	require.Equal(t, 3, job.Attempt)
	require.Nil(t, job.Error)
	p.oneThere("one")
	require.Equal(t, []string{"sync.requested", "sync.started", "sync.retried", "sync.started", "sync.retried", "sync.started", "sync.completed"},
		slices.DeleteFunc(w.told(p.id), func(action string) bool { return !strings.HasPrefix(action, "sync.") }), "the history of the attempts")
}

func TestGivingUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	w.fault(http.MethodGet, "/tasks/*", 1, 0, object{"drop": "before"})
	w.run(w.Service, RunnerConfig{})
	job := p.ended(p.request("").ID)
	require.Equal(t, StatusFailed, job.Status)
	require.Equal(t, &JobError{Code: codeUnavailable, Message: job.Error.Message, Retryable: true}, job.Error)
	require.Equal(t, maxAttempts, job.Attempt)
	require.Equal(t, 1, w.count(p.id, "sync.failed"))
	require.Equal(t, maxAttempts-1, w.count(p.id, "sync.retried"))
	st, err := w.Status(t.Context(), p.id)
	require.NoError(t, err)
	require.Equal(t, SyncPendingFirst, st.State)
}

// A statement that always takes too long looks like an outage of the database, but the database answers: the job fails in the end.
func TestAJobThatIsAlwaysTooSlowFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "one"})
	w.exec(`CREATE FUNCTION too_slow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = '57014'; END $$`)
	w.exec(`CREATE TRIGGER too_slow BEFORE INSERT ON google_task_links FOR EACH ROW EXECUTE FUNCTION too_slow()`)
	w.run(w.Service, RunnerConfig{})
	job := p.ended(p.request(events.SyncTasks).ID)
	require.Equal(t, StatusFailed, job.Status)
	require.Equal(t, maxAttempts, job.Attempt)
}

func TestAJobThatKillsItsProcessEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	job := p.request("")
	w.exec(`UPDATE sync_jobs SET attempt = $1`, maxAttempts)
	w.run(w.Service, RunnerConfig{})
	require.Equal(t, StatusFailed, p.ended(job.ID).Status)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	for _, limit := range []object{
		{"status": 429, "reason": "rateLimitExceeded", "retryAfter": 1}, {"status": 403, "reason": "userRateLimitExceeded", "retryAfter": 1},
	} {
		w.fault(http.MethodGet, "/tasks/*", 1, 1, limit)
		start := time.Now()
		p.synced(events.SyncTasks, "")
		require.GreaterOrEqual(t, time.Since(start), time.Second, "Google said when")
	}

	// Longer than anybody waits: the job goes back to the queue until then.
	w.fault(http.MethodGet, "/tasks/*", 1, 1, object{"status": 429, "reason": "rateLimitExceeded", "retryAfter": 120})
	_, stop := w.run(w.Service, RunnerConfig{})
	job := p.request(events.SyncTasks)
	var waits time.Time
	w.eventually("the job waits", func() bool {
		current, err := w.Job(t.Context(), p.id, job.ID)
		require.NoError(t, err)
		require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT run_after FROM sync_jobs WHERE id = $1`, job.ID).Scan(&waits))
		return current.Status == StatusPending && current.Error != nil && current.Error.Code == codeRateLimited
	})
	require.Greater(t, time.Until(waits), 100*time.Second)
	stop()
	w.exec(`UPDATE sync_jobs SET run_after = now()`)

	// Refused for good: once is enough.
	before := len(w.requests())
	w.fault(http.MethodGet, "/tasks/*", 1, 0, object{"status": 403, "reason": "forbidden"})
	failed := p.sync(events.SyncTasks, "")
	require.Equal(t, StatusFailed, failed.Status)
	require.Equal(t, codeInternal, failed.Error.Code)
	require.False(t, failed.Error.Retryable)
	require.Len(t, w.requests()[before:], 1)
}

func TestProgressIsTold(t *testing.T) {
	t.Parallel()
	server := natstest.New(t)
	nc := natstest.Connect(t, server, "syncer")
	w := worldOn(t, stores.Get(t), nc)
	p := w.connected(alice)
	start := march
	for range testPage + 1 {
		start = start.Add(time.Minute)
		p.event("one of many", start.Format(time.RFC3339), nil)
	}
	ops := natstest.Connect(t, server, "ops")
	sub, err := ops.SubscribeSync(events.LiveFilter(p.id))
	require.NoError(t, err)
	require.NoError(t, ops.Flush())
	job := p.sync(events.SyncCalendar, "")
	msg, err := sub.NextMsg(patience)
	require.NoError(t, err)
	event, err := events.Decode(msg.Data)
	require.NoError(t, err)
	progress, ok := event.Data.(events.SyncProgress)
	require.True(t, ok)
	require.Equal(t, events.SyncProgress{JobID: job.ID, UserID: p.id, Phase: phaseCalendar, Done: testPage}, progress)

	// However often the run says something, it is told no more often than anybody can look.
	for {
		if _, err := sub.NextMsg(time.Millisecond); err != nil {
			require.ErrorIs(t, err, nats.ErrTimeout)
			break
		}
	}
	p.request("")
	claimed, err := w.claim(t.Context(), 1, time.Minute, p.id)
	require.NoError(t, err)
	run, err := w.begin(t.Context(), claimed[0])
	require.NoError(t, err)
	began := time.Now()
	for i := range int64(10_000) {
		run.progress(t.Context(), phaseTasks, i, 0)
	}
	most := int(time.Since(began)/liveEvery) + 1
	require.NoError(t, nc.Flush())
	require.NoError(t, ops.Flush())
	told, _, err := sub.Pending()
	require.NoError(t, err)
	require.Positive(t, told)
	require.LessOrEqual(t, told, most)
}

func TestRunNowWaitsForWhoeverHasIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	reached, release := w.holding("/lists/", 1)
	w.run(w.newService(nil), RunnerConfig{})
	first := p.request("")
	<-reached
	done := make(chan Job)
	go func() {
		job, err := w.RunNow(t.Context(), testMeta, p.id, Ask{})
		if err != nil {
			t.Error(err)
		}
		done <- job
	}()
	w.eventually("the second is queued", func() bool { return w.count(p.id, "sync.requested") == 2 })
	release()
	job := <-done
	require.Equal(t, StatusCompleted, job.Status)
	require.NotEqual(t, first.ID, job.ID)
}

// Who runs a sync at once does not wait for somebody else to look after a job that was left behind.
func TestRunNowGoesOnWithWhatWasLeft(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	left := p.request("")
	_, err := w.claim(t.Context(), 1, time.Millisecond, p.id)
	require.NoError(t, err)
	p.create(task.Draft{Title: "later"})
	p.synced("", "")
	require.Equal(t, StatusCompleted, p.ended(left.ID).Status)
	p.oneThere("later")
}
