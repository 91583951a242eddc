package httpapi

import (
	"net/http"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"fdc/internal/gsync"
	"fdc/internal/platform/flags"
)

// TaskList is a task list at Google.
type TaskList struct {
	ID    string `json:"id"    doc:"Google's id."`
	Title string `json:"title" doc:"Its name."`
}

// Calendar is a calendar at Google.
type Calendar struct {
	ID         string `json:"id"         doc:"Google's id."`
	Title      string `json:"title"      doc:"Its name."`
	TimeZone   string `json:"timeZone"   doc:"Its IANA zone."`
	Color      string `json:"color"      doc:"As #rrggbb."`
	AccessRole string `json:"accessRole" doc:"What the user may do in it, in Google's words."`
	Primary    bool   `json:"primary"    doc:"Whether it is the one that timed tasks go to."`
	Selected   bool   `json:"selected"   doc:"Whether the user sees it at Google."`
}

// SyncSettings say what is synced with Google, and how often.
type SyncSettings struct {
	WorkspaceID     string   `json:"workspaceId"     format:"uuid" doc:"Where the tasks live."`
	TaskListID      string   `json:"taskListId"      doc:"The task list at Google; @default for the first."`
	CalendarIDs     []string `json:"calendarIds"     max:"50" doc:"The calendars that are read."`
	AutoSync        bool     `json:"autoSync"        doc:"Whether syncs run by themselves."`
	IntervalMinutes int      `json:"intervalMinutes" min:"5" max:"1440" doc:"How often."`
}

// SyncRequest asks for a sync.
type SyncRequest struct {
	Type  string `json:"type,omitempty" enum:"tasks|calendar|full" doc:"What; full, when left out, is both."`
	Mode  string `json:"mode,omitempty" enum:"incremental|resync" doc:"Only what changed, when left out, or all anew."`
	Force bool   `json:"force,omitempty" doc:"With resync: delete here what Google lists no more even when that is more than half of over 20 items, which otherwise fails with the code sweep_guard."`
}

// SyncQueued says that a sync will run.
type SyncQueued struct {
	Status    string `json:"status"    enum:"queued" doc:"Always queued."`
	JobID     string `json:"jobId"     format:"uuid" doc:"What to ask for later."`
	Message   string `json:"message"   doc:"For people."`
	Coalesced bool   `json:"coalesced" doc:"Whether a job that was waiting already took the request on."`
}

// SyncJob is one sync, from the request to its end.
type SyncJob struct {
	JobID       string        `json:"jobId"       format:"uuid" doc:"The job."`
	Type        string        `json:"type"        enum:"tasks|calendar|full" doc:"What it syncs."`
	Mode        string        `json:"mode"        enum:"incremental|resync" doc:"Only what changed, or all anew."`
	Status      string        `json:"status"      enum:"pending|processing|completed|failed|cancelled" doc:"The last three are its end."`
	CreatedAt   time.Time     `json:"createdAt"   doc:"When it was asked for."`
	StartedAt   *time.Time    `json:"startedAt"   doc:"When the latest attempt began."`
	CompletedAt *time.Time    `json:"completedAt" doc:"When it ended, however."`
	Attempt     int           `json:"attempt"     min:"0" doc:"How many attempts there were."`
	Progress    *SyncProgress `json:"progress"    doc:"How far it is."`
	Result      *SyncResult   `json:"result"      doc:"What it did."`
	Error       *SyncError    `json:"error"       doc:"Why the latest attempt that failed did."`
}

// SyncProgress is how far a sync is.
type SyncProgress struct {
	Phase string `json:"phase" doc:"What it is doing."`
	Done  int64  `json:"done"  min:"0" doc:"Items handled in this phase."`
	Total int64  `json:"total" min:"0" doc:"Items known in this phase; 0 while unknown."`
}

