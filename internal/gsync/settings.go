package gsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/api/calendar/v3"
	"google.golang.org/api/tasks/v1"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// Google's aliases.
const (
	defaultList     = "@default"
	primaryCalendar = "primary"
)

// Bounds of the settings.
const (
	minInterval     = 5 // minutes
	maxInterval     = 1440
	defaultInterval = 15
	maxCalendars    = 50
	maxGoogleID     = 1024
)

// Settings say what is synced with what, and how often.
type Settings struct {
	WorkspaceID     string   `json:"workspaceId"`
	TaskListID      string   `json:"taskListId"`
	CalendarIDs     []string `json:"calendarIds"`
	AutoSync        bool     `json:"autoSync"`
	IntervalMinutes int      `json:"intervalMinutes"`
}

// TaskList is a task list at Google.
type TaskList struct {
	ID    string `json:"id"`
	Title string `json:"title"`
}

// Calendar is a calendar in the user's list at Google.
type Calendar struct {
	ID         string `json:"id"`
	Title      string `json:"title"`
	TimeZone   string `json:"timeZone"`
	Color      string `json:"color"`
	AccessRole string `json:"accessRole"`
	Primary    bool   `json:"primary"`
	Selected   bool   `json:"selected"`
}

// Settings returns the user's settings. Who never saved any has the own workspace, the default list and the calendars
// that are selected at Google at this moment; none of those while Google can't be asked for want of a connection.
func (s *Service) Settings(ctx context.Context, userID string) (Settings, error) {
	st, stored, err := s.settings(ctx, userID)
	if err != nil || stored {
		return st, err
	}
	calendars, err := s.Calendars(ctx, userID)
	if fault.KindOf(err) == fault.Conflict {
		return st, nil
	}
	if err != nil {
		return Settings{}, err
	}
	st.CalendarIDs = selected(calendars)
	return st, nil
}

// settings reads the stored settings, or the defaults without calendars.
func (s *Service) settings(ctx context.Context, userID string) (st Settings, stored bool, err error) {
	err = s.ob.Pool().QueryRow(ctx, `
		SELECT workspace_id, task_list_id, calendar_ids, auto_sync, interval_minutes FROM sync_settings WHERE user_id = $1`,
		userID).Scan(&st.WorkspaceID, &st.TaskListID, &st.CalendarIDs, &st.AutoSync, &st.IntervalMinutes)
	if err == nil {
		return st, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return Settings{}, false, postgres.Fault(fmt.Errorf("read sync settings of user %s: %w", userID, err))
	}
	st = Settings{TaskListID: defaultList, CalendarIDs: []string{}, AutoSync: true, IntervalMinutes: defaultInterval}
	// The own workspace is the oldest one the user owns; whoever gave it up has the oldest of all.
	err = s.ob.Pool().QueryRow(ctx, `
		SELECT workspace_id FROM workspace_members WHERE user_id = $1
		ORDER BY role = 'OWNER' DESC, joined_at, workspace_id LIMIT 1`, userID).Scan(&st.WorkspaceID)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Settings{}, false, postgres.Fault(fmt.Errorf("find the workspace of user %s: %w", userID, err))
	}
	return st, false, nil
}

