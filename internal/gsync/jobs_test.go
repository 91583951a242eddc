package gsync

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/platform/fault"
)

func TestRequestsCoalesce(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	ctx := t.Context()
	first, coalesced, err := w.Request(ctx, testMeta, p.id, Ask{Type: events.SyncTasks})
	require.NoError(t, err)
	require.False(t, coalesced)
	require.Equal(t, Job{
		ID: first.ID, Type: events.SyncTasks, Mode: events.SyncIncremental, Status: StatusPending, CreatedAt: first.CreatedAt,
	}, first)

	for _, step := range []struct{ typ, mode, wantType, wantMode string }{
		{events.SyncTasks, "", events.SyncTasks, events.SyncIncremental},
		{events.SyncCalendar, "", events.SyncFull, events.SyncIncremental},
		{events.SyncTasks, events.SyncResync, events.SyncFull, events.SyncResync},
		{"", "", events.SyncFull, events.SyncResync},
	} {
		job, coalesced, err := w.Request(ctx, testMeta, p.id, Ask{Type: step.typ, Mode: step.mode})
		require.NoError(t, err)
		require.True(t, coalesced)
		require.Equal(t, first.ID, job.ID)
		require.Equal(t, step.wantType, job.Type, "the pending job covers every request")
		require.Equal(t, step.wantMode, job.Mode)
	}
	require.Equal(t, 3, w.count(p.id, "sync.requested"), "the first and each that made it cover more")

	claimed, err := w.claim(ctx, 1, time.Minute, p.id)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	second, coalesced, err := w.Request(ctx, testMeta, p.id, Ask{})
	require.NoError(t, err)
	require.False(t, coalesced, "what runs may have passed the change already")
	require.NotEqual(t, first.ID, second.ID)
	none, err := w.claim(ctx, 1, time.Minute, p.id)
	require.NoError(t, err)
	require.Empty(t, none, "one at a time")

	for _, wrong := range [][2]string{{"mail", ""}, {"", "fast"}} {
		_, _, err = w.Request(ctx, testMeta, p.id, Ask{Type: wrong[0], Mode: wrong[1]})
		requireFault(t, err, fault.Invalid, "invalid")
	}
	_, err = w.Job(ctx, events.NewID(), first.ID)
	requireFault(t, err, fault.NotFound, "not-found")
	_, err = w.Job(ctx, p.id, "nonsense")
	requireFault(t, err, fault.NotFound, "not-found")
	_, err = w.Cancel(ctx, testMeta, events.NewID(), first.ID)
	requireFault(t, err, fault.NotFound, "not-found")
}

func TestConcurrentRequestsMakeOneJob(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	var group errgroup.Group
	fresh := make([]bool, 24)
	for i := range fresh {
		group.Go(func() error {
			_, coalesced, err := w.Request(t.Context(), testMeta, p.id, Ask{})
			fresh[i] = !coalesced
			return err
		})
	}
	require.NoError(t, group.Wait())
	made := 0
	for _, f := range fresh {
		if f {
			made++
		}
	}
	require.Equal(t, 1, made)
	require.Equal(t, 1, w.count(p.id, "sync.requested"))
}

func TestCancelPending(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	job, _, err := w.Request(t.Context(), testMeta, p.id, Ask{})
	require.NoError(t, err)
	st, err := w.Status(t.Context(), p.id)
	require.NoError(t, err)
	require.Equal(t, SyncSyncing, st.State)
	require.Equal(t, job.ID, *st.ActiveJobID)
	for range 2 {
		job, err = w.Cancel(t.Context(), testMeta, p.id, job.ID)
		require.NoError(t, err)
		require.Equal(t, StatusCancelled, job.Status)
		require.NotNil(t, job.CompletedAt)
	}
	require.Equal(t, 1, w.count(p.id, "sync.cancelled"))
}

func TestWhoWaitedLongestComesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	emails := []string{"a@example.com", "b@example.com", "c@example.com", "d@example.com"}
	var people []*person
	for _, email := range emails {
		people = append(people, w.connected(email))
	}
	request := func(i int) {
		t.Helper()
		_, _, err := w.Request(t.Context(), testMeta, people[i].id, Ask{})
		require.NoError(t, err)
	}
	next := func() string {
		t.Helper()
		claimed, err := w.claim(t.Context(), 1, time.Minute, "")
		require.NoError(t, err)
		require.Len(t, claimed, 1)
		require.Equal(t, 1, claimed[0].Attempt)
		require.NoError(t, w.fail(t.Context(), claimed[0], JobError{Code: codeInternal}))
		for i := range people {
			if people[i].id == claimed[0].UserID {
				return emails[i][:1]
			}
		}
		return ""
	}
	for _, i := range []int{1, 0, 2} { // in the order of their first requests
		request(i)
	}
	require.Equal(t, "bac", next()+next()+next())
	// Whoever asks all the time waits for those who haven't had a turn as lately, and for newcomers.
	request(2)
	request(0)
	request(1)
	request(3)
	require.Equal(t, "d", next())
	require.Equal(t, "b", next())
	request(1)
	require.Equal(t, "acb", next()+next()+next())
}

// The versions of a job count its facts: the outbox has one for each, in order.
func TestJobFacts(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	job := p.sync("", "")
	rows, err := w.db.Pool.Query(t.Context(), `SELECT body FROM outbox WHERE aggregate = $1 ORDER BY id`, "sync_job/"+job.ID)
	require.NoError(t, err)
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(t, err)
	var actions []string
	for i, body := range bodies {
		event, err := events.Decode(body)
		require.NoError(t, err)
		require.EqualValues(t, i+1, event.Version())
		actions = append(actions, event.Action())
		if completed, ok := event.Data.(events.SyncCompleted); ok {
			require.Equal(t, job.Result.APICalls, completed.APICalls)
		}
	}
	require.Equal(t, []string{"sync.requested", "sync.started", "sync.completed"}, actions)
}
