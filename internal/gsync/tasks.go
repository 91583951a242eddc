package gsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/task"
)

// Bounds of a sync of tasks.
const (
	taskPage = 100 // Google's own
	// overlap is read again with every delta: changes may become visible in another order than that of their times.
	overlap = 5 * time.Minute
	// searchMargin is how far before an intent its insert is searched for, whatever the two clocks think.
	searchMargin = 10 * time.Minute
)

// taskSync is the two-way sync of a workspace's tasks with a list.
type taskSync struct {
	*run
	pair
	resource   string
	generation int64     // of a full read; 0 for a delta
	latest     time.Time // change seen
	done       int64
	gone       bool // the list is no more, or not to be trusted
}

// taskSteps are the pull and then the push: what Google has is known before anything is written to it.
func (r *run) taskSteps() []step {
	t := &taskSync{run: r}
	return []step{t.pull, t.push}
}

func (t *taskSync) pull(ctx context.Context) (finish, error) {
	listID, err := t.list(ctx)
	if isClass(err, classNotFound) {
		t.leave()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t.pair = pair{owner: t.job.UserID, workspaceID: t.settings.WorkspaceID, listID: listID}
	t.resource = "tasks:" + t.workspaceID + ":" + listID
	cursor, err := readCursor(ctx, t.s.ob.Pool(), t.owner, t.resource)
	if err != nil {
		return nil, err
	}
	var since time.Time
	if cursor.UpdatedMin != nil && !cursor.aged(t.owner) && t.job.Mode != events.SyncResync {
		since = cursor.UpdatedMin.Add(-overlap)
	} else if err := t.begin(ctx); err != nil {
		return nil, err
	}
	err = t.pages(ctx, since, func(page []remoteTask) error {
		t.done += int64(len(page))
		t.progress(ctx, phaseTasks, t.done, 0)
		return t.apply(ctx, page)
	})
	if isClass(err, classNotFound) {
		t.leave()
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pull tasks: %w", err)
	}
	if t.generation == 0 {
		return func(ctx context.Context, tx pgx.Tx, _ *Result) error {
			return saveUpdatedMin(ctx, tx, t.owner, t.resource, t.latest)
		}, nil
	}
	if err := t.sweep(ctx); err != nil || t.gone {
		return nil, err
	}
	return func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		return endFull(ctx, tx, t.owner, t.resource, "", orNil(t.latest))
	}, nil
}

// leave gives up on a list that isn't there. Its tasks stay: a list that went is no wish to delete them here.
func (t *taskSync) leave() {
	t.gone = true
	t.warn("Tasks were left out: the chosen task list no longer exists at Google.")
}

// list is the id of the chosen list. The alias is resolved once: links must not depend on what it stands for.
func (t *taskSync) list(ctx context.Context) (string, error) {
	if t.settings.TaskListID != defaultList {
		return t.settings.TaskListID, nil
	}
	if t.account.DefaultTaskList != "" {
		return t.account.DefaultTaskList, nil
	}
	list, err := call(ctx, t.client, idempotent, func() (*tasks.TaskList, error) {
		return t.client.tasks.Tasklists.Get(defaultList).Context(ctx).Do()
	})
	if err != nil {
		return "", fmt.Errorf("find the default task list: %w", err)
	}
	return list.Id, t.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		_, err := tx.Exec(ctx, `UPDATE google_accounts SET default_task_list = $2 WHERE user_id = $1`, t.job.UserID, list.Id)
		if err != nil {
			return fmt.Errorf("save the default task list: %w", err)
		}
		return nil
	})
}

// begin begins a full read. Links lead to one list at a time: what was read of others is no place to go on from.
func (t *taskSync) begin(ctx context.Context) error {
	return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		_, err := tx.Exec(ctx, `
			UPDATE sync_state SET updated_min = NULL WHERE user_id = $1 AND starts_with(resource, $2) AND resource <> $3`,
			t.owner, "tasks:"+t.workspaceID+":", t.resource)
		if err != nil {
			return fmt.Errorf("leave other task lists: %w", err)
		}
		t.generation, err = beginFull(ctx, tx, t.owner, t.resource)
		return err
	})
}

