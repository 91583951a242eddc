package gsync

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/api/calendar/v3"

	"fdc/events"
)

// eventPage is how many events are asked for at once, and so how many are in memory. It is part of a sync token's
// request: it must not change while tokens live.
const eventPage = 1000

// taskProperty marks the events that FDC made, with the id of their task.
const taskProperty = "fdcTask"

// calendarSteps are the pulls of the chosen calendars.
func (r *run) calendarSteps(ctx context.Context, stored bool) ([]step, error) {
	if !stored {
		var err error
		if r.settings.CalendarIDs, err = r.selectedCalendars(ctx); err != nil {
			return nil, err
		}
	}
	steps := []step{r.forgetOthers, r.watchCalendars}
	for _, id := range r.settings.CalendarIDs {
		steps = append(steps, func(ctx context.Context) (finish, error) { return r.pullCalendar(ctx, id) })
	}
	return steps, nil
}

// forgetOthers forgets calendars that are no longer selected at Google, and what a run brought in that was under way when its user
// chose others.
func (r *run) forgetOthers(ctx context.Context) (finish, error) {
	var some bool
	err := r.s.ob.Pool().QueryRow(ctx, `
		SELECT EXISTS (SELECT 1 FROM sync_state WHERE user_id = $1 AND resource LIKE 'calendar:%'
			AND substr(resource, length('calendar:') + 1) <> ALL ($2))`, r.userID, r.settings.CalendarIDs).Scan(&some)
	if err != nil {
		return nil, fmt.Errorf("look for calendars of user %s: %w", r.userID, err)
	}
	if !some {
		return nil, nil
	}
	return func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		return forgetCalendars(ctx, tx, r.userID, r.settings.CalendarIDs)
	}, nil
}

// selectedCalendars are the calendars of a user who never chose any.
func (r *run) selectedCalendars(ctx context.Context) ([]string, error) {
	if !granted(r.account.Scopes, scopeCalendars) {
		r.warn("Only the primary calendar was synced: FDC has no access to the list of your calendars.")
		return []string{primaryCalendar}, nil
	}
	calendars, err := r.calendars(ctx)
	if err != nil {
		return nil, fmt.Errorf("list calendars: %w", err)
	}
	return selected(calendars), nil
}

// pullCalendar brings one calendar up to date. A calendar that Google refuses is warned of and left as it is.
func (r *run) pullCalendar(ctx context.Context, id string) (finish, error) {
	p := &calendarPull{run: r, calendarID: id, resource: "calendar:" + id}
	cursor, err := readCursor(ctx, r.s.ob.Pool(), r.userID, p.resource)
	if err != nil {
		return nil, err
	}
	var last finish
	if cursor.SyncToken != "" && !cursor.aged(r.userID) && r.job.Mode != events.SyncResync {
		last, err = p.pages(ctx, cursor.SyncToken)
		if isClass(err, classGone) {
			last, err = p.full(ctx)
		}
	} else {
		last, err = p.full(ctx)
	}
	if isClass(err, classNotFound) || isClass(err, classPermanent) {
		r.s.log.Warn().Err(err).Str("user_id", r.userID).Str("calendar_id", id).Msg("calendar refused by Google")
		r.warn("The calendar %s was left out: Google gives no access to it.", clean(id))
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pull calendar %s: %w", id, err)
	}
	return last, nil
}

// errPage is an answer that says neither where to go on nor that it is the last, or says to go on where it is.
var errPage = errors.New("a page without a sensible successor")

// calendarPull is the pull of one calendar.
type calendarPull struct {
	*run
	calendarID string
	resource   string
	generation int64 // of a full read; 0 for a delta
	done       int64
}

// full reads everything anew. What is stored stays visible until the end, when the rest is swept.
func (p *calendarPull) full(ctx context.Context) (finish, error) {
	err := p.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		var err error
		p.generation, err = beginFull(ctx, tx, p.userID, p.resource)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p.pages(ctx, "")
}