// PutSettings replaces the user's settings. Wrong values are fault.Invalid with their pointers. What was pulled from a
// calendar that is no longer chosen goes away.
func (s *Service) PutSettings(ctx context.Context, userID string, st Settings) (Settings, error) {
	if err := s.checkSettings(ctx, userID, &st); err != nil {
		return Settings{}, err
	}
	err := s.ob.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO sync_settings (user_id, workspace_id, task_list_id, calendar_ids, auto_sync, interval_minutes)
			VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (user_id) DO UPDATE SET
				workspace_id = excluded.workspace_id, task_list_id = excluded.task_list_id,
				calendar_ids = excluded.calendar_ids, auto_sync = excluded.auto_sync,
				interval_minutes = excluded.interval_minutes, updated_at = now()`,
			userID, st.WorkspaceID, st.TaskListID, st.CalendarIDs, st.AutoSync, st.IntervalMinutes)
		if err != nil {
			return fmt.Errorf("save sync settings of user %s: %w", userID, err)
		}
		if _, err := schedule(ctx, tx, userID, later); err != nil {
			return err
		}
		return forgetCalendars(ctx, tx, userID, st.CalendarIDs)
	})
	if err != nil {
		return Settings{}, err
	}
	return st, nil
}

// checkSettings finds everything that is wrong at once, and puts real ids in the place of aliases. Google is asked only
// about what the user has not saved before.
func (s *Service) checkSettings(ctx context.Context, userID string, st *Settings) error {
	var wrong []fault.Field
	add := func(pointer, detail string) { wrong = append(wrong, fault.Field{Pointer: pointer, Detail: detail}) }

	if !validUUID(st.WorkspaceID) {
		add("/workspaceId", "is not a workspace of yours")
	} else if _, err := s.members.Role(ctx, s.ob.Pool(), userID, st.WorkspaceID); fault.KindOf(err) == fault.NotFound {
		add("/workspaceId", "is not a workspace of yours")
	} else if err != nil {
		return err
	}
	if st.IntervalMinutes < minInterval || st.IntervalMinutes > maxInterval {
		add("/intervalMinutes", fmt.Sprintf("must be between %d and %d", minInterval, maxInterval))
	}
	if len(st.CalendarIDs) > maxCalendars {
		add("/calendarIds", fmt.Sprintf("must not be more than %d", maxCalendars))
		return fault.Wrong(wrong...)
	}
	before, _, err := s.settings(ctx, userID)
	if err != nil {
		return err
	}
	listProblem, err := s.checkList(ctx, userID, st.TaskListID, before.TaskListID)
	if err != nil {
		return err
	}
	if listProblem != "" {
		add("/taskListId", listProblem)
	}
	unknown, err := s.checkCalendars(ctx, userID, st, before.CalendarIDs)
	if err != nil {
		return err
	}
	for _, i := range unknown {
		add(fmt.Sprintf("/calendarIds/%d", i), "is not a calendar of yours at Google")
	}
	return fault.Wrong(wrong...)
}

func (s *Service) checkList(ctx context.Context, userID, id, before string) (problem string, err error) {
	switch {
	case id == before, id == defaultList:
		return "", nil
	case id == "" || len(id) > maxGoogleID || clean(id) != id:
		return "is not a task list of yours at Google", nil
	}
	lists, err := s.TaskLists(ctx, userID)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(lists, func(l TaskList) bool { return l.ID == id }) {
		return "is not a task list of yours at Google", nil
	}
	return "", nil
}

// checkCalendars returns the positions of unknown calendars. It drops repetitions.
func (s *Service) checkCalendars(ctx context.Context, userID string, st *Settings, before []string) (unknown []int, err error) {
	var ids []string
	var known []Calendar
	for i, id := range st.CalendarIDs {
		if !slices.Contains(before, id) {
			if known == nil {
				if known, err = s.Calendars(ctx, userID); err != nil {
					return nil, err
				}
			}
			at := slices.IndexFunc(known, func(c Calendar) bool { return c.ID == id || c.Primary && id == primaryCalendar })
			if at < 0 {
				unknown = append(unknown, i)
				continue
			}
			id = known[at].ID
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	st.CalendarIDs = append([]string{}, ids...)
	return unknown, nil
}

// forgetCalendars removes what was pulled from calendars other than the given ones.
func forgetCalendars(ctx context.Context, tx pgx.Tx, userID string, keep []string) error {
	_, err := tx.Exec(ctx, `DELETE FROM calendar_events WHERE user_id = $1 AND calendar_id <> ALL ($2)`, userID, keep)
	if err != nil {
		return fmt.Errorf("forget calendars of user %s: %w", userID, err)
	}
	_, err = tx.Exec(ctx, `
		DELETE FROM sync_state WHERE user_id = $1 AND resource LIKE 'calendar:%'
			AND substr(resource, length('calendar:') + 1) <> ALL ($2)`, userID, keep)
	if err != nil {
		return fmt.Errorf("forget calendars of user %s: %w", userID, err)
	}
	return nil
}

// TaskLists returns the user's task lists at Google.
func (s *Service) TaskLists(ctx context.Context, userID string) ([]TaskList, error) {
	ctx, cancel := context.WithTimeout(ctx, interactive)
	defer cancel()
	c, err := s.asked(ctx, userID, scopeTasks)
	if err != nil {
		return nil, err
	}
	lists := []TaskList{}
	for token := ""; ; {
		page, err := call(ctx, c, idempotent, func() (*tasks.TaskLists, error) {
			return c.tasks.Tasklists.List().MaxResults(1000).PageToken(token).Context(ctx).Do()
		})
		if err != nil {
			return nil, asFault(err)
		}
		for _, l := range page.Items {
			lists = append(lists, TaskList{ID: l.Id, Title: clean(l.Title)})
		}
		if token = page.NextPageToken; token == "" {
			return lists, nil
		}
	}
}

// Calendars returns the calendars in the user's list at Google.
func (s *Service) Calendars(ctx context.Context, userID string) ([]Calendar, error) {
	ctx, cancel := context.WithTimeout(ctx, interactive)
	defer cancel()
	c, err := s.asked(ctx, userID, scopeCalendars)
	if err != nil {
		return nil, err
	}
	calendars, err := c.calendars(ctx)
	if err != nil {
		return nil, asFault(err)
	}
	return calendars, nil
}

func (c *client) calendars(ctx context.Context) ([]Calendar, error) {
	calendars := []Calendar{}
	for token := ""; ; {
		page, err := call(ctx, c, idempotent, func() (*calendar.CalendarList, error) {
			return c.calendar.CalendarList.List().MaxResults(250).PageToken(token).Context(ctx).Do()
		})
		if err != nil {
			return nil, err
		}
		for _, e := range page.Items {
			title := e.Summary
			if e.SummaryOverride != "" {
				title = e.SummaryOverride
			}
			calendars = append(calendars, Calendar{
				ID: e.Id, Title: clean(title), TimeZone: e.TimeZone, Color: e.BackgroundColor, AccessRole: e.AccessRole,
				Primary: e.Primary, Selected: e.Selected,
			})
		}
		if token = page.NextPageToken; token == "" {
			return calendars, nil
		}
	}
}

// selected are the calendars that a user sees at Google.
func selected(calendars []Calendar) []string {
	ids := []string{}
	for _, c := range calendars {
		if c.Selected && len(ids) < maxCalendars {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// interactive bounds a request that somebody waits for.
const interactive = 20 * time.Second

// asked returns a client for something a user asks for, after checking that Google is connected and allows it.
func (s *Service) asked(ctx context.Context, userID, scope string) (*client, error) {
	a, err := s.account(ctx, s.ob.Pool(), userID)
	if err != nil {
		return nil, postgres.Fault(err)
	}
	if err := ready(a, scope); err != nil {
		return nil, err
	}
	return s.google(ctx, userID)
}

// ready says what keeps an account from being used for any of the scopes.
func ready(a account, scopes ...string) error {
	switch a.State {
	case StateDisconnected:
		return errNotConnected
	case StateReauthRequired:
		return errReauth
	}
	for _, scope := range scopes {
		if granted(a.Scopes, scope) {
			return nil
		}
	}
	return missingScope(scopes[0])
}

func missingScope(scope string) *fault.Error {
	return fault.New(fault.Conflict, "google-scope-missing", "FDC has no access to %s; connect again and allow it.", scopeNames[scope])
}

var scopeNames = map[string]string{
	scopeTasks: "Google Tasks", scopeEvents: "Google Calendar", scopeCalendars: "the list of your Google calendars",
}

// asFault tells users what a failure of Google means to them.
func asFault(err error) error {
	f, ok := errors.AsType[*failure](err)
	if !ok {
		return err
	}
	switch f.class {
	case classRate, classQuota:
		return &fault.Error{
			Kind: fault.Unavailable, Code: "google-rate-limited", Detail: "Google asks for a pause; try again in a moment.",
			RetryAfter: max(f.retryAfter, 5*time.Second), Err: err,
		}
	case classTransient:
		return unavailable(err)
	case classScope:
		return fault.Wrap(err, fault.Conflict, "google-scope-missing", "FDC has no access to this at Google; connect again and allow it.")
	default:
		return err
	}
}