// pages lists what changed since a time, everything for the zero time, deleted and hidden tasks too.
func (t *taskSync) pages(ctx context.Context, since time.Time, page func([]remoteTask) error) error {
	for token := ""; ; {
		got, err := call(ctx, t.client, idempotent, func() (*tasks.Tasks, error) {
			list := t.client.tasks.Tasks.List(t.listID).MaxResults(taskPage).
				ShowCompleted(true).ShowHidden(true).ShowDeleted(true).ShowAssigned(true).Context(ctx)
			if !since.IsZero() {
				list.UpdatedMin(since.UTC().Format(time.RFC3339Nano))
			}
			if token != "" {
				list.PageToken(token)
			}
			got, err := list.Do()
			if err == nil && token != "" && got.NextPageToken == token {
				return nil, errPage
			}
			return got, err
		})
		if err != nil {
			return err
		}
		remotes := make([]remoteTask, 0, len(got.Items))
		for _, item := range got.Items {
			if item == nil || item.Id == "" {
				continue
			}
			r := newRemoteTask(item)
			if r.Updated.After(t.latest) {
				t.latest = r.Updated
			}
			remotes = append(remotes, r)
		}
		if err := page(remotes); err != nil {
			return err
		}
		if token = got.NextPageToken; token == "" {
			return nil
		}
	}
}

// apply brings a page of Google's tasks in.
func (t *taskSync) apply(ctx context.Context, page []remoteTask) error {
	if len(page) == 0 {
		return nil
	}
	ids := make([]string, len(page))
	for i := range page {
		ids[i] = page[i].ID
	}
	return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
		links, err := t.linksOf(ctx, tx, ids)
		if err != nil {
			return err
		}
		byID := make(map[string]remoteTask, len(page))
		for _, r := range page {
			byID[r.ID] = r
		}
		for _, l := range links {
			r := byID[l.GoogleTaskID]
			delete(byID, l.GoogleTaskID)
			if r.Deleted {
				_, err = t.deletedThere(ctx, tx, d, l, r.Updated)
			} else if r.fields != l.base() {
				err = t.changedThere(ctx, tx, d, l, r)
			}
			if err != nil {
				return err
			}
		}
		if t.generation != 0 {
			if err := t.mark(ctx, tx, ids, t.generation); err != nil {
				return err
			}
		}
		return t.arrived(ctx, tx, d, unlinked(page, byID))
	})
}

// unlinked are the tasks of the page that are still in the map, each once, in the page's order.
func unlinked(page []remoteTask, byID map[string]remoteTask) []remoteTask {
	var fresh []remoteTask
	for _, r := range page {
		if last, ok := byID[r.ID]; ok {
			fresh = append(fresh, last)
			delete(byID, r.ID)
		}
	}
	return fresh
}

// later reports whether Google's change came after ours, with Google's clock read against ours.
func (t *taskSync) later(theirs, ours time.Time) bool { return theirs.Add(-t.skew()).After(ours) }

// changedThere merges a task that Google has otherwise than when last heard of.
func (t *taskSync) changedThere(ctx context.Context, tx pgx.Tx, d *Result, l link, r remoteTask) error {
	var before int64
	var clash bool
	after, err := t.s.tasks.UpdateTx(ctx, tx, t.meta, t.workspaceID, l.TaskID, func(local *task.Task) error {
		before = local.Version
		var merged fields
		merged, clash = merge(l.baseOf(r.fields), localFields(local.Draft), r.fields, t.later(r.Updated, local.UpdatedAt))
		merged.writeTo(&local.Draft)
		return nil
	})
	if fault.KindOf(err) == fault.NotFound {
		return t.deletedHere(ctx, tx, d, l, r)
	}
	if err != nil {
		return err
	}
	if after.Version != before {
		d.Tasks.Updated++
	}
	if clash {
		d.Tasks.Conflicts++
	}
	return t.save(ctx, tx, l.TaskID, r, versionInSync(after, r.fields), t.generation)
}

