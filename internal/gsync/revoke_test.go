package gsync

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
	"fdc/internal/task"
)

// operator is the circumstance of what operators do.
var operator = events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}

// identity is the service of users on the world's database.
func (w *world) identity() *identity.Service { return identity.New(w.ob, w.workspaces, Access{}) }

// revoked counts how often Google was asked to revoke an access.
func (w *world) revoked() (n int) {
	for _, r := range w.requests() {
		if r.Path == "/revoke" {
			n++
		}
	}
	return n
}

func (w *world) disable(p *person) {
	w.t.Helper()
	_, err := w.identity().Disable(w.t.Context(), operator, p.id, "has left")
	require.NoError(w.t, err)
}

// still checks that nothing moves between the person's Google and FDC, however long runners and schedulers look for work.
func (p *person) still() {
	p.t.Helper()
	before := len(p.writes())
	p.create(task.Draft{Title: "written afterwards here"})
	p.insertThere(&tasks.Task{Title: "written afterwards there"})
	here := total(p.here())
	p.exec(`UPDATE sync_schedules SET next_at = now() WHERE user_id = $1`, p.id)
	made, err := p.makeDue(p.t.Context())
	require.NoError(p.t, err)
	require.Zero(p.t, made, "a schedule is left")
	claimed, err := p.claim(p.t.Context(), 1, time.Minute, p.id)
	require.NoError(p.t, err)
	require.Empty(p.t, claimed, "a job is left")
	require.Empty(p.t, p.writes()[before:])
	require.Equal(p.t, here, total(p.here()))
}

// A user who has been disabled has no access to Google any more, in either direction, and Google is told.
func TestNothingMovesForADisabledUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "one"})
	p.synced("", "")
	p.request("") // waits
	w.disable(p)
	require.Equal(t, 1, w.count(p.id, "sync.cancelled"))
	require.Equal(t, 1, w.count(p.id, "google.disconnected"))
	p.still()

	// A request that was under way while the user was disabled leaves a job that nobody takes.
	require.NoError(t, w.ob.Tx(t.Context(), func(tx pgx.Tx) error {
		_, _, err := enqueue(t.Context(), tx, testMeta, p.id, Ask{Type: events.SyncFull, Mode: events.SyncIncremental}, events.TriggerUser)
		return err
	}))
	p.still()

	// The syncer that is to revoke the access is killed; another one does it. No token is left.
	killed, kill := context.WithCancel(t.Context())
	w.before(func(r *http.Request) {
		if r.URL.Path == "/revoke" {
			kill()
			<-r.Context().Done()
		}
	})
	_, err := w.revokeNext(killed, "")
	require.Error(t, err)
	w.before(nil)
	require.Zero(t, w.revoked(), "Google has heard of nothing yet")
	w.exec(`UPDATE google_revocations SET next_at = now()`) // its time is over
	for _, due := range []bool{true, false} {
		found, err := w.revokeNext(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, due, found)
	}
	require.Equal(t, 1, w.revoked())
	var sealed int
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM `+allSealed+` WHERE coalesce(access_token, refresh_token) IS NOT NULL`).Scan(&sealed))
	require.Zero(t, sealed)

	// Enabled again, the user has no connection until there is a new consent.
	require.NoError(t, w.identity().Enable(t.Context(), operator, p.id, "is back"))
	_, _, err = w.Request(t.Context(), testMeta, p.id, Ask{})
	requireFault(t, err, fault.Conflict, "google-not-connected")
	require.NoError(t, w.Connect(t.Context(), testMeta, p.id, p.consent(alice, true)))
	p.synced("", "")
	p.equal()
}

// A sync that is running at the moment ends at its next page. No more than the request that is under way reaches Google.
func TestDisablingEndsARunningSync(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]struct {
		typ, part string
		nth       int32
		here, out int
	}{
		"tasks in":   {events.SyncTasks, "/lists/", 2, 2, 0},
		"tasks out":  {events.SyncTasks, "/lists/", 3, 3, 1}, // the first of two inserts is under way
		"events in":  {events.SyncCalendar, "/calendars/", 3, 2, 2},
		"events out": {events.SyncCalendar, "/calendars/", 1, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.connected(alice)
			p.insertThere(&tasks.Task{Title: "theirs"})
			start := march.Add(9 * time.Hour)
			p.create(task.Draft{Title: "ours", StartAt: &start})
			p.create(task.Draft{Title: "ours too", StartAt: &start})
			p.event("an event", march.Format(time.RFC3339), nil)
			reached, release := w.holding(at.part, at.nth)
			w.run(w.Service, RunnerConfig{})
			job := p.request(at.typ)
			<-reached
			w.disable(p)
			release()
			require.Equal(t, StatusCancelled, p.ended(job.ID).Status)
			require.Equal(t, 1, w.count(p.id, "sync.cancelled"))
			require.Equal(t, at.here, total(p.here()), "tasks here")
			require.Len(t, w.writes(), at.out, "requests that change something at Google")
			var stored int
			require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM calendar_events`).Scan(&stored))
			require.Zero(t, stored)
			p.still()
		})
	}
}

// total counts the tasks in a map of their titles.
func total(byTitle map[string][]task.Task) (n int) {
	for _, list := range byTitle {
		n += len(list)
	}
	return n
}

// Nobody connects Google for a disabled user, whose consent was under way at the moment.
func TestADisabledUserCannotConnect(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.user(alice)
	grant := p.consent(alice, true)
	w.disable(p)
	requireFault(t, w.Connect(t.Context(), testMeta, p.id, grant), fault.Forbidden, "account-disabled")
}

// A member who is removed while a sync is running gets nothing of the workspace any more, and gives it nothing.
func TestRemovalEndsARunningSync(t *testing.T) {
	t.Parallel()
	for name, nth := range map[string]int32{"before the first page": 1, "before the push": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p, owner := w.connected(alice), w.user(bob)
			p.insertThere(&tasks.Task{Title: "theirs"})
			w.exec(`INSERT INTO workspace_members (workspace_id, user_id, role) VALUES ($1, $2, 'MEMBER')`, owner.workspaceID, p.id)
			_, err := w.PutSettings(t.Context(), p.id, Settings{
				WorkspaceID: owner.workspaceID, TaskListID: defaultList, CalendarIDs: []string{}, AutoSync: true, IntervalMinutes: 15,
			})
			require.NoError(t, err)
			owner.create(task.Draft{Title: "ours"})
			reached, release := w.holding("/lists/", nth)
			w.run(w.Service, RunnerConfig{})
			job := p.request("")
			<-reached
			w.exec(`UPDATE users SET google_id = id::text`) // both can sign in
			require.NoError(t, w.workspaces.RemoveMember(t.Context(), testMeta, owner.id, owner.workspaceID, p.id))
			release()
			ended := p.ended(job.ID)
			require.Equal(t, StatusCompleted, ended.Status, "%+v", ended.Error)
			require.Contains(t, ended.Result.Warnings, warnNotMember)
			if nth == 1 {
				require.Len(t, owner.here(), 1, "theirs came in")
			}
			w.before(nil)
			owner.create(task.Draft{Title: "afterwards"})
			p.synced("", "")
			require.Empty(t, p.there()["afterwards"])
		})
	}
}
