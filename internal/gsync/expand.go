package gsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/teambition/rrule-go"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// Bounds of a read.
const (
	maxWindow = 400 * 24 * time.Hour
	maxEvents = 50_000 // in one answer
)

// warnTooCostly is what the user reads at a series whose instances are not known.
const warnTooCostly = "This event repeats in a way that takes too long to work out. It is shown once, at its start."

// CalendarEvent is an event, or one instance of a recurring one, as a calendar shows it.
type CalendarEvent struct {
	ID               string   `json:"id"`
	CalendarID       string   `json:"calendarId"`
	Title            string   `json:"title"`
	Start            string   `json:"start"` // RFC 3339 in UTC; a date when AllDay
	End              string   `json:"end"`   // exclusive
	AllDay           bool     `json:"allDay"`
	TimeZone         string   `json:"timeZone"`
	Status           string   `json:"status"`           // confirmed or tentative
	RecurringEventID string   `json:"recurringEventId"` // of an instance
	HTMLLink         string   `json:"htmlLink"`
	Warnings         []string `json:"warnings"` // sentences for the user about what is not as at Google

	starts time.Time
}

// Events returns what the user's calendars show between from and to, ordered by start: events that end after from and
// start before to. Series are expanded; events that FDC itself made from tasks are left out. A series whose expansion would cost
// too much is there once, at its start, even when that lies outside of the window, with a warning. A window longer than 400 days
// or upside down is fault.Malformed.
func (s *Service) Events(ctx context.Context, userID string, from, to time.Time) ([]CalendarEvent, error) {
	if !from.Before(to) {
		return nil, fault.New(fault.Malformed, "bad-window", "from must be before to.")
	}
	if to.Sub(from) > maxWindow {
		return nil, fault.New(fault.Malformed, "bad-window", "The window must not be longer than 400 days.")
	}
	a, err := s.account(ctx, s.ob.Pool(), userID)
	if err != nil {
		return nil, postgres.Fault(err)
	}
	if a.State == StateDisconnected {
		return []CalendarEvent{}, nil
	}
	rows, err := readWindow(ctx, s.ob.Pool(), userID, from, to)
	if err != nil {
		return nil, postgres.Fault(err)
	}
	replaced, err := readReplaced(ctx, s.ob.Pool(), userID, rows)
	if err != nil {
		return nil, postgres.Fault(err)
	}
	return expandAll(newBudget(ctx, maxRequestSteps), rows, replaced, from, to)
}

// storedEvent is an event with its calendar.
type storedEvent struct {
	CalendarID string
	eventRow
}

// instanceID names an instance of a series: the key under which an exception replaces it.
type instanceID struct{ calendar, series, original string }

func readWindow(ctx context.Context, q postgres.Querier, userID string, from, to time.Time) ([]storedEvent, error) {
	rows, err := q.Query(ctx, `
		SELECT calendar_id, event_id, status, title, html_link, all_day, start_date::text, end_date::text, start_at, end_at,
			time_zone, recurrence, recurring_event_id
		FROM calendar_events
		WHERE user_id = $1 AND ends > $2 AND starts < $3 AND status <> 'cancelled' AND NOT ours
		LIMIT $4`, userID, from, to, maxEvents+1)
	if err != nil {
		return nil, fmt.Errorf("read events of user %s: %w", userID, err)
	}
	stored, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e storedEvent, err error) {
		err = row.Scan(&e.CalendarID, &e.EventID, &e.Status, &e.Title, &e.HTMLLink, &e.AllDay, &e.StartDate, &e.EndDate, &e.StartAt,
			&e.EndAt, &e.TimeZone, &e.Recurrence, &e.RecurringEventID)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read events of user %s: %w", userID, err)
	}
	return stored, nil
}