// SyncResult is what a sync did, over all its attempts.
type SyncResult struct {
	Tasks    SyncCounts `json:"tasks"    doc:"To tasks."`
	Calendar SyncCounts `json:"calendar" doc:"To calendar events."`
	APICalls int64      `json:"apiCalls" min:"0" doc:"Requests to Google."`
	Warnings []string   `json:"warnings" doc:"What was left out, and why."`
}

// SyncCounts is what one kind of sync did.
type SyncCounts struct {
	Created   int64 `json:"created"   min:"0" doc:"Made here, found at Google."`
	Updated   int64 `json:"updated"   min:"0" doc:"Changed here after a change at Google."`
	Deleted   int64 `json:"deleted"   min:"0" doc:"Deleted here after a deletion at Google."`
	Pushed    int64 `json:"pushed"    min:"0" doc:"Made, changed or deleted at Google."`
	Conflicts int64 `json:"conflicts" min:"0" doc:"Changed on both sides since the last sync."`
	Failed    int64 `json:"failed"    min:"0" doc:"Refused by Google and left for the next sync."`
}

// SyncError is why an attempt failed.
type SyncError struct {
	Code      string `json:"code"      doc:"Stable."`
	Message   string `json:"message"   doc:"For people."`
	Retryable bool   `json:"retryable" doc:"Whether asking again may help."`
}

// SyncStatus is a user's sync at a glance.
type SyncStatus struct {
	Enabled      bool       `json:"enabled"      doc:"Whether syncs run by themselves."`
	State        string     `json:"state"        enum:"disconnected|pending_first_sync|ok|syncing|stale|reauth_required" doc:"How it is."`
	LastSyncedAt *time.Time `json:"lastSyncedAt" doc:"When a sync completed last."`
	Scopes       []string   `json:"scopes"       doc:"What the user allowed."`
	TokenExpired bool       `json:"tokenExpired" doc:"Whether only the user can renew the access."`
	ActiveJobID  *string    `json:"activeJobId"  format:"uuid" doc:"The job that runs or waits."`
}

// maxSync is how long a sync may take that runs before the answer.
const maxSync = 5 * time.Minute

