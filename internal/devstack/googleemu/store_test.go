package googleemu

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gcal "google.golang.org/api/calendar/v3"
	gtasks "google.golang.org/api/tasks/v1"
)

func TestStateFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"broken": "{", "newer": `{"version":99}`} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		_, err := New(Options{File: file})
		require.ErrorContains(t, err, file)
	}
	_, err := New(Options{File: dir})
	require.Error(t, err)

	file := filepath.Join(dir, "state")
	e, err := New(Options{File: file})
	require.NoError(t, err)
	require.NoError(t, e.AddUser(ann, "Ann"))
	require.NoError(t, e.Close())
	require.NoError(t, e.Close(), "closing twice does no harm")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "tokens are in it")

	_, err = New(Options{File: filepath.Join(dir, "missing", "state")})
	require.Error(t, err, "a file that cannot be written is found out at once")
	left, err := filepath.Glob(file + ".*")
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestStateIsSavedWithoutClosing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state")
	w := &world{t: t, now: testTime}
	w.start(file)
	require.NoError(t, w.AddUser(ann, "Ann"))
	require.Eventually(t, func() bool {
		st, err := loadState(file)
		return err == nil && st.user(ann) != nil
	}, 20*time.Second, 20*time.Millisecond)
}

// TestCrashVoidsSyncTokens restarts from a file as a kill leaves it: without the newest changes, whose numbers would be given to
// others. No token of that time may be taken for one of this.
func TestCrashVoidsSyncTokens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, killed := filepath.Join(dir, "state"), filepath.Join(dir, "killed")
	w := &world{t: t, now: testTime}
	stop := w.start(file)
	require.NoError(t, w.AddUser(ann, "Ann"))
	kept := w.add(meeting(w.clock()))
	access, err := w.Token(ann)
	require.NoError(t, err)
	require.NoError(t, w.save(false))
	require.NoError(t, os.Link(file, killed), "each save makes a new file, so this one stays as it is")
	w.add(meeting(w.clock()))
	lost := list(t, w.calendar(ann).Events.List("primary")).sync
	stop()

	w.start(killed)
	api := w.calendarWith(w.with(access))
	_, err = api.Events.List("primary").SyncToken(lost).Context(t.Context()).Do()
	refused(t, err, http.StatusGone, "fullSyncRequired")
	full := list(t, api.Events.List("primary"))
	require.Equal(t, []string{kept}, full.ids())
	added := w.add(meeting(w.clock()))
	require.Equal(t, []string{added}, list(t, api.Events.List("primary").SyncToken(full.sync)).ids())
	_, err = api.Events.List("primary").SyncToken(lost).Context(t.Context()).Do()
	refused(t, err, http.StatusGone, "fullSyncRequired")
}

// TestManyClientsAtOnce drives writers, readers and savers together; each reader must end with exactly what was written.
func TestManyClientsAtOnce(t *testing.T) {
	t.Parallel()
	w := &world{t: t, now: testTime}
	w.start(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, w.AddUser(ann, "Ann"))
	api, lists := w.calendar(ann), w.tasks(ann)
	token := list(t, api.Events.List("primary")).sync

	const writers, each = 4, 25
	var wg sync.WaitGroup
	errs := make(chan error, 4*writers*each)
	for n := range writers {
		wg.Go(func() {
			for i := range each {
				ev := w.newEvent()
				ev.Id = fmt.Sprintf("fdc%dv%03d", n, i)
				_, err := api.Events.Insert("primary", ev).Context(t.Context()).Do()
				errs <- err
				_, err = api.Events.Patch("primary", ev.Id, &gcal.Event{Summary: "patched"}).Context(t.Context()).Do()
				errs <- err
				_, err = lists.Tasks.Insert("@default", &gtasks.Task{Title: ev.Id}).Context(t.Context()).Do()
				errs <- err
			}
		})
		wg.Go(func() {
			for range each {
				_, err := api.Events.List("primary").SingleEvents(true).MaxResults(10).Context(t.Context()).Do()
				errs <- err
			}
		})
	}
	written := make(chan struct{})
	go func() {
		wg.Wait()
		close(written)
	}()
	seen := map[string]string{}
	for last := false; !last; {
		select {
		case <-written:
			last = true // one more delta has the rest
		default:
		}
		delta := list(t, api.Events.List("primary").SyncToken(token).MaxResults(7))
		token = delta.sync
		for _, ev := range delta.items {
			seen[ev.Id] = ev.Summary
		}
	}
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, seen, writers*each)
	for id, summary := range seen {
		require.Equal(t, "patched", summary, id)
	}
	require.Len(t, titles(t, lists.Tasks.List("@default").MaxResults(100)), writers*each)
}

func TestSnapshotsAreForgottenOldestFirst(t *testing.T) {
	t.Parallel()
	p := newPageStore()
	first := p.add(&snapshot{rows: make([]row, maxSnapshotRows/2)})
	second := p.add(&snapshot{rows: make([]row, maxSnapshotRows/2)})
	require.Len(t, p.byID, 2)
	third := p.add(&snapshot{rows: make([]row, 1)})
	require.NotContains(t, p.byID, first)
	require.Contains(t, p.byID, second)
	require.Equal(t, maxSnapshotRows/2+1, p.rows)
	huge := p.add(&snapshot{rows: make([]row, 2*maxSnapshotRows)})
	require.NotContains(t, p.byID, third)
	require.Contains(t, p.byID, huge, "the newest stays, however large")
	for range maxSnapshots + 1 {
		p.add(&snapshot{})
	}
	require.Len(t, p.byID, maxSnapshots)
	require.Len(t, p.order, maxSnapshots)
	require.Zero(t, p.rows)
}

// FuzzTokens: a token that this emulator did not make is never taken for one.
func FuzzTokens(f *testing.F) {
	st := emptyState()
	f.Add(st.seal("page", pageToken{Snapshot: "x"}))
	f.Add("")
	f.Add("AAAAAAAAAAAAAAAAe30=")
	f.Fuzz(func(t *testing.T, token string) {
		var got syncToken
		if st.open("sync", token, &got) {
			t.Fatalf("%q was taken for %+v", token, got)
		}
		sealed := st.seal("sync", syncToken{User: token, Seq: int64(len(token))})
		if !st.open("sync", sealed, &got) {
			t.Fatalf("%q was not taken back", sealed)
		}
	})
}

func TestUnknownPathsAreLoggedToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.Equal(t, http.StatusNotFound, w.get(w.base+"/gmail/v1/users/me/messages").status)
	require.Len(t, w.requests("0"), 1)
}
