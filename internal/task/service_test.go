package task_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// desk is a task service on a database of its own, with one workspace in which alice and bob are.
type desk struct {
	*task.Service
	db         *pgtest.DB
	ob         *outbox.Outbox
	workspaces *workspace.Service
	alice, bob string
	w          string
}

func open(t *testing.T) *desk {
	t.Helper()
	db := pgtest.New(t)
	ob := outbox.New(db.Pool, nil)
	workspaces := workspace.New(ob)
	d := &desk{Service: task.New(ob, workspaces), db: db, ob: ob, workspaces: workspaces}
	d.alice, d.bob = d.user(t, "alice@example.com"), d.user(t, "bob@example.com")
	d.w = d.workspace(t, d.alice)
	invitation, err := workspaces.Invite(t.Context(), by(d.alice), d.alice, d.w, "bob@example.com", workspace.RoleMember)
	require.NoError(t, err)
	_, err = workspaces.Accept(t.Context(), by(d.bob), d.bob, invitation.ID)
	require.NoError(t, err)
	d.db.Told(t)
	return d
}

func (d *desk) user(t *testing.T, email string) string {
	t.Helper()
	id := events.NewID()
	_, err := d.db.Pool.Exec(t.Context(), `INSERT INTO users (id, email, google_id) VALUES ($1, $2, 'g-' || $2)`, id, email)
	require.NoError(t, err)
	return id
}

func (d *desk) workspace(t *testing.T, owner string) string {
	t.Helper()
	w, err := d.workspaces.Create(t.Context(), by(owner), owner, "Demo")
	require.NoError(t, err)
	return w.ID
}

func by(userID string) events.Meta {
	return events.Meta{Source: "/fdc/api", ActorID: userID, UserID: userID}
}

func (d *desk) requireTold(t *testing.T, want ...events.Payload) {
	t.Helper()
	var got []events.Payload
	for _, ev := range d.db.Told(t) {
		got = append(got, ev.Data)
	}
	require.Equal(t, want, got)
}

func (d *desk) create(t *testing.T, draft task.Draft) task.Task {
	t.Helper()
	made, err := d.Create(t.Context(), by(d.alice), d.alice, d.w, draft)
	require.NoError(t, err)
	return made
}

func (d *desk) tx(t *testing.T, fn func(tx pgx.Tx) error) error {
	t.Helper()
	return d.ob.Tx(t.Context(), fn)
}

func requireKind(t *testing.T, want fault.Kind, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, fault.KindOf(err), "%v", err)
}

func requireFault(t *testing.T, want fault.Kind, err error) *fault.Error {
	t.Helper()
	requireKind(t, want, err)
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	return f
}

func patch(body string) json.RawMessage { return json.RawMessage(body) }

func TestTheLifeOfATask(t *testing.T) {
	t.Parallel()
	d := open(t)
	start := time.Date(2026, 3, 1, 9, 0, 0, 123456000, time.UTC)
	end := start.Add(time.Hour)
	made := d.create(t, task.Draft{
		Title: " Write ", Notes: "n", DueDate: "2026-03-02", StartAt: &start, EndAt: &end, TimeZone: "Asia/Tokyo", Suit: task.Spade,
	})
	require.Equal(t, task.Draft{
		Title: "Write", Notes: "n", Status: task.Todo, DueDate: "2026-03-02", StartAt: &start, EndAt: &end,
		TimeZone: "Asia/Tokyo", Suit: task.Spade,
	}, made.Draft)
	require.Equal(t, int64(1), made.Version)
	require.Equal(t, d.w, made.WorkspaceID)
	require.Nil(t, made.Google)
	told := d.db.Told(t)
	require.Len(t, told, 1)
	require.Equal(t, events.TaskCreated{TaskID: made.ID, WorkspaceID: d.w, Version: 1, Origin: "user"}, told[0].Data)
	require.Equal(t, d.alice, told[0].ActorID)
	require.Equal(t, d.w, told[0].WorkspaceID)
	require.Equal(t, "evt.task.created.v1."+d.w, told[0].NATSSubject())

	read, err := d.Get(t.Context(), d.bob, d.w, made.ID)
	require.NoError(t, err)
	require.Equal(t, made, read)

	changed, err := d.Patch(t.Context(), by(d.bob), d.bob, d.w, made.ID, patch(`{"status":"done","notes":null,"endAt":null,"title":"Write"}`), nil)
	require.NoError(t, err)
	require.Equal(t, int64(2), changed.Version)
	require.Equal(t, task.Draft{
		Title: "Write", Status: task.Done, DueDate: "2026-03-02", StartAt: &start, TimeZone: "Asia/Tokyo", Suit: task.Spade,
	}, changed.Draft)
	require.True(t, changed.UpdatedAt.After(made.UpdatedAt))
	d.requireTold(t, events.TaskUpdated{
		TaskID: made.ID, WorkspaceID: d.w, Version: 2, Changed: []string{"endAt", "notes", "status"}, Origin: "user",
	})
	read, err = d.Get(t.Context(), d.alice, d.w, made.ID)
	require.NoError(t, err)
	require.Equal(t, changed, read)

	// Nothing changes: no version, no event.
	for _, same := range []string{`{}`, `{"status":"done","title":" Write "}`, `{"startAt":"2026-03-01T18:00:00.123456+09:00"}`, `{"endAt":null}`} {
		got, err := d.Patch(t.Context(), by(d.bob), d.bob, d.w, made.ID, patch(same), []int64{1, 2})
		require.NoError(t, err)
		require.Equal(t, changed, got)
	}
	d.requireTold(t)

	require.NoError(t, d.Delete(t.Context(), by(d.bob), d.bob, d.w, made.ID))
	d.requireTold(t, events.TaskDeleted{TaskID: made.ID, WorkspaceID: d.w, Version: 3, Origin: "user"})
	_, err = d.Get(t.Context(), d.alice, d.w, made.ID)
	requireKind(t, fault.NotFound, err)
	_, err = d.Patch(t.Context(), by(d.alice), d.alice, d.w, made.ID, patch(`{"title":"x"}`), nil)
	requireKind(t, fault.NotFound, err)
	requireKind(t, fault.NotFound, d.Delete(t.Context(), by(d.alice), d.alice, d.w, made.ID))
	items, next, err := d.List(t.Context(), d.alice, d.w, "", 0)
	require.NoError(t, err)
	require.Empty(t, items)
	require.Empty(t, next)
	d.requireTold(t)
	var tombstone int64
	require.NoError(t, d.db.Pool.QueryRow(t.Context(),
		`SELECT version FROM tasks WHERE id = $1 AND deleted_at IS NOT NULL`, made.ID).Scan(&tombstone))
	require.Equal(t, int64(3), tombstone)
}