// versionInSync is the task's version when Google has the same of it, 0 when there is something to push.
func versionInSync(t task.Task, google fields) int64 {
	if localFields(t.Draft) == google {
		return t.Version
	}
	return 0
}

// deletedHere decides about a task that was deleted here and changed at Google since. The later of the two counts: a
// change that came after the deletion is a task of its own now; the deletion is pushed otherwise.
func (t *taskSync) deletedHere(ctx context.Context, tx pgx.Tx, d *Result, l link, r remoteTask) error {
	local, found, err := lockLocal(ctx, tx, l.TaskID)
	if err != nil {
		return err
	}
	if found && local.DeletedAt != nil && (r.fields == l.baseOf(r.fields) || !t.later(r.Updated, *local.DeletedAt)) {
		return t.save(ctx, tx, l.TaskID, r, 0, t.generation)
	}
	d.Tasks.Conflicts++
	if err := t.unlink(ctx, tx, l.TaskID); err != nil {
		return err
	}
	return t.create(ctx, tx, d, r)
}

// deletedThere decides about a task that Google has no more: it is deleted here too, unless it was changed here since.
// Then it stays, kept is true, and it is pushed as a new one.
func (t *taskSync) deletedThere(ctx context.Context, tx pgx.Tx, d *Result, l link, at time.Time) (kept bool, err error) {
	local, found, err := lockLocal(ctx, tx, l.TaskID)
	if err != nil {
		return false, err
	}
	if found && local.DeletedAt == nil {
		if local.Version != l.SyncedVersion && (at.IsZero() || !t.later(at, local.UpdatedAt)) {
			kept = true
			d.Tasks.Conflicts++
		} else {
			if err := t.s.tasks.DeleteTx(ctx, tx, t.meta, t.workspaceID, l.TaskID); err != nil {
				return false, err
			}
			d.Tasks.Deleted++
		}
	}
	return kept, t.unlink(ctx, tx, l.TaskID)
}

// arrived takes in tasks of Google's that aren't linked: an insert of ours whose answer was lost, on a full read a task
// that both sides have had the same all along, or a new one.
func (t *taskSync) arrived(ctx context.Context, tx pgx.Tx, d *Result, fresh []remoteTask) error {
	if len(fresh) == 0 {
		return nil
	}
	fresh, err := t.adopt(ctx, tx, d, fresh)
	if err != nil {
		return err
	}
	fresh = slices.DeleteFunc(fresh, func(r remoteTask) bool { return r.Deleted })
	if t.generation != 0 && len(fresh) > 0 {
		if fresh, err = t.pairUp(ctx, tx, fresh); err != nil {
			return err
		}
	}
	for _, r := range fresh {
		if err := t.create(ctx, tx, d, r); err != nil {
			return err
		}
	}
	return nil
}

