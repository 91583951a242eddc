package gsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/teambition/rrule-go"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// Bounds of a read.
const (
	maxWindow = 400 * 24 * time.Hour
	maxEvents = 50_000  // in one answer
	maxSteps  = 100_000 // through one series; also what a rule without sense costs
	maxRepeat = 10_000  // days, weeks, months or years between instances
)

// CalendarEvent is an event, or one instance of a recurring one, as a calendar shows it.
type CalendarEvent struct {
	ID               string `json:"id"`
	CalendarID       string `json:"calendarId"`
	Title            string `json:"title"`
	Start            string `json:"start"` // RFC 3339 in UTC; a date when AllDay
	End              string `json:"end"`   // exclusive
	AllDay           bool   `json:"allDay"`
	TimeZone         string `json:"timeZone"`
	Status           string `json:"status"`           // confirmed or tentative
	RecurringEventID string `json:"recurringEventId"` // of an instance
	HTMLLink         string `json:"htmlLink"`

	starts time.Time
}

// Events returns what the user's calendars show between from and to, ordered by start: events that end after from and
// start before to. Series are expanded; events that FDC itself made from tasks are left out. A window longer than 400 days
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
	return expandAll(rows, replaced, from, to)
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

// expandAll makes of stored events what a calendar shows in the window.
func expandAll(rows []storedEvent, replaced map[instanceID]bool, from, to time.Time) ([]CalendarEvent, error) {
	shown := []CalendarEvent{}
	for i := range rows {
		shown = rows[i].expand(shown, replaced, from, to)
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
func (e *storedEvent) expand(shown []CalendarEvent, replaced map[instanceID]bool, from, to time.Time) []CalendarEvent {
	first, last, ok := e.span()
	if !ok {
		return shown
	}
	if len(e.Recurrence) > 0 {
		if s, err := newSeries(&e.eventRow); err == nil {
			return e.expandSeries(shown, s, replaced, from, to)
		}
	}
	if !overlaps(first, last, from, to) {
		return shown
	}
	one := e.shown(first)
	if e.AllDay {
		one.Start, one.End = *e.StartDate, *e.EndDate
	} else {
		one.Start, one.End = utcText(first), utcText(*e.EndAt)
	}
	return append(shown, one)
}

func (e *storedEvent) expandSeries(shown []CalendarEvent, s *series, replaced map[instanceID]bool, from, to time.Time) []CalendarEvent {
	next := s.set.Iterator()
	for range maxSteps {
		at, ok := next()
		if !ok || len(shown) > maxEvents {
			break
		}
		starts := s.instant(at)
		// Dates come by UTC's days: those of a zone may be up to a day away.
		if starts.Add(-24 * time.Hour).After(to) {
			break
		}
		ends := s.instant(at.Add(s.length))
		if !overlaps(starts, ends, from, to) || replaced[instanceID{e.CalendarID, e.EventID, s.key(at)}] {
			continue
		}
		one := e.shown(starts)
		one.ID, one.RecurringEventID = e.EventID+"_"+s.suffix(at), e.EventID
		one.Start, one.End = s.key(at), s.key(at.Add(s.length))
		shown = append(shown, one)
	}
	return shown
}

// overlaps holds Google's rule: the end is after from and the start before to.
func overlaps(starts, ends, from, to time.Time) bool { return ends.After(from) && starts.Before(to) }

func (e *storedEvent) shown(starts time.Time) CalendarEvent {
	return CalendarEvent{
		ID: e.EventID, CalendarID: e.CalendarID, Title: e.Title, AllDay: e.AllDay, TimeZone: e.TimeZone, Status: e.Status,
		RecurringEventID: e.RecurringEventID, HTMLLink: e.HTMLLink, starts: starts,
	}
}

func utcText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// series is a recurring event that can be expanded. Its set gives wall-clock times in the event's zone, or of an all-day
// event dates as UTC's midnights.
type series struct {
	set      *rrule.Set
	allDay   bool
	length   time.Duration
	calendar *time.Location // where an all-day event's days begin
}

var errRule = errors.New("a recurrence that makes no sense")

// newSeries reads the recurrence of an event. Rules by the hour or finer are refused: calendars have none, and one
// that never comes true would be searched for years.
func newSeries(row *eventRow) (*series, error) {
	s := &series{allDay: row.AllDay}
	first, err := s.begin(row)
	if err != nil {
		return nil, err
	}
	var lines []string
	rules := 0
	for _, line := range row.Recurrence {
		switch recurrenceName(line) {
		case "RRULE":
			rules++
			lines = append(lines, line)
		case "RDATE", "EXDATE":
			lines = append(lines, line)
		case "EXRULE":
			return nil, errRule // the library behind this has none
		}
	}
	if rules > 1 || len(lines) == 0 {
		return nil, errRule
	}
	if s.set, err = rrule.StrSliceToRRuleSetInLoc(lines, first.Location()); err != nil {
		return nil, fmt.Errorf("%w: %w", errRule, err)
	}
	if rule := s.set.GetRRule(); rule != nil && (rule.OrigOptions.Freq > rrule.DAILY || rule.OrigOptions.Interval > maxRepeat) {
		return nil, errRule
	}
	s.set.DTStart(first)
	if rules == 0 {
		s.set.RDate(first) // a series of bare dates begins with its own start
	}
	return s, nil
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
func (s *series) open() bool {
	rule := s.set.GetRRule()
	return rule != nil && rule.OrigOptions.Count == 0 && rule.OrigOptions.Until.IsZero()
}

// startsEarlier reports whether an added date comes before the start.
func (s *series) startsEarlier() bool {
	return slices.ContainsFunc(s.set.GetRDate(), func(t time.Time) bool { return t.Before(s.set.GetDTStart()) })
}

// last is the last instance; false when it is too far to be found.
func (s *series) last() (last time.Time, ok bool) {
	next := s.set.Iterator()
	for range maxSteps {
		at, more := next()
		if !more {
			return last, true
		}
		last = at
	}
	return last, false
}