// readReplaced finds the instances of the series among the rows that exceptions replace, wherever those have moved to.
func readReplaced(ctx context.Context, q postgres.Querier, userID string, among []storedEvent) (map[instanceID]bool, error) {
	var calendars, series []string
	for _, e := range among {
		if len(e.Recurrence) > 0 {
			calendars, series = append(calendars, e.CalendarID), append(series, e.EventID)
		}
	}
	replaced := map[instanceID]bool{}
	if len(series) == 0 {
		return replaced, nil
	}
	rows, err := q.Query(ctx, `
		SELECT e.calendar_id, e.recurring_event_id, e.original_start
		FROM unnest($2::text[], $3::text[]) AS s (calendar_id, event_id)
		JOIN calendar_events e ON e.user_id = $1 AND e.calendar_id = s.calendar_id AND e.recurring_event_id = s.event_id
		WHERE e.recurring_event_id <> ''`, userID, calendars, series)
	if err != nil {
		return nil, fmt.Errorf("read exceptions of user %s: %w", userID, err)
	}
	var id instanceID
	_, err = pgx.ForEachRow(rows, []any{&id.calendar, &id.series, &id.original}, func() error {
		replaced[id] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read exceptions of user %s: %w", userID, err)
	}
	return replaced, nil
}

// expandAll makes of stored events what a calendar shows in the window. All that it does counts against the budget.
func expandAll(b *budget, rows []storedEvent, replaced map[instanceID]bool, from, to time.Time) ([]CalendarEvent, error) {
	shown := []CalendarEvent{}
	for i := range rows {
		if err := b.next(); err != nil {
			return nil, fmt.Errorf("expand events: %w", err)
		}
		var err error
		if shown, err = rows[i].expand(b, shown, replaced, from, to); err != nil {
			return nil, fmt.Errorf("expand events: %w", err)
		}
		if len(shown) > maxEvents {
			return nil, fault.New(fault.Malformed, "window-too-full", "There are more than %d events in the window; ask for a shorter one.", maxEvents)
		}
	}
	slices.SortFunc(shown, func(a, b CalendarEvent) int {
		return cmp.Or(a.starts.Compare(b.starts), cmp.Compare(a.CalendarID, b.CalendarID), cmp.Compare(a.ID, b.ID))
	})
	return shown, nil
}

// expand appends the instances in the window to shown. A series whose rule makes no sense is shown where it starts.
func (e *storedEvent) expand(b *budget, shown []CalendarEvent, replaced map[instanceID]bool, from, to time.Time) ([]CalendarEvent, error) {
	first, last, ok := e.span()
	if !ok {
		return shown, nil
	}
	one := e.shown(first)
	if e.AllDay {
		one.Start, one.End = *e.StartDate, *e.EndDate
	} else {
		one.Start, one.End = utcText(first), utcText(*e.EndAt)
	}
	if len(e.Recurrence) > 0 {
		all, err := e.expandSeries(b, shown, replaced, from, to)
		switch {
		case errors.Is(err, errSteps):
			one.Warnings = append(one.Warnings, warnTooCostly)
			return append(shown, one), nil // without what was found: a part of a series looks like all of it
		case !errors.Is(err, errRule):
			return all, err
		}
	}
	if !overlaps(first, last, from, to) {
		return shown, nil
	}
	return append(shown, one), nil
}

func (e *storedEvent) expandSeries(
	b *budget, shown []CalendarEvent, replaced map[instanceID]bool, from, to time.Time,
) ([]CalendarEvent, error) {
	s, err := newSeries(b, &e.eventRow)
	if err != nil {
		return nil, err
	}
	// Dates come by UTC's days: those of a zone may be up to a day away.
	err = s.each(b, from.Add(-s.length).Add(-24*time.Hour), to.Add(24*time.Hour), func(at time.Time) bool {
		starts, ends := s.instant(at), s.instant(at.Add(s.length))
		if !overlaps(starts, ends, from, to) || replaced[instanceID{e.CalendarID, e.EventID, s.key(at)}] {
			return true
		}
		one := e.shown(starts)
		one.ID, one.RecurringEventID = e.EventID+"_"+s.suffix(at), e.EventID
		one.Start, one.End = s.key(at), s.key(at.Add(s.length))
		shown = append(shown, one)
		return len(shown) <= maxEvents
	})
	return shown, err
}

// overlaps holds Google's rule: the end is after from and the start before to.
func overlaps(starts, ends, from, to time.Time) bool { return ends.After(from) && starts.Before(to) }

func (e *storedEvent) shown(starts time.Time) CalendarEvent {
	return CalendarEvent{
		ID: e.EventID, CalendarID: e.CalendarID, Title: e.Title, AllDay: e.AllDay, TimeZone: e.TimeZone, Status: e.Status,
		RecurringEventID: e.RecurringEventID, HTMLLink: e.HTMLLink, Warnings: []string{}, starts: starts,
	}
}

func utcText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// series is a recurring event that can be expanded. Its instances are wall-clock times in the event's zone, or of an all-day
// event dates as UTC's midnights.
type series struct {
	start    time.Time
	rule     *rule // nil for a series of bare dates
	added    []time.Time
	skipped  map[int64]bool // Unix times of instances that are not
	allDay   bool
	length   time.Duration
	calendar *time.Location // where an all-day event's days begin
}

var errRule = errors.New("a recurrence that makes no sense")

// bytesPerStep of a recurrence cost about as much to read as a step costs.
const bytesPerStep = 4

// newSeries reads the recurrence of an event.
func newSeries(b *budget, row *eventRow) (*series, error) {
	s := &series{allDay: row.AllDay, skipped: map[int64]bool{}}
	var err error
	if s.start, err = s.begin(row); err != nil {
		return nil, err
	}
	read := false
	for _, line := range row.Recurrence {
		if err := b.spend(1 + len(line)/bytesPerStep); err != nil {
			return nil, err
		}
		name := recurrenceName(line)
		rest := strings.TrimSpace(line)[len(name):]
		if !slices.Contains([]string{"RRULE", "RDATE", "EXDATE", "EXRULE"}, name) {
			continue
		}
		read = true
		if err := s.read(name, strings.TrimLeft(rest, ":;")); err != nil {
			return nil, err
		}
	}
	if !read {
		return nil, errRule
	}
	if s.rule == nil {
		s.added = append(s.added, s.start) // a series of bare dates begins with its own start
	}
	return s, nil
}

// read takes in a line of a recurrence.
func (s *series) read(name, text string) (err error) {
	switch name {
	case "RRULE":
		if s.rule != nil {
			return errRule
		}
		s.rule, err = newRule(text, s.start)
		return err
	case "EXRULE":
		return errRule // RFC 5545 has none any more
	}
	loc := s.start.Location()
	if params, list, ok := strings.Cut(text, ":"); ok {
		_, name, given := strings.Cut(params, "TZID=")
		name, _, _ = strings.Cut(name, ";")
		if given {
			if loc = zone(name); loc == nil {
				return errRule
			}
			text = list
		}
	}
	dates, err := rrule.StrToDatesInLoc(text, loc)
	if err != nil {
		return fmt.Errorf("%w: %w", errRule, err)
	}
	if name == "RDATE" {
		s.added = append(s.added, dates...)
		return nil
	}
	for _, date := range dates {
		s.skipped[date.Unix()] = true
	}
	return nil
}

// each calls yield with the instances, in no order and each once, until it returns false. Those before from and after to need not be
// among them; a zero time is no bound.
func (s *series) each(b *budget, from, to time.Time, yield func(time.Time) bool) error {
	given := map[int64]bool{}
	for _, at := range s.added {
		if err := b.spend(1); err != nil {
			return err
		}
		if key := at.Unix(); !s.skipped[key] && !given[key] {
			given[key] = true
			if !yield(at) {
				return nil
			}
		}
	}
	if s.rule == nil {
		return nil
	}
	return s.rule.each(b, from, to, func(at time.Time) bool {
		key := at.Unix()
		return s.skipped[key] || given[key] || yield(at)
	})
}

func (s *series) begin(row *eventRow) (first time.Time, err error) {
	if !row.AllDay {
		from, to, ok := row.span()
		if !ok {
			return first, errRule
		}
		s.length = to.Sub(from)
		return from.In(location(row.TimeZone)), nil
	}
	s.calendar = location(row.TimeZone)
	first, err = time.Parse(time.DateOnly, *row.StartDate)
	if err != nil {
		return first, fmt.Errorf("%w: %w", errRule, err)
	}
	last, err := time.Parse(time.DateOnly, *row.EndDate)
	if err != nil {
		return first, fmt.Errorf("%w: %w", errRule, err)
	}
	s.length = max(last.Sub(first), 0)
	return first, nil
}

// instant is when a date or time of the set is.
func (s *series) instant(at time.Time) time.Time {
	if s.allDay {
		return time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, s.calendar)
	}
	return at
}

// key is an instance's start in the form of originalStart.
func (s *series) key(at time.Time) string {
	if s.allDay {
		return at.Format(time.DateOnly)
	}
	return utcText(at)
}

// suffix is what Google appends to the series' id to name the instance.
func (s *series) suffix(at time.Time) string {
	if s.allDay {
		return at.Format("20060102")
	}
	return at.UTC().Format("20060102T150405Z")
}

// open reports whether the series has no end.
func (s *series) open() bool { return s.rule != nil && s.rule.count == 0 && s.rule.until.IsZero() }

// startsEarlier reports whether an added date comes before the start.
func (s *series) startsEarlier() bool {
	return slices.ContainsFunc(s.added, func(t time.Time) bool { return t.Before(s.start) })
}

// last is a time that no instance starts after: the end that the rule states, else the last instance. It looks at all of those.
func (s *series) last(b *budget) (last time.Time, err error) {
	bare := *s
	if s.rule != nil && !s.rule.until.IsZero() {
		last, bare.rule = s.rule.until, nil
	}
	err = bare.each(b, time.Time{}, time.Time{}, func(at time.Time) bool {
		if at.After(last) {
			last = at
		}
		return true
	})
	return last, err
}