// adopt links what intents of ours have become, and returns the rest.
func (t *taskSync) adopt(ctx context.Context, tx pgx.Tx, d *Result, fresh []remoteTask) ([]remoteTask, error) {
	intents, err := t.intents(ctx, tx)
	if err != nil {
		return nil, err
	}
	for _, l := range intents {
		i := t.outcome(l, fresh)
		if i < 0 {
			continue
		}
		r := fresh[i]
		fresh = slices.Delete(slices.Clone(fresh), i, i+1)
		d.Tasks.Pushed++
		if r.Deleted {
			_, err = t.deletedThere(ctx, tx, d, l, r.Updated)
		} else {
			err = t.changedThere(ctx, tx, d, l, r)
		}
		if err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// outcome finds what an intent has become, -1 for nothing that is here. It is what was to be inserted; or its user was there before
// we were, and has changed it since or deleted it.
func (t *taskSync) outcome(l link, fresh []remoteTask) int {
	i := slices.IndexFunc(fresh, func(r remoteTask) bool { return !r.Deleted && r.fields == l.base() })
	if i >= 0 {
		return i
	}
	return slices.IndexFunc(fresh, func(r remoteTask) bool {
		return t.later(r.Updated, *l.IntendedAt) && (r.fields == l.base() || !r.Deleted && r.resembles(l.base()))
	})
}

// pairUp links tasks that are the same on both sides, and returns the rest.
func (t *taskSync) pairUp(ctx context.Context, tx pgx.Tx, fresh []remoteTask) ([]remoteTask, error) {
	titles := make([]string, len(fresh))
	for i := range fresh {
		titles[i] = fresh[i].Title
	}
	twins, err := t.twins(ctx, tx, titles)
	if err != nil || len(twins) == 0 {
		return fresh, err
	}
	same := make(map[fields][]localTask, len(twins))
	for _, local := range twins {
		same[local.fields] = append(same[local.fields], local)
	}
	var rest []remoteTask
	for _, r := range fresh {
		of := same[r.fields]
		if len(of) == 0 {
			rest = append(rest, r)
			continue
		}
		same[r.fields] = of[1:]
		if err := t.save(ctx, tx, of[0].ID, r, of[0].Version, t.generation); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// create makes a task of ours from one of Google's.
func (t *taskSync) create(ctx context.Context, tx pgx.Tx, d *Result, r remoteTask) error {
	var draft task.Draft
	r.writeTo(&draft)
	made, err := t.s.tasks.CreateTx(ctx, tx, t.meta, t.workspaceID, draft)
	if fault.KindOf(err) == fault.Invalid {
		// remoteFields leaves nothing that the rules of a task refuse; should they change, one task is left out, not all.
		d.Tasks.Failed++
		d.Warnings = append(d.Warnings, "A task at Google could not be taken in: "+r.ID)
		return nil
	}
	if err != nil {
		return err
	}
	d.Tasks.Created++
	return t.save(ctx, tx, made.ID, r, made.Version, t.generation)
}

// sweep deletes what a full read has not seen: it is no more, or in another list.
func (t *taskSync) sweep(ctx context.Context) error {
	unseen, all, err := t.unseen(ctx, t.s.ob.Pool(), t.generation)
	if err != nil || unseen == 0 {
		return err
	}
	if !t.sweeps("synced tasks", unseen, all) {
		t.gone = true
		return nil
	}
	for {
		var swept int
		err := t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
			links, err := t.links(ctx, tx, `google_task_id IS NOT NULL AND generation < $4 ORDER BY task_id LIMIT $5`, t.generation, taskPage)
			if err != nil {
				return err
			}
			swept = len(links)
			for _, l := range links {
				if _, err := t.deletedThere(ctx, tx, d, l, time.Time{}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || swept < taskPage {
			return err
		}
	}
}

// push brings what changed here to Google.
func (t *taskSync) push(ctx context.Context) (finish, error) {
	if t.gone {
		return nil, nil
	}
	after, done, total := nilUUID, int64(0), int64(0)
	for {
		out, err := t.outgoing(ctx, t.s.ob.Pool(), after, taskPage)
		if err != nil {
			return nil, err
		}
		if done == 0 {
			total = int64(len(out))
		}
		if done == 0 && len(out) == taskPage {
			if total, err = t.countOutgoing(ctx, t.s.ob.Pool()); err != nil {
				return nil, err
			}
		}
		for _, o := range out {
			if err := t.pushOne(ctx, o); err != nil {
				return nil, fmt.Errorf("push task %s: %w", o.ID, err)
			}
			done++
			t.progress(ctx, phasePush, done, max(done, total))
			after = o.ID
		}
		if len(out) < taskPage {
			return nil, nil
		}
	}
}

const nilUUID = "00000000-0000-0000-0000-000000000000"

// pushOne pushes one task. What Google refuses is marked on the task and left for the next sync.
func (t *taskSync) pushOne(ctx context.Context, o outgoing) error {
	var err error
	switch {
	case o.DeletedAt != nil:
		err = t.pushDeletion(ctx, o)
	case o.GoogleTaskID == "" || o.Elsewhere:
		err = t.insert(ctx, o.localTask)
	case o.fields == o.base() && o.Sent == nil:
		// Something changed that Google Tasks doesn't have.
		return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error { return t.settled(ctx, tx, o.ID, o.Version) })
	default:
		err = t.pushChange(ctx, o)
	}
	if isClass(err, classPermanent) || isClass(err, classNotFound) || isClass(err, classConflict) || isClass(err, classStale) {
		why := refusal(err)
		return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
			d.Tasks.Failed++
			d.Warnings = append(d.Warnings, "Google did not take a task: "+why)
			return t.refuse(ctx, tx, o.ID, why)
		})
	}
	return err
}

// refusal is what Google said, as people may read it.
func refusal(err error) string {
	if answer, ok := errors.AsType[*googleapi.Error](err); ok && answer.Message != "" {
		return shorten(clean(strings.TrimSpace(answer.Message)), 200)
	}
	return "no reason given"
}

// insert makes the task at Google. It is journalled first; when the answer is lost, the list is searched for it before
// anything is sent again.
func (t *taskSync) insert(ctx context.Context, local localTask) error {
	for try := 1; ; try++ {
		started := time.Now()
		err := t.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error {
			return t.intend(ctx, tx, local.ID, local.fields)
		})
		if err != nil {
			return err
		}
		made, err := call(ctx, t.client, once, func() (*tasks.Task, error) {
			return t.client.tasks.Tasks.Insert(t.listID, local.googleTask()).Context(ctx).Do()
		})
		if err == nil {
			return t.record(ctx, local, newRemoteTask(made))
		}
		if err := t.unanswered(ctx, err, try); err != nil {
			return err
		}
		if done, err := t.search(ctx, local.ID, started.Add(t.skew()-searchMargin)); err != nil || done {
			return err
		}
	}
}

// search looks for the outcome of an insert whose answer was lost, and reports whether there is nothing left to insert.
func (t *taskSync) search(ctx context.Context, taskID string, since time.Time) (done bool, err error) {
	latest := t.latest // what a search sees has not been pulled
	defer func() { t.latest = latest }()
	err = t.pages(ctx, since, func(page []remoteTask) error {
		ids := make([]string, len(page))
		for i := range page {
			ids[i] = page[i].ID
		}
		return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
			taken, err := t.linksOf(ctx, tx, ids)
			if err != nil {
				return err
			}
			_, err = t.adopt(ctx, tx, d, slices.DeleteFunc(page, func(r remoteTask) bool {
				return slices.ContainsFunc(taken, func(l link) bool { return l.GoogleTaskID == r.ID })
			}))
			return err
		})
	})
	if err == nil {
		err = t.s.ob.Pool().QueryRow(ctx, `
			SELECT NOT EXISTS (SELECT FROM tasks t LEFT JOIN google_task_links l ON l.user_id = $1 AND l.task_id = t.id
				WHERE t.id = $2 AND t.deleted_at IS NULL AND l.google_task_id IS NULL)`, t.owner, taskID).Scan(&done)
	}
	if err != nil {
		return false, fmt.Errorf("search for an insert: %w", err)
	}
	return done, nil
}

