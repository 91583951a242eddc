package gsync

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the zones of events don't depend on the machine

	"google.golang.org/api/calendar/v3"
)

const statusCancelled = "cancelled"

// eventRow is an event of Google's as it is stored: a single one, a series, or an exception of a series. Times are null
// where Google's make no sense.
type eventRow struct {
	EventID          string     `json:"eventId"`
	Etag             string     `json:"etag"`
	Status           string     `json:"status"`
	Title            string     `json:"title"`
	HTMLLink         string     `json:"htmlLink"`
	AllDay           bool       `json:"allDay"`
	StartDate        *string    `json:"startDate"`
	EndDate          *string    `json:"endDate"`
	StartAt          *time.Time `json:"startAt"`
	EndAt            *time.Time `json:"endAt"`
	TimeZone         string     `json:"timeZone"` // of the event; of an all-day one the calendar's
	Recurrence       []string   `json:"recurrence"`
	RecurringEventID string     `json:"recurringEventId"`
	OriginalStart    string     `json:"originalStart"`
	Starts           *string    `json:"starts"` // [Starts, Ends) is when anything of it may be seen
	Ends             *string    `json:"ends"`
	Ours             bool       `json:"ours"`
}

// newEventRow reads an event. Nothing in it can make that fail.
func newEventRow(e *calendar.Event, calendarZone string) eventRow {
	row := eventRow{
		EventID: clean(e.Id), Etag: clean(e.Etag), Status: clean(e.Status), Title: clean(e.Summary), HTMLLink: clean(e.HtmlLink),
		RecurringEventID: clean(e.RecurringEventId), Recurrence: []string{},
		OriginalStart: originalStart(e.OriginalStartTime, calendarZone),
	}
	if row.Status == "" {
		row.Status = "confirmed"
	}
	for _, line := range e.Recurrence {
		row.Recurrence = append(row.Recurrence, clean(line))
	}
	if e.ExtendedProperties != nil {
		_, row.Ours = e.ExtendedProperties.Private[taskProperty]
	}
	row.readTimes(e, calendarZone)
	if row.Status != statusCancelled {
		row.findBounds()
	}
	return row
}

func (row *eventRow) readTimes(e *calendar.Event, calendarZone string) {
	row.TimeZone = calendarZone
	if e.Start == nil {
		return
	}
	if day, ok := readDate(e.Start.Date); ok {
		row.AllDay, row.StartDate = true, &day
		end := day
		if e.End != nil {
			if last, ok := readDate(e.End.Date); ok {
				end = last
			}
		}
		row.EndDate = &end
		return
	}
	if e.Start.TimeZone != "" {
		row.TimeZone = clean(e.Start.TimeZone)
	}
	at, ok := readTime(e.Start, calendarZone)
	if !ok {
		return
	}
	end := at
	if last, ok := readTime(e.End, calendarZone); ok {
		end = last
	}
	row.StartAt, row.EndAt = &at, &end
}

// originalStart is which instance of a series an exception stands for, in the one form that instanceKey gives too.
func originalStart(t *calendar.EventDateTime, calendarZone string) string {
	if t == nil {
		return ""
	}
	if day, ok := readDate(t.Date); ok {
		return day
	}
	if at, ok := readTime(t, calendarZone); ok {
		return at.Format(time.RFC3339)
	}
	return ""
}

// readDate reads YYYY-MM-DD.
func readDate(s string) (string, bool) {
	t, err := time.Parse(time.DateOnly, s)
	return s, err == nil && t.Year() >= 1
}

// readTime reads a time; one without an offset is in its zone.
func readTime(t *calendar.EventDateTime, calendarZone string) (time.Time, bool) {
	if t == nil || t.DateTime == "" {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, t.DateTime)
	if err != nil {
		name := t.TimeZone
		if name == "" {
			name = calendarZone
		}
		if at, err = time.ParseInLocation("2006-01-02T15:04:05", t.DateTime, location(name)); err != nil {
			return time.Time{}, false
		}
	}
	at = at.UTC().Truncate(time.Second)
	return at, 1 <= at.Year() && at.Year() <= 9999
}

// location is a zone by its name; UTC for one that nobody knows.
func location(name string) *time.Location {
	if loc := zone(name); loc != nil {
		return loc
	}
	return time.UTC
}

// maxZones bounds the names that are remembered; there are about 600 zones.
const maxZones = 2000

// zones remembers what names mean: a look-up reads files, and a calendar may ask for one at each of thousands of events.
var zones = struct {
	sync.Mutex
	named map[string]*time.Location
}{named: map[string]*time.Location{}}

// zone is a zone by its name; nil for one that nobody knows.
func zone(name string) *time.Location {
	if name == "" || name == "Local" {
		return nil
	}
	zones.Lock()
	defer zones.Unlock()
	loc, known := zones.named[name]
	if !known {
		loc, _ = time.LoadLocation(name) // nil with an error: nobody knows it
		if len(zones.named) >= maxZones {
			clear(zones.named)
		}
		zones.named[name] = loc
	}
	return loc
}

// span is when the event, or the first of its instances, takes place. An end before the start counts as the start.
func (row *eventRow) span() (from, to time.Time, ok bool) {
	if row.AllDay {
		loc := location(row.TimeZone)
		first, err := time.ParseInLocation(time.DateOnly, *row.StartDate, loc)
		if err != nil {
			return from, to, false
		}
		last, err := time.ParseInLocation(time.DateOnly, *row.EndDate, loc)
		if err != nil || last.Before(first) {
			last = first
		}
		return first, last, true
	}
	if row.StartAt == nil {
		return from, to, false
	}
	from, to = *row.StartAt, *row.EndAt
	if to.Before(from) {
		to = from
	}
	return from, to, true
}

// findBounds finds out when anything of the event may be seen, so that a read need not expand every series there is.
func (row *eventRow) findBounds() {
	from, to, ok := row.span()
	if !ok {
		return
	}
	starts, ends := from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339)
	if len(row.Recurrence) > 0 {
		starts, ends = seriesBounds(row, from, to)
	}
	row.Starts, row.Ends = &starts, &ends
}

// seriesBounds are generous: a day on either side makes up for dates, which are no instants.
func seriesBounds(row *eventRow, from, to time.Time) (starts, ends string) {
	const forever = "infinity"
	b := newBudget(context.Background(), maxSeriesSteps) // a page's events take no longer than its transaction does
	s, err := newSeries(b, row)
	if errors.Is(err, errSteps) {
		return "-" + forever, forever
	}
	if err != nil || s.open() {
		if err == nil && s.startsEarlier() {
			return "-" + forever, forever
		}
		return from.UTC().Format(time.RFC3339), forever
	}
	last, err := s.last(b)
	if err != nil {
		return "-" + forever, forever
	}
	latest := last.Add(to.Sub(from) + 24*time.Hour)
	if latest.Before(to) {
		latest = to
	}
	starts = from.UTC().Format(time.RFC3339)
	if s.startsEarlier() {
		starts = "-" + forever
	}
	return starts, latest.UTC().Format(time.RFC3339)
}

// recurrenceName is the name of a recurrence line: RRULE, RDATE, EXDATE or EXRULE.
func recurrenceName(line string) string {
	name, _, _ := strings.Cut(line, ":")
	name, _, _ = strings.Cut(name, ";")
	return strings.ToUpper(strings.TrimSpace(name))
}