// pages applies all pages but the last, which it returns as a finish together with the new sync token.
func (p *calendarPull) pages(ctx context.Context, syncToken string) (finish, error) {
	for pageToken := ""; ; {
		page, err := call(ctx, p.client, idempotent, func() (*calendar.Events, error) {
			// Whatever else is asked must be the same on every request with the token, and showDeleted=false is forbidden.
			list := p.calendar.Events.List(p.calendarID).SingleEvents(false).MaxResults(p.s.eventPage).Context(ctx)
			if syncToken != "" {
				list.SyncToken(syncToken)
			}
			if pageToken != "" {
				list.PageToken(pageToken)
			}
			got, err := list.Do()
			if err == nil && ((got.NextPageToken == "") == (got.NextSyncToken == "") || pageToken != "" && got.NextPageToken == pageToken) {
				return nil, errPage
			}
			return got, err
		})
		if err != nil {
			return nil, err
		}
		rows := p.rows(page) //nolint:contextcheck // bounded by steps: see seriesBounds
		p.done += int64(len(page.Items))
		p.progress(ctx, phaseCalendar, p.done, 0)
		apply := func(ctx context.Context, tx pgx.Tx, d *Result) error { return p.apply(ctx, tx, d, rows) }
		if page.NextSyncToken != "" {
			return func(ctx context.Context, tx pgx.Tx, d *Result) error {
				if err := apply(ctx, tx, d); err != nil {
					return err
				}
				return p.end(ctx, tx, d, page.NextSyncToken)
			}, nil
		}
		pageToken = page.NextPageToken
		if len(rows) == 0 {
			continue
		}
		if err := p.tx(ctx, apply); err != nil {
			return nil, err
		}
	}
}

// rows are the page's events as they are stored. Of an event that is in the page twice the later one counts.
func (p *calendarPull) rows(page *calendar.Events) []eventRow {
	zone := page.TimeZone
	at := make(map[string]int, len(page.Items))
	rows := make([]eventRow, 0, len(page.Items))
	for _, e := range page.Items {
		if e == nil || e.Id == "" {
			continue
		}
		row := newEventRow(e, zone)
		if i, twice := at[row.EventID]; twice {
			rows[i] = row
			continue
		}
		at[row.EventID] = len(rows)
		rows = append(rows, row)
	}
	return rows
}

// apply stores a page.
func (p *calendarPull) apply(ctx context.Context, tx pgx.Tx, d *Result, rows []eventRow) error {
	if len(rows) == 0 {
		return nil
	}
	known, err := p.known(ctx, tx, rows)
	if err != nil {
		return err
	}
	var save []eventRow
	var remove, seen []string
	for _, row := range rows {
		old, stored := known[row.EventID]
		switch {
		case row.Status == statusCancelled && row.RecurringEventID == "" && old.RecurringEventID == "":
			// Of what is deleted Google guarantees the id alone.
			if stored {
				remove = append(remove, row.EventID)
			}
			if stored && old.counts() {
				d.Calendar.Deleted++
			}
			continue
		case row.Status == statusCancelled && row.RecurringEventID == "":
			row.RecurringEventID, row.OriginalStart = old.RecurringEventID, old.OriginalStart
		}
		seen = append(seen, row.EventID)
		if stored && row.Etag != "" && old.Etag == row.Etag && old.Status == row.Status {
			continue
		}
		save = append(save, row)
		count(&d.Calendar, old, stored, row)
	}
	if err := p.remove(ctx, tx, remove); err != nil {
		return err
	}
	if err := p.save(ctx, tx, save); err != nil {
		return err
	}
	return p.mark(ctx, tx, seen)
}

// count counts the change of one event, as its user sees it.
func count(c *Counts, old knownEvent, stored bool, row eventRow) {
	shown := row.Status != statusCancelled && !row.Ours
	switch {
	case shown && stored && old.counts():
		c.Updated++
	case shown:
		c.Created++
	case stored && old.counts():
		c.Deleted++
	}
}