// pushChange brings a changed task to Google, after a look at what Google has now: nothing says that it heeds If-Match. The change is
// journalled first; when its answer is lost, Google is looked at again before anything is sent again, for its user may have been there
// in between.
func (t *taskSync) pushChange(ctx context.Context, o outgoing) error {
	for try := 1; ; try++ {
		current, err := t.get(ctx, o.GoogleTaskID)
		if err != nil {
			return err
		}
		if current.Deleted {
			return t.goneThere(ctx, o, current)
		}
		local := o.localTask
		if current.fields != o.base() || o.Sent != nil {
			err := t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
				if err := t.changedThere(ctx, tx, d, o.link, current); err != nil {
					return err
				}
				var err error
				local, _, err = lockLocal(ctx, tx, o.ID)
				return err
			})
			if err != nil || local.DeletedAt != nil || local.fields == current.fields {
				return err
			}
		}
		err = t.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error { return t.send(ctx, tx, o.ID, local.fields) })
		if err != nil {
			return err
		}
		change := local.patch(current.fields)
		changed, err := call(ctx, t.client, once, func() (*tasks.Task, error) {
			return t.client.tasks.Tasks.Patch(t.listID, o.GoogleTaskID, change).Context(ctx).Do()
		})
		if err == nil {
			return t.record(ctx, local, newRemoteTask(changed))
		}
		if err := t.unanswered(ctx, err, try); err != nil {
			return err
		}
		o.localTask, o.Snapshot, o.Sent = local, &current.fields, &local.fields
	}
}