func googleRoutes() []route {
	const tag, sync = "google", "/api/google/sync"
	conflict := []int{http.StatusConflict} // Google isn't connected, or doesn't allow it
	job := func(required bool) param {
		p := textParam("jobId", "A job of the user's.", 64)
		p.required, p.schema = required, &jsonschema.Schema{Type: "string", Format: "uuid"}
		return p
	}
	request := jsonBody[SyncRequest](smallBody)
	request.optional = true
	return []route{
		{
			method: http.MethodGet, path: "/api/google/connect", id: "connectGoogle", tag: tag,
			summary: "Allow, or allow again, Google Tasks and Calendar.",
			query: []param{
				redirectParam(),
				flagParam("switch", "Take another Google account than before. Without it, one that differs changes nothing, and the browser "+
					"comes back with ?error=google_account_differs."),
			},
			answers: []answer{toGoogle, aStep},
			reauth: &reauth{when: "with switch=true", needed: func(c *call) bool {
				another, _ := value[bool](c, "switch")
				return another
			}},
			handle: (*api).connectGoogle,
		},
		{
			method: http.MethodPost, path: "/api/google/disconnect", id: "disconnectGoogle", tag: tag,
			summary: "Revoke FDC's access at Google and forget it.",
			answers: []answer{empty(http.StatusNoContent, "It is forgotten.")},
			handle:  (*api).disconnectGoogle,
		},
		{
			method: http.MethodPost, path: "/api/google/webhook", id: "googleWebhook", tag: tag, public: true, charges: true,
			summary: "Where Google tells of changes in a calendar.",
			headers: []header{
				{"X-Goog-Channel-ID", "The channel that FDC opened."},
				{"X-Goog-Channel-Token", "What FDC gave Google with it; 404 when it is another."},
				{"X-Goog-Resource-ID", "What the channel is about."},
				{"X-Goog-Resource-State", "sync, exists or not_exists."},
				{"X-Goog-Message-Number", "Rises with each notification of the channel."},
				{"X-Goog-Channel-Expiration", "When the channel ends."},
			},
			answers: []answer{empty(http.StatusNoContent, "It is noted.")},
			faults:  []int{http.StatusNotFound},
			handle:  (*api).googleWebhook,
		},
		{
			method: http.MethodGet, path: "/api/google/tasklists", id: "listTaskLists", tag: tag, query: paging(), faults: conflict,
			summary: "The user's task lists at Google.",
			answers: []answer{ok[Page[TaskList]](http.StatusOK, "A page of them.")},
			handle:  (*api).listTaskLists,
		},
		{
			method: http.MethodGet, path: "/api/google/calendars", id: "listCalendars", tag: tag, query: paging(), faults: conflict,
			summary: "The user's calendars at Google.",
			answers: []answer{ok[Page[Calendar]](http.StatusOK, "A page of them.")},
			handle:  (*api).listCalendars,
		},
		{
			method: http.MethodGet, path: "/api/google/settings", id: "getSyncSettings", tag: tag,
			summary: "What is synced with Google.",
			answers: []answer{ok[SyncSettings](http.StatusOK, "This.")},
			handle:  (*api).syncSettings,
		},
		{
			method: http.MethodPut, path: "/api/google/settings", id: "putSyncSettings", tag: tag, faults: conflict,
			summary: "Choose what is synced with Google.",
			body:    jsonBody[SyncSettings](smallBody),
			answers: []answer{ok[SyncSettings](http.StatusOK, "This, with Google's own ids in the place of its aliases.")},
			handle:  (*api).putSyncSettings,
		},
		{
			method: http.MethodPost, path: sync, id: "requestSync", tag: tag, faults: conflict,
			summary: "Sync with Google.", timeout: maxSync,
			body: request,
			answers: []answer{
				ok[SyncQueued](http.StatusAccepted, "It will run.", "Location"),
				ok[SyncJob](http.StatusOK, "It has run, where syncs run before the answer (SYNC_ASYNC_MODE=false)."),
			},
			handle: (*api).requestSync,
		},
		{
			method: http.MethodGet, path: sync, id: "getSync", tag: tag, query: []param{job(false)},
			summary: "A sync job or, without jobId, the user's sync at a glance.",
			answers: []answer{ok[SyncJob](http.StatusOK, "The job."), ok[SyncStatus](http.StatusOK, "At a glance.")},
			faults:  []int{http.StatusNotFound},
			handle:  (*api).getSync,
		},
		{
			method: http.MethodDelete, path: sync, id: "cancelSync", tag: tag, query: []param{job(true)},
			summary: "Cancel a sync job; a running one ends at its next page.",
			answers: []answer{ok[SyncJob](http.StatusAccepted, "The job as it is now.")},
			faults:  []int{http.StatusNotFound},
			handle:  (*api).cancelSync,
		},
	}
}

func (a *api) connectGoogle(c *call) error {
	redirect, _ := value[string](c, "redirect")
	another, _ := value[bool](c, "switch")
	if c.fromElsewhere() {
		return c.step(http.StatusOK, stepConnect, c.request().URL.RequestURI())
	}
	hint := c.session.User.Email
	if another {
		hint = "" // or Google would offer the one before
	}
	return a.toGoogle(c, signIn{Redirect: redirect, Connect: true, Switch: another, UserID: c.user()}, hint)
}

func (a *api) disconnectGoogle(c *call) error {
	if err := a.Google.Disconnect(c.ctx(), c.meta(), c.user()); err != nil {
		return err
	}
	c.changed(c.user())
	return c.empty(http.StatusNoContent)
}

