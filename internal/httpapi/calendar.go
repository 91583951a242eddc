package httpapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"fdc/internal/gsync"
)

// CalendarEvent is an event of the user's at Google, or one occurrence of a recurring one.
type CalendarEvent struct {
	ID               string   `json:"id"               doc:"Google's id; an occurrence has its own."`
	CalendarID       string   `json:"calendarId"       doc:"Google's id of the calendar."`
	Title            string   `json:"title"            doc:"What it is called."`
	Start            string   `json:"start"            doc:"An RFC 3339 time in UTC or, all day, a date."`
	End              string   `json:"end"              doc:"Likewise, exclusive."`
	AllDay           bool     `json:"allDay"           doc:"Whether start and end are dates."`
	TimeZone         *string  `json:"timeZone"         doc:"The IANA zone that it is thought in."`
	Status           string   `json:"status"           enum:"confirmed|tentative|cancelled" doc:"As at Google."`
	RecurringEventID *string  `json:"recurringEventId" doc:"The series that an occurrence belongs to."`
	HTMLLink         *string  `json:"htmlLink"         doc:"Its page at Google."`
	Warnings         []string `json:"warnings"         doc:"Sentences about what differs from Google. A series that costs too much to expand is listed once, at its start, with a warning."`
}

func calendarRoutes() []route {
	moment := func(name, doc string) param {
		return param{
			name: name, doc: doc, required: true, parse: parseMoment,
			schema: &jsonschema.Schema{Type: "string", AnyOf: []*jsonschema.Schema{{Format: "date-time"}, {Format: "date"}}},
		}
	}
	return []route{{
		method: http.MethodGet, path: "/api/calendar/events", id: "listCalendarEvents", tag: "calendar",
		summary: "The user's events from Google, recurring ones expanded, FDC's own left out, in the order of their start.",
		query: append([]param{
			moment("from", "Events that end after this time, or date in UTC."), moment("to", "Events that start before it."),
		}, paging()...),
		answers: []answer{ok[Page[CalendarEvent]](http.StatusOK, "A page of them.")},
		handle:  (*api).listCalendarEvents,
	}}
}

func (a *api) listCalendarEvents(c *call) error {
	from, _ := value[time.Time](c, "from")
	to, _ := value[time.Time](c, "to")
	if !from.Before(to) {
		return badParam("to", "later than from")
	}
	list, err := a.Google.Events(c.ctx(), c.user(), from, to)
	if err != nil {
		return err
	}
	key := func(e CalendarEvent) string { return e.Start + "\x1f" + e.CalendarID + "\x1f" + e.ID }
	p, err := paginate(c, each(list, eventOf), key, strings.Compare)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func eventOf(e gsync.CalendarEvent) CalendarEvent {
	return CalendarEvent{
		ID: e.ID, CalendarID: e.CalendarID, Title: e.Title, Start: e.Start, End: e.End, AllDay: e.AllDay,
		TimeZone: optional(e.TimeZone), Status: e.Status, RecurringEventID: optional(e.RecurringEventID), HTMLLink: optional(e.HTMLLink),
		Warnings: e.Warnings,
	}
}