// goneThere decides about a task that has changed here and was deleted at Google.
func (t *taskSync) goneThere(ctx context.Context, o outgoing, current remoteTask) error {
	var kept bool
	err := t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
		var err error
		kept, err = t.deletedThere(ctx, tx, d, o.link, current.Updated)
		return err
	})
	if err != nil || !kept {
		return err
	}
	return t.insert(ctx, o.localTask)
}

// unanswered waits after a write whose answer was lost. It returns err when that is no such failure, or one too many.
func (t *taskSync) unanswered(ctx context.Context, err error, try int) error {
	f, ok := errors.AsType[*failure](err)
	if !ok || !f.unknown || try == maxTries || f.retryAfter > maxPause {
		return err
	}
	return pause(ctx, max(f.retryAfter, t.s.jitter(try)))
}

// get reads a task at Google; one that isn't there is a deleted one.
func (t *taskSync) get(ctx context.Context, id string) (remoteTask, error) {
	got, err := call(ctx, t.client, idempotent, func() (*tasks.Task, error) {
		return t.client.tasks.Tasks.Get(t.listID, id).Context(ctx).Do()
	})
	if isClass(err, classNotFound) || isClass(err, classGone) {
		return remoteTask{ID: id, Deleted: true}, nil
	}
	if err != nil {
		return remoteTask{}, err
	}
	return newRemoteTask(got), nil
}

// record stores what Google has made of a push. What it has made otherwise than asked is taken over, unless the task was
// changed again meanwhile.
func (t *taskSync) record(ctx context.Context, sent localTask, answer remoteTask) error {
	return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
		d.Tasks.Pushed++
		version := sent.Version
		if answer.fields != sent.fields {
			after, err := t.s.tasks.UpdateTx(ctx, tx, t.meta, t.workspaceID, sent.ID, func(local *task.Task) error {
				merged, _ := merge(sent.fields, localFields(local.Draft), answer.fields, false)
				merged.writeTo(&local.Draft)
				return nil
			})
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return err
			}
			version = versionInSync(after, answer.fields)
		}
		return t.save(ctx, tx, sent.ID, answer, version, 0)
	})
}

// pushDeletion deletes a task at Google, unless it was changed there after it was deleted here.
func (t *taskSync) pushDeletion(ctx context.Context, o outgoing) error {
	if err := t.tx(ctx, nil); err != nil { // before Google is asked to change anything
		return err
	}
	current, err := t.get(ctx, o.GoogleTaskID)
	if err != nil {
		return err
	}
	if !current.Deleted && current.fields != o.baseOf(current.fields) && t.later(current.Updated, *o.DeletedAt) {
		return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
			return t.deletedHere(ctx, tx, d, o.link, current)
		})
	}
	pushed := int64(0)
	if !current.Deleted {
		_, err := call(ctx, t.client, idempotent, func() (struct{}, error) {
			return struct{}{}, t.client.tasks.Tasks.Delete(t.listID, o.GoogleTaskID).Context(ctx).Do()
		})
		if err != nil && !isClass(err, classNotFound) && !isClass(err, classGone) {
			return err
		}
		pushed = 1
	}
	return t.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
		d.Tasks.Pushed += pushed
		return t.unlink(ctx, tx, o.ID)
	})
}