// end sweeps what a full read has not seen, and stores the token.
func (p *calendarPull) end(ctx context.Context, tx pgx.Tx, d *Result, syncToken string) error {
	if p.generation == 0 {
		return saveToken(ctx, tx, p.userID, p.resource, syncToken)
	}
	var unseen, all, shown int64
	err := tx.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE generation < $3), count(*) FROM calendar_events
		WHERE user_id = $1 AND calendar_id = $2 AND status <> 'cancelled'`, p.userID, p.calendarID, p.generation).Scan(&unseen, &all)
	if err != nil {
		return fmt.Errorf("count events of calendar %s: %w", p.calendarID, err)
	}
	if !p.sweeps("events of a calendar", unseen, all) {
		return nil
	}
	err = tx.QueryRow(ctx, `
		WITH swept AS (
			DELETE FROM calendar_events WHERE user_id = $1 AND calendar_id = $2 AND generation < $3
			RETURNING status <> 'cancelled' AND NOT ours AS shown)
		SELECT count(*) FILTER (WHERE shown) FROM swept`, p.userID, p.calendarID, p.generation).Scan(&shown)
	if err != nil {
		return fmt.Errorf("sweep calendar %s: %w", p.calendarID, err)
	}
	d.Calendar.Deleted += shown
	return endFull(ctx, tx, p.userID, p.resource, syncToken, nil)
}

// knownEvent is what decides about an event that is stored already.
type knownEvent struct {
	EventID          string
	Etag             string
	Status           string
	RecurringEventID string
	OriginalStart    string
	Ours             bool
}

// counts reports whether a user sees the event.
func (k knownEvent) counts() bool { return k.Status != statusCancelled && !k.Ours }

func (p *calendarPull) known(ctx context.Context, tx pgx.Tx, rows []eventRow) (map[string]knownEvent, error) {
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = rows[i].EventID
	}
	found, err := tx.Query(ctx, `
		SELECT event_id, etag, status, recurring_event_id, original_start, ours FROM calendar_events
		WHERE user_id = $1 AND calendar_id = $2 AND event_id = ANY ($3)`, p.userID, p.calendarID, ids)
	if err != nil {
		return nil, fmt.Errorf("read known events: %w", err)
	}
	list, err := pgx.CollectRows(found, pgx.RowToStructByPos[knownEvent])
	if err != nil {
		return nil, fmt.Errorf("read known events: %w", err)
	}
	known := make(map[string]knownEvent, len(list))
	for _, k := range list {
		known[k.EventID] = k
	}
	return known, nil
}

// remove deletes events; with a series go its exceptions, of which Google says nothing then.
func (p *calendarPull) remove(ctx context.Context, tx pgx.Tx, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		DELETE FROM calendar_events WHERE user_id = $1 AND calendar_id = $2
			AND (event_id = ANY ($3) OR recurring_event_id <> '' AND recurring_event_id = ANY ($3))`, p.userID, p.calendarID, ids)
	if err != nil {
		return fmt.Errorf("remove events: %w", err)
	}
	return nil
}

// save inserts or replaces events, all in one statement.
func (p *calendarPull) save(ctx context.Context, tx pgx.Tx, rows []eventRow) error {
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO calendar_events (user_id, calendar_id, event_id, etag, status, title, html_link, all_day, start_date,
			end_date, start_at, end_at, time_zone, recurrence, recurring_event_id, original_start, starts, ends, ours, generation)
		SELECT $1, $2, "eventId", etag, status, title, "htmlLink", "allDay", "startDate", "endDate", "startAt", "endAt",
			"timeZone", recurrence, "recurringEventId", "originalStart", starts, ends, ours, $4
		FROM jsonb_to_recordset($3) AS e ("eventId" text, etag text, status text, title text, "htmlLink" text, "allDay" boolean,
			"startDate" date, "endDate" date, "startAt" timestamptz, "endAt" timestamptz, "timeZone" text, recurrence text[],
			"recurringEventId" text, "originalStart" text, starts timestamptz, ends timestamptz, ours boolean)
		ON CONFLICT (user_id, calendar_id, event_id) DO UPDATE SET
			etag = excluded.etag, status = excluded.status, title = excluded.title, html_link = excluded.html_link,
			all_day = excluded.all_day, start_date = excluded.start_date, end_date = excluded.end_date,
			start_at = excluded.start_at, end_at = excluded.end_at, time_zone = excluded.time_zone,
			recurrence = excluded.recurrence, recurring_event_id = excluded.recurring_event_id,
			original_start = excluded.original_start, starts = excluded.starts, ends = excluded.ends, ours = excluded.ours,
			generation = greatest(calendar_events.generation, excluded.generation)`,
		p.userID, p.calendarID, rows, p.generation)
	if err != nil {
		return fmt.Errorf("save %d events: %w", len(rows), err)
	}
	return nil
}

// mark says of events that a full read has seen them.
func (p *calendarPull) mark(ctx context.Context, tx pgx.Tx, ids []string) error {
	if p.generation == 0 || len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		UPDATE calendar_events SET generation = $4
		WHERE user_id = $1 AND calendar_id = $2 AND event_id = ANY ($3) AND generation <> $4`,
		p.userID, p.calendarID, ids, p.generation)
	if err != nil {
		return fmt.Errorf("mark events: %w", err)
	}
	return nil
}