func (a *api) listTaskLists(c *call) error {
	list, err := a.Google.TaskLists(c.ctx(), c.user())
	if err != nil {
		return err
	}
	lists := each(list, func(l gsync.TaskList) TaskList { return TaskList(l) })
	p, err := paginateInOrder(c, lists, func(l TaskList) string { return l.ID })
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) listCalendars(c *call) error {
	list, err := a.Google.Calendars(c.ctx(), c.user())
	if err != nil {
		return err
	}
	calendars := each(list, func(l gsync.Calendar) Calendar { return Calendar(l) })
	p, err := paginateInOrder(c, calendars, func(l Calendar) string { return l.ID })
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) syncSettings(c *call) error {
	st, err := a.Google.Settings(c.ctx(), c.user())
	if err != nil {
		return err
	}
	return c.settings(st)
}

func (a *api) putSyncSettings(c *call) error {
	var in SyncSettings
	if err := c.decode(&in); err != nil {
		return err
	}
	st, err := a.Google.PutSettings(c.ctx(), c.user(), gsync.Settings(in))
	if err != nil {
		return err
	}
	return c.settings(st)
}

func (c *call) settings(st gsync.Settings) error {
	st.CalendarIDs = orEmpty(st.CalendarIDs)
	return c.json(http.StatusOK, SyncSettings(st))
}

// googleWebhook charges each channel for itself, since Google speaks for all users from a few addresses, and an address for what is
// not genuine.
func (a *api) googleWebhook(c *call) error {
	n := gsync.NewNotification(c.request().Header)
	subject := addressSubject(c.client)
	if _, genuine := a.Google.Genuine(n); genuine {
		subject = "channel:" + n.ChannelID
	}
	if err := c.take(c.ctx(), a.budgets[defaultKey], subject); err != nil {
		return err
	}
	if err := a.Google.Notified(c.ctx(), n, c.id); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (a *api) requestSync(c *call) error {
	var in SyncRequest
	if err := c.decode(&in); err != nil {
		return err
	}
	if !a.SyncAsync || !a.Flags.Enabled(flags.SyncAsync) {
		job, err := a.Google.RunNow(c.ctx(), c.meta(), c.user(), gsync.Ask(in))
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, jobOf(job))
	}
	job, coalesced, err := a.Google.Request(c.ctx(), c.meta(), c.user(), gsync.Ask(in))
	if err != nil {
		return err
	}
	message := "The sync is queued."
	if coalesced {
		message = "A sync was queued already; it covers this request too."
	}
	c.setHeader("Location", "/api/google/sync?jobId="+job.ID)
	return c.json(http.StatusAccepted, SyncQueued{Status: "queued", JobID: job.ID, Message: message, Coalesced: coalesced})
}

func (a *api) getSync(c *call) error {
	if id, ok := value[string](c, "jobId"); ok {
		job, err := a.Google.Job(c.ctx(), c.user(), id)
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, jobOf(job))
	}
	st, err := a.Google.Status(c.ctx(), c.user())
	if err != nil {
		return err
	}
	st.Scopes = orEmpty(st.Scopes)
	return c.json(http.StatusOK, SyncStatus(st))
}

func (a *api) cancelSync(c *call) error {
	id, _ := value[string](c, "jobId")
	job, err := a.Google.Cancel(c.ctx(), c.meta(), c.user(), id)
	if err != nil {
		return err
	}
	return c.json(http.StatusAccepted, jobOf(job))
}

func jobOf(j gsync.Job) SyncJob {
	dto := SyncJob{
		JobID: j.ID, Type: j.Type, Mode: j.Mode, Status: j.Status, CreatedAt: j.CreatedAt.UTC(), StartedAt: utc(j.StartedAt),
		CompletedAt: utc(j.CompletedAt), Attempt: j.Attempt, Progress: (*SyncProgress)(j.Progress), Error: (*SyncError)(j.Error),
	}
	if r := j.Result; r != nil {
		dto.Result = &SyncResult{
			Tasks: SyncCounts(r.Tasks), Calendar: SyncCounts(r.Calendar), APICalls: r.APICalls, Warnings: orEmpty(r.Warnings),
		}
	}
	return dto
}