func TestWrongBodies(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, err := d.Create(t.Context(), by(d.alice), d.alice, d.w, task.Draft{Suit: "x"})
	require.Len(t, requireFault(t, fault.Invalid, err).Fields, 2)
	made := d.create(t, task.Draft{Title: "a"})
	d.db.Told(t)
	_, err = d.Patch(t.Context(), by(d.alice), d.alice, d.w, made.ID, patch(`{`), nil)
	requireKind(t, fault.Malformed, err)
	_, err = d.Patch(t.Context(), by(d.alice), d.alice, d.w, made.ID, patch(`{"title":"b","colour":"red"}`), nil)
	require.Equal(t, "/colour", requireFault(t, fault.Invalid, err).Fields[0].Pointer)
	// Right by itself, wrong with what is there.
	_, err = d.Patch(t.Context(), by(d.alice), d.alice, d.w, made.ID, patch(`{"endAt":"2026-03-01T09:00:00Z"}`), nil)
	require.Equal(t, "/endAt", requireFault(t, fault.Invalid, err).Fields[0].Pointer)
	for _, stale := range []int64{0, 2} {
		_, err = d.Patch(t.Context(), by(d.alice), d.alice, d.w, made.ID, patch(`{"title":"b"}`), []int64{stale})
		require.Equal(t, map[string]any{"currentVersion": int64(1)}, requireFault(t, fault.PreconditionFailed, err).Extra)
	}
	for _, cursor := range []string{"x", "!", "AAAA", "AZsx7QAAcACAAAAAAAAAAB", made.ID} {
		_, _, err = d.List(t.Context(), d.alice, d.w, cursor, 10)
		requireKind(t, fault.Malformed, err)
	}
	for _, limit := range []int{-1, 201} {
		_, _, err = d.List(t.Context(), d.alice, d.w, "", limit)
		requireKind(t, fault.Malformed, err)
	}
	d.requireTold(t)
	read, err := d.Get(t.Context(), d.alice, d.w, made.ID)
	require.NoError(t, err)
	require.Equal(t, made, read)
}

// The rules of the schema and those of Draft agree: what passes the one passes the other.
func TestTheEdgesAreStored(t *testing.T) {
	t.Parallel()
	d := open(t)
	first := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
	tick := first.Add(time.Microsecond)
	for _, draft := range []task.Draft{
		{Title: string(emoji(1024)), Notes: string(emoji(8192))},
		{Title: "a\nb\x01\u2028", Notes: "\x7f"},
		{Title: "x", DueDate: "0001-01-01", StartAt: &first, EndAt: &tick},
		{Title: "x", DueDate: "9999-12-31", StartAt: &first, EndAt: &last},
	} {
		made := d.create(t, draft)
		read, err := d.Get(t.Context(), d.alice, d.w, made.ID)
		require.NoError(t, err)
		require.Equal(t, made, read)
	}
}

// emoji is a text of so many characters, each four bytes long.
func emoji(n int) []rune {
	text := make([]rune, n)
	for i := range text {
		text[i] = '😀'
	}
	return text
}

func TestListWalksAllOnce(t *testing.T) {
	t.Parallel()
	d := open(t)
	other := d.workspace(t, d.alice)
	var want []string
	for i := range 25 {
		made := d.create(t, task.Draft{Title: fmt.Sprint(i)})
		_, err := d.Create(t.Context(), by(d.alice), d.alice, other, task.Draft{Title: "elsewhere"})
		require.NoError(t, err)
		if i%5 == 0 {
			require.NoError(t, d.Delete(t.Context(), by(d.alice), d.alice, d.w, made.ID))
			continue
		}
		want = append(want, made.ID)
	}
	for _, limit := range []int{1, 7, 19, 20, 21, 200, 0} {
		var got []string
		cursor := ""
		for page := 0; ; page++ {
			items, next, err := d.List(t.Context(), d.bob, d.w, cursor, limit)
			require.NoError(t, err)
			for _, item := range items {
				got = append(got, item.ID)
			}
			if cursor = next; next == "" {
				break
			}
			require.Len(t, items, limit)
			require.Less(t, page, 25)
		}
		require.Equal(t, want, got, limit)
	}
	// What is deleted between two pages takes nothing else with it, not even at the seam.
	items, next, err := d.List(t.Context(), d.bob, d.w, "", 5)
	require.NoError(t, err)
	require.NoError(t, d.Delete(t.Context(), by(d.alice), d.alice, d.w, items[4].ID))
	items, _, err = d.List(t.Context(), d.bob, d.w, next, 5)
	require.NoError(t, err)
	require.Equal(t, want[5], items[0].ID)
}

// A task shows what the asking user's Google holds of it, and nobody else's.
func TestGoogleLinkIsTheAskersOwn(t *testing.T) {
	t.Parallel()
	d := open(t)
	made := d.create(t, task.Draft{Title: "a"})
	synced := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	_, err := d.db.Pool.Exec(t.Context(), `
		INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, google_task_id, event_id, synced_at, error)
		VALUES ($1, $3, $4, '@default', 'gt-1', 'ev-1', $5, ''), ($2, $3, $4, '@default', NULL, NULL, NULL, 'quota')`,
		d.alice, d.bob, made.ID, d.w, synced)
	require.NoError(t, err)
	for user, want := range map[string]*task.GoogleLink{
		d.alice: {TaskID: "gt-1", EventID: "ev-1", SyncedAt: &synced},
		d.bob:   {Error: "quota"},
	} {
		got, err := d.Get(t.Context(), user, d.w, made.ID)
		require.NoError(t, err)
		require.Equal(t, want, got.Google)
		items, _, err := d.List(t.Context(), user, d.w, "", 10)
		require.NoError(t, err)
		require.Equal(t, []task.Task{got}, items)
		patched, err := d.Patch(t.Context(), by(user), user, d.w, made.ID, patch(`{"notes":"`+user+`"}`), nil)
		require.NoError(t, err)
		require.Equal(t, want, patched.Google)
	}
}

// To someone who isn't in the workspace, and through another workspace, a task is not there.
func TestAnotherTenantsTaskIsNotThere(t *testing.T) {
	t.Parallel()
	d := open(t)
	eve := d.user(t, "eve@example.com")
	own := d.workspace(t, eve)
	made := d.create(t, task.Draft{Title: "secret"})
	d.db.Told(t)
	for _, c := range []struct{ w, id string }{
		{d.w, made.ID}, {own, made.ID}, {own, events.NewID()}, {own, ""}, {own, "nonsense"}, {"nonsense", made.ID},
	} {
		_, err := d.Get(t.Context(), eve, c.w, c.id)
		requireKind(t, fault.NotFound, err)
		// Nor does the answer depend on what the patch says.
		for _, body := range []string{`{"title":"x"}`, `{"nonsense":1}`} {
			_, err = d.Patch(t.Context(), by(eve), eve, c.w, c.id, patch(body), []int64{7})
			requireKind(t, fault.NotFound, err)
		}
		requireKind(t, fault.NotFound, d.Delete(t.Context(), by(eve), eve, c.w, c.id))
	}
	for _, w := range []string{d.w, events.NewID(), "nonsense"} {
		_, _, err := d.List(t.Context(), eve, w, "", 10)
		requireKind(t, fault.NotFound, err)
		_, err = d.Create(t.Context(), by(eve), eve, w, task.Draft{Title: "x"})
		requireKind(t, fault.NotFound, err)
		_, err = d.Create(t.Context(), by(eve), eve, w, task.Draft{})
		requireKind(t, fault.NotFound, err)
	}
	// A cursor made elsewhere opens nothing.
	items, _, err := d.List(t.Context(), eve, own, "AAAAAAAAAAAAAAAAAAAAAA", 10)
	require.NoError(t, err)
	require.Empty(t, items)
	d.requireTold(t)
	read, err := d.Get(t.Context(), d.alice, d.w, made.ID)
	require.NoError(t, err)
	require.Equal(t, made, read)
}

// What a sync does obeys the same rules, tells the same facts and commits with the caller.
func TestWithinASync(t *testing.T) {
	t.Parallel()
	d := open(t)
	syncer := events.Meta{Source: "/fdc/syncer", ActorID: events.SystemActor, UserID: d.alice}
	var made task.Task
	require.NoError(t, d.tx(t, func(tx pgx.Tx) error {
		var err error
		made, err = d.CreateTx(t.Context(), tx, syncer, d.w, task.Draft{Title: "from Google"})
		return err
	}))
	d.requireTold(t, events.TaskCreated{TaskID: made.ID, WorkspaceID: d.w, Version: 1, Origin: "google"})

	update := func(change func(*task.Task) error) (got task.Task, err error) {
		err = d.tx(t, func(tx pgx.Tx) error {
			var err error
			got, err = d.UpdateTx(t.Context(), tx, syncer, d.w, made.ID, change)
			return err
		})
		return got, err
	}
	got, err := update(func(t *task.Task) error {
		t.Status, t.DueDate = task.Done, "2026-05-01"
		t.ID, t.WorkspaceID, t.Version = "other", "other", 99 // not the caller's to write
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, made.ID, got.ID)
	require.Equal(t, int64(2), got.Version)
	d.requireTold(t, events.TaskUpdated{
		TaskID: made.ID, WorkspaceID: d.w, Version: 2, Changed: []string{"dueDate", "status"}, Origin: "google",
	})
	_, err = update(func(*task.Task) error { return nil })
	require.NoError(t, err)
	_, err = update(func(t *task.Task) error { t.Title = ""; return nil })
	requireKind(t, fault.Invalid, err)
	stop := errors.New("stop")
	_, err = update(func(*task.Task) error { return stop })
	require.ErrorIs(t, err, stop)
	d.requireTold(t)

	// What the caller rolls back has not happened.
	require.ErrorIs(t, d.tx(t, func(tx pgx.Tx) error {
		require.NoError(t, d.DeleteTx(t.Context(), tx, syncer, d.w, made.ID))
		return stop
	}), stop)
	d.requireTold(t)

	remove := func(w string) error {
		return d.tx(t, func(tx pgx.Tx) error { return d.DeleteTx(t.Context(), tx, syncer, w, made.ID) })
	}
	requireKind(t, fault.NotFound, remove(events.NewID()))
	require.NoError(t, remove(d.w))
	d.requireTold(t, events.TaskDeleted{TaskID: made.ID, WorkspaceID: d.w, Version: 3, Origin: "google"})
	requireKind(t, fault.NotFound, remove(d.w))
	_, err = update(func(*task.Task) error { return nil })
	requireKind(t, fault.NotFound, err)
}

// Edits of different fields at the same moment are all kept, and each is one version.
func TestConcurrentEdits(t *testing.T) {
	t.Parallel()
	d := open(t)
	made := d.create(t, task.Draft{Title: "a"})
	d.db.Told(t)
	const rounds = 15
	edit := func(ctx context.Context, field, format string) error {
		for i := range rounds {
			body := patch(fmt.Sprintf(`{%q:`+format+`}`, field, i+1))
			if _, err := d.Patch(ctx, by(d.alice), d.alice, d.w, made.ID, body, nil); err != nil {
				return err
			}
		}
		return nil
	}
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i, c := range [][2]string{{"title", `"t%d"`}, {"notes", `"n%d"`}, {"dueDate", `"2026-01-%02d"`}, {"startAt", `"2026-01-%02dT00:00:00Z"`}} {
		wg.Go(func() { errs[i] = edit(t.Context(), c[0], c[1]) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	got, err := d.Get(t.Context(), d.alice, d.w, made.ID)
	require.NoError(t, err)
	start := time.Date(2026, 1, rounds, 0, 0, 0, 0, time.UTC)
	require.Equal(t, task.Draft{
		Title: "t15", Notes: "n15", Status: task.Todo, DueDate: "2026-01-15", StartAt: &start, Suit: task.Unclassified,
	}, got.Draft)
	require.Equal(t, int64(1+4*rounds), got.Version)
	told := d.db.Told(t)
	require.Len(t, told, 4*rounds)
	for i, ev := range told {
		require.Equal(t, int64(i+2), ev.Version())
	}
}
