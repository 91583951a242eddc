package googleemu

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// updatedMinReach is how far back updatedMin may look.
const updatedMinReach = 28 * 24 * time.Hour

const cancelled = "cancelled"

// What happened to the people invited does not matter here, but the parameters exist.
var (
	notify      = params{"sendUpdates": oneOf("all", "externalOnly", "none"), "sendNotifications": boolean}
	writeParams = notify.with(params{
		"conferenceDataVersion": number(0, 1), "eventLabelVersion": number(0, 1), "maxAttendees": positive, "supportsAttachments": boolean,
	})
	listParams = params{
		"alwaysIncludeEmail": boolean, "maxAttendees": positive, "maxResults": positive, "orderBy": oneOf("startTime", "updated"),
		"eventTypes": manyOf("birthday", "default", "focusTime", "fromGmail", "outOfOffice", "workingLocation"),
		"iCalUID":    text, "pageToken": text, "privateExtendedProperty": texts, "q": text, "sharedExtendedProperty": texts,
		"showDeleted": boolean, "showHiddenInvitations": boolean, "singleEvents": boolean, "syncToken": text,
		"timeMax": timestamp, "timeMin": timestamp, "timeZone": zone, "updatedMin": timestamp,
	}
)

func (e *Emulator) routeCalendar() {
	const events = " /calendar/v3/calendars/{calendar}/events"
	e.api("GET /calendar/v3/users/me/calendarList", listRead, params{
		"maxResults": positive, "pageToken": text, "showDeleted": boolean, "showHidden": boolean, "syncToken": text,
		"showOwnOrganizationOnly": boolean,
		"minAccessRole":           oneOf("freeBusyReader", "reader", "writer", "writerWithoutPrivateAccess", "owner"),
	}, e.listCalendars)
	e.api("GET /calendar/v3/users/me/calendarList/{calendar}", listRead, nil, func(c *call) (any, error) {
		cal, err := c.calendar()
		if err != nil {
			return nil, err
		}
		return cal.entry(c.user), nil
	})
	e.api("DELETE /calendar/v3/users/me/calendarList/{calendar}", listWrite, nil, e.removeCalendar)
	e.api("GET"+events, eventsRead, listParams, e.listEvents)
	e.api("POST"+events, eventsWrite, writeParams, e.insertEvent)
	e.api("GET"+events+"/{event}", eventsRead, params{"alwaysIncludeEmail": boolean, "maxAttendees": positive, "timeZone": zone}, e.getEvent)
	e.api("PATCH"+events+"/{event}", eventsWrite, writeParams.with(params{"alwaysIncludeEmail": boolean}), e.patchEvent)
	e.api("PUT"+events+"/{event}", eventsWrite, writeParams.with(params{"alwaysIncludeEmail": boolean}), e.updateEvent)
	e.api("DELETE"+events+"/{event}", eventsWrite, notify, e.deleteEvent)
}

// calendar is the one in the path. Another user's looks like none at all.
func (c *call) calendar() (*calendar, error) {
	cal := c.user.calendar(c.PathValue("calendar"))
	if cal == nil {
		return nil, notFound("calendar " + c.PathValue("calendar"))
	}
	return cal, nil
}

// entry is the calendar in the user's list.
func (cal *calendar) entry(u *user) object {
	o := object{
		"kind": "calendar#calendarListEntry", "etag": etag(cal.Seq), "id": cal.ID, "summary": cal.Summary, "timeZone": cal.TimeZone,
		"accessRole": "owner", "colorId": "14", "backgroundColor": "#9fe1e7", "foregroundColor": "#000000",
		"selected": true, "defaultReminders": defaultReminders(),
		"conferenceProperties": object{"allowedConferenceSolutionTypes": []string{"hangoutsMeet"}},
	}
	if cal.ID == u.Email {
		o["primary"] = true
	}
	if cal.Removed {
		return object{"kind": o["kind"], "etag": o["etag"], "id": cal.ID, "deleted": true}
	}
	return o
}

func defaultReminders() []object { return []object{{"method": "popup", "minutes": 10}} }

func (e *Emulator) listCalendars(c *call) (any, error) {
	const resource = "calendarList"
	var since int64
	delta := c.query.Has("syncToken")
	if delta {
		if err := c.refuseWith("minAccessRole", "showOwnOrganizationOnly"); err != nil {
			return nil, err
		}
		var err error
		if since, err = e.since(c, resource, ""); err != nil {
			return nil, err
		}
	}
	p, err := e.page(c, resource, c.size(100, 250), func() ([]row, error) {
		var rows []row
		for _, cal := range bySeq(c.user.Calendars, func(cal *calendar) int64 { return cal.Seq }) {
			if delta && cal.Seq <= since || !delta && cal.Removed && !c.flag("showDeleted", false) {
				continue
			}
			entry := cal.entry(c.user)
			rows = append(rows, func() object { return entry })
		}
		return rows, nil
	})
	if err != nil {
		return nil, err
	}
	answer := object{"kind": "calendar#calendarList", "etag": etag(p.seq), "items": p.items()}
	e.close(c, answer, p, resource, "")
	return answer, nil
}

// close ends a page with the token of the next one or, on the last, with the one for what comes later: one of them, never both.
func (e *Emulator) close(c *call, answer object, p page, resource, filter string) {
	if p.next != "" {
		answer["nextPageToken"] = p.next
		return
	}
	answer["nextSyncToken"] = e.syncToken(c, resource, filter, p.seq)
}

func (e *Emulator) removeCalendar(c *call) (any, error) {
	cal, err := c.calendar()
	switch {
	case err != nil:
		return nil, err
	case cal.Removed:
		return nil, notFound("calendar " + cal.ID)
	case cal.ID == c.user.Email:
		return nil, forbidden("The primary calendar cannot be removed from the list.")
	}
	cal.Removed, cal.Seq = true, c.user.next()
	e.changed()
	return nil, nil
}

// view says how events of one calendar are shown to one caller. It holds copies: the lock is free when it is used.
type view struct {
	email, name  string
	calendar     string
	summary      string
	zoneName     string // the calendar's
	zone         *time.Location
	maxAttendees int
}

func (c *call) view(cal *calendar) view {
	v := view{
		email: c.user.Email, name: c.user.Name, calendar: cal.ID, summary: cal.Summary, zoneName: cal.TimeZone, zone: cal.location(),
		maxAttendees: c.count("maxAttendees"),
	}
	if loc, err := loadZone(c.query.Get("timeZone")); err == nil {
		v.zone = loc
	}
	return v
}

func (cal *calendar) location() *time.Location {
	loc, err := loadZone(cal.TimeZone)
	if err != nil {
		return time.UTC // AddCalendar has checked it; only the zone database of another machine can differ
	}
	return loc
}

func (ev *event) status() string {
	s, _ := ev.Doc["status"].(string)
	return s
}

func (ev *event) live() bool { return ev.status() != cancelled }

func (ev *event) start(zone string) (moment, error) { return readMoment(ev.Doc["start"], zone) }
func (ev *event) end(zone string) (moment, error)   { return readMoment(ev.Doc["end"], zone) }

// recurrence are the lines of a series; a single event has none.
func (ev *event) recurrence() []string {
	lines, _ := ev.Doc["recurrence"].([]any)
	var all []string
	for _, l := range lines {
		if s, ok := l.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

func (ev *event) head() object {
	return object{"kind": "calendar#event", "etag": etag(ev.Seq), "id": ev.ID, "status": ev.status()}
}

// full renders everything there is.
func (v view) full(ev *event) object {
	o := ev.head()
	maps.Copy(o, ev.Doc)
	o["created"], o["updated"], o["sequence"], o["iCalUID"] = stamp(ev.Created), stamp(ev.Updated), ev.Sequence, ev.UID
	o["htmlLink"] = "https://www.google.com/calendar/event?eid=" + opaque([]byte(ev.ID+" "+v.email))
	o["creator"] = object{"email": v.email, "self": true}
	o["organizer"] = object{"email": v.email, "displayName": v.name, "self": true}
	if v.calendar != v.email {
		o["creator"] = object{"email": v.email}
		o["organizer"] = object{"email": v.calendar, "displayName": v.summary, "self": true}
	}
	if _, ok := o["reminders"]; !ok {
		o["reminders"] = object{"useDefault": true}
	}
	if _, ok := o["eventType"]; !ok {
		o["eventType"] = "default"
	}
	for _, name := range []string{"start", "end"} {
		if m, err := readMoment(o[name], v.zoneName); err == nil {
			o[name] = m.json(v.zone)
		}
	}
	if attendees, ok := o["attendees"].([]any); ok && v.maxAttendees > 0 && len(attendees) > v.maxAttendees {
		o["attendees"], o["attendeesOmitted"] = attendees[:v.maxAttendees], true
	}
	v.relate(o, ev)
	return o
}

// bare renders what is sure to be known of a cancelled event.
func (v view) bare(ev *event) object {
	o := ev.head()
	o["status"] = cancelled
	v.relate(o, ev)
	return o
}

// relate names the series that an exception or instance belongs to.
func (v view) relate(o object, ev *event) {
	if ev.Series != "" {
		o["recurringEventId"], o["originalStartTime"] = ev.Series, ev.Original.json(v.zone)
	}
}

// instance is what a series looks like at one of its occurrences: a record nobody stored.
func (ev *event) instance(at moment, zone string) *event {
	one := *ev
	one.ID, one.Series, one.Original, one.Past = instanceID(ev.ID, at), ev.ID, &at, nil
	one.Doc = maps.Clone(ev.Doc)
	delete(one.Doc, "recurrence")
	start, err := ev.start(zone)
	end, errEnd := ev.end(zone)
	if err == nil && errEnd == nil {
		one.Doc["start"] = at.json(at.local().Location())
		shifted := end.shift(at.At.Add(end.At.Sub(start.At)))
		one.Doc["end"] = shifted.json(shifted.local().Location())
	}
	return &one
}

// find looks an id up: a record, or an instance that a series has at that time.
func (cal *calendar) find(id string) *event {
	if ev, ok := cal.Events[id]; ok {
		return ev
	}
	series, day, at, ok := splitInstanceID(id)
	master := cal.Events[series]
	if !ok || master == nil || len(master.recurrence()) == 0 {
		return nil
	}
	start, err := master.start(cal.TimeZone)
	if err != nil || start.Day != day {
		return nil
	}
	for _, o := range occurrences(start, master.recurrence(), at, at.Add(time.Second), 1) {
		return master.instance(o, cal.TimeZone)
	}
	return nil
}

// gone reports whether an event is cancelled, by itself or with its series.
func (cal *calendar) gone(ev *event) bool {
	if !ev.live() {
		return true
	}
	master := cal.Events[ev.Series]
	return ev.Series != "" && (master == nil || !master.live())
}

// mayReturn reports whether a write can bring a cancelled event back: only instances that their series still has.
func (cal *calendar) mayReturn(ev *event) bool {
	master := cal.Events[ev.Series]
	return ev.Series != "" && !ev.Dropped && master != nil && master.live()
}

// eventFilter is what one listing asks for.
type eventFilter struct {
	view
	cal                 *calendar // read only while the snapshot is taken
	single, showDeleted bool
	noDeletions         bool // deltas of this calendar keep silent about them
	delta               bool
	since               int64
	min, max            time.Time
	updatedMin          time.Time
	q, uid              string
	types               []string
	private, shared     []string
}

// hash covers what every request of one synchronization must repeat.
func (f *eventFilter) hash() string {
	return hash(append([]string{fmt.Sprint(f.single)}, f.types...)...)
}

func (e *Emulator) newEventFilter(c *call, cal *calendar) (*eventFilter, error) {
	f := &eventFilter{
		view: c.view(cal), cal: cal, noDeletions: cal.NoDeletions, single: c.flag("singleEvents", false), showDeleted: c.flag("showDeleted", false),
		min: c.time("timeMin"), max: c.time("timeMax"), updatedMin: c.time("updatedMin"),
		q: strings.ToLower(c.query.Get("q")), uid: c.query.Get("iCalUID"), types: slices.Sorted(slices.Values(c.query["eventTypes"])),
		private: c.query["privateExtendedProperty"], shared: c.query["sharedExtendedProperty"],
		delta: c.query.Has("syncToken"),
	}
	for _, pair := range slices.Concat(f.private, f.shared) {
		if !strings.Contains(pair, "=") {
			return nil, badRequest("invalid", "Invalid extended property constraint: %q", pair)
		}
	}
	if f.delta {
		if err := c.refuseWith("iCalUID", "orderBy", "privateExtendedProperty", "q", "sharedExtendedProperty", "timeMin", "timeMax", "updatedMin"); err != nil {
			return nil, err
		}
		if !c.flag("showDeleted", true) {
			return nil, restrictedSync("showDeleted")
		}
		var err error
		f.since, err = e.since(c, "events/"+cal.ID, f.hash())
		return f, err
	}
	switch {
	case !f.min.IsZero() && !f.max.IsZero() && !f.min.Before(f.max):
		return nil, badRequest("timeRangeEmpty", "The specified time range is empty.")
	case c.query.Get("orderBy") == "startTime" && !f.single:
		return nil, badRequest("badRequest", "The requested ordering is not available for the particular query.")
	case c.query.Has("updatedMin") && f.updatedMin.Before(c.now.Add(-updatedMinReach)):
		return nil, &apiError{
			code: http.StatusGone, domain: "calendar", reason: "updatedMinTooLongAgo", location: "updatedMin", where: "parameter",
			message: "The requested minimum modification time lies too far in the past.",
		}
	}
	return f, nil
}

// eventRow is one entry of a listing before the filters.
type eventRow struct {
	*event
	gone     bool // cancelled
	bareGone bool // a cancelled instance of a living series: listed even when nobody asked for deletions
	from, to time.Time
}

func (e *Emulator) listEvents(c *call) (any, error) {
	cal, err := c.calendar()
	if err != nil {
		return nil, err
	}
	f, err := e.newEventFilter(c, cal)
	if err != nil {
		return nil, err
	}
	resource := "events/" + cal.ID
	p, err := e.page(c, resource, c.size(250, 2500), func() ([]row, error) {
		found := f.rows()
		switch c.query.Get("orderBy") {
		case "startTime":
			slices.SortStableFunc(found, func(a, b eventRow) int { return a.from.Compare(b.from) })
		case "updated":
			slices.SortStableFunc(found, func(a, b eventRow) int { return a.Updated.Compare(b.Updated) })
		}
		rows := make([]row, len(found))
		for i, r := range found {
			rows[i] = func() object { return f.render(r) }
		}
		f.cal = nil // the rows live longer than the lock is held
		return rows, nil
	})
	if err != nil {
		return nil, err
	}
	answer := object{
		"kind": "calendar#events", "etag": etag(max(cal.Changed, cal.Seq)), "summary": cal.Summary, "timeZone": cal.TimeZone,
		"accessRole": "owner", "defaultReminders": defaultReminders(), "updated": stamp(cal.Updated),
	}
	e.close(c, answer, p, resource, f.hash())
	return func() any {
		answer["items"] = p.items()
		return answer
	}, nil
}

// rows lists the calendar, or what changed in it, in order of change.
func (f *eventFilter) rows() []eventRow {
	var rows []eventRow
	for _, ev := range bySeq(f.cal.Events, func(ev *event) int64 { return ev.Seq }) {
		switch {
		case f.delta && ev.Seq <= f.since:
		case f.single && ev.Series == "" && (len(ev.recurrence()) > 0 || len(ev.Past) > 0):
			rows = append(rows, f.instances(ev)...)
		default:
			rows = append(rows, f.row(ev, f.cal.gone(ev)))
		}
	}
	return rows
}

func (f *eventFilter) row(ev *event, gone bool) eventRow {
	r := eventRow{event: ev, gone: gone}
	r.bareGone = gone && f.cal.mayReturn(ev)
	if start, err := ev.start(f.zoneName); err == nil {
		r.from = start.instant(f.cal.location())
	}
	if end, err := ev.end(f.zoneName); err == nil {
		r.to = end.instant(f.cal.location())
	}
	if lines := ev.recurrence(); len(lines) > 0 && (!f.min.IsZero() || !f.max.IsZero()) {
		r.from, r.to = f.nearest(ev, r, lines)
	}
	return r
}

// nearest is the time of the instance that a window would find: a series is in it when one of its instances is.
func (f *eventFilter) nearest(ev *event, r eventRow, lines []string) (from, to time.Time) {
	start, err := ev.start(f.zoneName)
	if err != nil {
		return r.from, r.to
	}
	length := r.to.Sub(r.from)
	for _, o := range occurrences(start, lines, f.lower(length), f.upper(), 3) {
		if from = o.instant(f.cal.location()); f.inWindow(from, from.Add(length)) {
			return from, from.Add(length)
		}
	}
	return r.from, r.to
}

// lower and upper bound the occurrences worth computing. A day on either side makes up for dates, which are no instants.
func (f *eventFilter) lower(length time.Duration) time.Time {
	if f.min.IsZero() {
		return time.Time{}
	}
	return f.min.Add(-max(length, 0) - 24*time.Hour)
}

func (f *eventFilter) upper() time.Time {
	if f.max.IsZero() {
		return time.Time{}
	}
	return f.max.Add(24 * time.Hour)
}

// inWindow: timeMin is a bound on the end, timeMax on the start, both exclusive.
func (f *eventFilter) inWindow(from, to time.Time) bool {
	return (f.min.IsZero() || to.After(f.min)) && (f.max.IsZero() || from.Before(f.max))
}

// instances expands a series. Exceptions are records and list themselves. In a delta the instances that a change took away are
// named as cancelled, as are all of a series that was deleted.
func (f *eventFilter) instances(master *event) []eventRow {
	var rows []eventRow
	listed := map[string]bool{}
	add := func(ev *event, gone bool) {
		if !listed[ev.ID] {
			listed[ev.ID] = true
			rows = append(rows, f.row(ev, gone))
		}
	}
	expand := func(start moment, lines []string, length time.Duration, gone bool) {
		for _, o := range occurrences(start, lines, f.lower(length), f.upper(), maxInstances) {
			id := instanceID(master.ID, o)
			if exception := f.cal.Events[id]; exception == nil {
				add(master.instance(o, f.zoneName), gone)
			} else if f.delta && !master.live() {
				add(exception, true)
			}
		}
	}
	start, err := master.start(f.zoneName)
	end, errEnd := master.end(f.zoneName)
	if err != nil || errEnd != nil {
		return nil
	}
	if lines := master.recurrence(); len(lines) > 0 {
		expand(start, lines, end.At.Sub(start.At), !master.live())
	} else {
		add(master, !master.live()) // it was a series once
	}
	if !f.delta {
		return rows
	}
	for _, past := range master.Past {
		switch {
		case past.Seq <= f.since:
		case len(past.Recurrence) == 0:
			add(master, true) // the single event that became a series
		default:
			expand(past.Start, past.Recurrence, 0, true)
		}
	}
	return rows
}

// render shows a row, or nil when the filters leave it out.
func (f *eventFilter) render(r eventRow) object {
	if !f.keeps(r) {
		return nil
	}
	if r.gone {
		return f.bare(r.event)
	}
	return f.full(r.event)
}

func (f *eventFilter) keeps(r eventRow) bool {
	if f.delta {
		return f.hasType(r) && (!r.gone || !f.noDeletions)
	}
	if r.gone && !f.showDeleted && f.updatedMin.IsZero() && (!r.bareGone || f.single) {
		return false
	}
	return f.hasType(r) && f.inWindow(r.from, r.to) && !r.Updated.Before(f.updatedMin) &&
		(f.uid == "" || r.UID == f.uid) && (f.q == "" || r.mentions(f.q)) &&
		r.hasProperties("private", f.private) && r.hasProperties("shared", f.shared)
}

func (f *eventFilter) hasType(r eventRow) bool {
	kind, _ := r.Doc["eventType"].(string)
	return len(f.types) == 0 || slices.Contains(f.types, cmp.Or(kind, "default"))
}

// mentions is the free text search; q is in lower case.
func (ev *event) mentions(q string) bool {
	for _, name := range []string{"summary", "description", "location"} {
		if s, ok := ev.Doc[name].(string); ok && strings.Contains(strings.ToLower(s), q) {
			return true
		}
	}
	return false
}

// hasProperties reports whether all pairs "name=value" are among the extended properties.
func (ev *event) hasProperties(kind string, pairs []string) bool {
	extended, _ := ev.Doc["extendedProperties"].(object)
	properties, _ := extended[kind].(object)
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if properties[name] != value {
			return false
		}
	}
	return true
}

// findEvent is the calendar and event in the path.
func (c *call) findEvent() (*calendar, *event, error) {
	cal, err := c.calendar()
	if err != nil {
		return nil, nil, err
	}
	ev := cal.find(c.PathValue("event"))
	if ev == nil {
		return nil, nil, notFound("event " + c.PathValue("event"))
	}
	return cal, ev, nil
}

func (e *Emulator) getEvent(c *call) (any, error) {
	cal, ev, err := c.findEvent()
	if err != nil {
		return nil, err
	}
	o := c.view(cal).full(ev)
	if cal.gone(ev) {
		o["status"] = cancelled
	}
	return o, nil
}

// validID reports whether a client may choose this as an event's id: 5 to 1,024 characters of base32hex.
func validID(id string) bool {
	return len(id) >= 5 && len(id) <= 1024 && strings.Trim(id, "abcdefghijklmnopqrstuv0123456789") == ""
}

func (e *Emulator) insertEvent(c *call) (any, error) {
	cal, err := c.calendar()
	if err != nil {
		return nil, err
	}
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	id, given := body["id"].(string)
	switch {
	case !given:
		id = newEventID()
	case !validID(id):
		return nil, badRequest("invalid", "Invalid resource id value.")
	case cal.Events[id] != nil: // a deleted one too: an id is used once
		return nil, &apiError{code: http.StatusConflict, reason: "duplicate", message: "The requested identifier already exists."}
	}
	if len(cal.Events) >= maxEvents {
		return nil, &apiError{code: http.StatusForbidden, domain: "usageLimits", reason: "quotaExceeded", message: "Calendar usage limits exceeded."}
	}
	doc, err := writable(body)
	if err != nil {
		return nil, err
	}
	ev := &event{ID: id, UID: id + "@google.com", Created: c.now, Updated: c.now, Doc: mergePatch(object{"status": "confirmed"}, doc)}
	if uid, ok := body["iCalUID"].(string); ok && uid != "" {
		ev.UID = uid
	}
	if err := normalize(ev.Doc, cal); err != nil {
		return nil, err
	}
	e.put(c.user, cal, ev, c.now)
	return c.view(cal).full(ev), nil
}

func (e *Emulator) patchEvent(c *call) (any, error) {
	return e.rewrite(c, func(old *event, body object) object { return mergePatch(old.Doc, body) })
}

func (e *Emulator) updateEvent(c *call) (any, error) {
	return e.rewrite(c, func(old *event, body object) object {
		doc := mergePatch(object{"status": "confirmed"}, body)
		if kind, ok := old.Doc["eventType"]; ok {
			doc["eventType"] = kind
		}
		return doc
	})
}

// rewrite replaces what clients write of an event. Writing an instance makes it an exception of its series.
func (e *Emulator) rewrite(c *call, change func(old *event, body object) object) (any, error) {
	cal, old, err := c.findEvent()
	if err != nil {
		return nil, err
	}
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	if body, err = writable(body); err != nil {
		return nil, err
	}
	if cal.gone(old) && !cal.mayReturn(old) {
		return nil, forbidden("The event is deleted.")
	}
	if err := c.precondition(etag(old.Seq)); err != nil {
		return nil, err
	}
	next := *old
	next.Doc = change(old, body)
	if err := normalize(next.Doc, cal); err != nil {
		return nil, err
	}
	if next.Series != "" && len(next.recurrence()) > 0 {
		return nil, badRequest("invalid", "An instance of a recurring event cannot recur.")
	}
	if !onlyRemindersDiffer(old.Doc, next.Doc) {
		next.Updated = c.now
	}
	if !reflect.DeepEqual(timing(old.Doc), timing(next.Doc)) {
		next.Sequence++
	}
	e.put(c.user, cal, &next, c.now)
	return c.view(cal).full(&next), nil
}

// onlyRemindersDiffer: such an edit is the user's own and leaves `updated` alone.
func onlyRemindersDiffer(a, b object) bool {
	if reflect.DeepEqual(a["reminders"], b["reminders"]) {
		return false
	}
	a, b = maps.Clone(a), maps.Clone(b)
	delete(a, "reminders")
	delete(b, "reminders")
	return reflect.DeepEqual(a, b)
}

// timing is what iCalendar's sequence number follows.
func timing(doc object) []any {
	return []any{doc["start"], doc["end"], doc["recurrence"], doc["location"]}
}

func (e *Emulator) deleteEvent(c *call) (any, error) {
	cal, old, err := c.findEvent()
	if err != nil {
		return nil, err
	}
	if cal.gone(old) {
		return nil, &apiError{code: http.StatusGone, domain: "calendar", reason: "deleted", message: "Resource has been deleted"}
	}
	if err := c.precondition(etag(old.Seq)); err != nil {
		return nil, err
	}
	next := *old
	next.Doc = mergePatch(old.Doc, object{"status": cancelled})
	next.Updated = c.now
	e.put(c.user, cal, &next, c.now)
	return nil, nil
}

// put stores a record as the newest change and tells the watchers. A series whose rule changed remembers the old one, and drops
// the exceptions of instances that it no longer has.
func (e *Emulator) put(u *user, cal *calendar, ev *event, now time.Time) {
	old := cal.Events[ev.ID]
	ev.Seq = u.next()
	cal.Events[ev.ID], cal.Changed, cal.Updated = ev, ev.Seq, now
	if old != nil && ev.Series == "" && ev.live() {
		e.rememberRule(u, cal, old, ev, now)
	}
	e.notifyWatchers(u, cal, now)
	e.changed()
}

// maxPast is how many old rules a series remembers.
const maxPast = 16

func (e *Emulator) rememberRule(u *user, cal *calendar, old, ev *event, now time.Time) {
	before, after := old.recurrence(), ev.recurrence()
	was, err := old.start(cal.TimeZone)
	is, errIs := ev.start(cal.TimeZone)
	if err != nil || errIs != nil || len(before)+len(after) == 0 ||
		slices.Equal(before, after) && was.Day == is.Day && was.At.Equal(is.At) && was.Zone == is.Zone {
		return
	}
	ev.Past = append(slices.Clone(old.Past), pastRule{Seq: ev.Seq, Start: was, Recurrence: before})
	ev.Past = ev.Past[max(0, len(ev.Past)-maxPast):]
	for id, exception := range cal.Events {
		if exception.Series != ev.ID || exception.Dropped {
			continue
		}
		at := exception.Original.At
		if exception.Original.Day == is.Day && len(occurrences(is, after, at, at.Add(time.Second), 1)) > 0 {
			continue
		}
		dropped := *exception
		dropped.Dropped, dropped.Updated, dropped.Seq = true, now, u.next()
		dropped.Doc = mergePatch(exception.Doc, object{"status": cancelled})
		cal.Events[id], cal.Changed = &dropped, dropped.Seq
	}
}

// eventFields are the fields a client may write, by the JSON type they have. Google drops the others without a word.
var eventFields = map[string]string{
	"anyoneCanAddSelf": "boolean", "attachments": "array", "attendees": "array", "attendeesOmitted": "boolean", "birthdayProperties": "object",
	"colorId": "string", "conferenceData": "object", "description": "string", "end": "object", "endTimeUnspecified": "boolean",
	"eventLabelId": "string", "eventType": "string", "extendedProperties": "object", "focusTimeProperties": "object", "gadget": "object",
	"guestsCanInviteOthers": "boolean", "guestsCanModify": "boolean", "guestsCanSeeOtherGuests": "boolean", "location": "string",
	"outOfOfficeProperties": "object", "recurrence": "array", "reminders": "object", "source": "object", "start": "object", "status": "string",
	"summary": "string", "transparency": "string", "visibility": "string", "workingLocationProperties": "object",
}

// writable picks what a client may write and refuses wrong types. Nulls stay: in a patch they remove.
func writable(body object) (object, error) {
	doc := object{}
	for name, want := range eventFields {
		v, ok := body[name]
		if !ok {
			continue
		}
		if v != nil && jsonType(v) != want {
			return nil, badRequest("invalid", "Invalid value for %s: expected %s, got %s.", name, want, jsonType(v))
		}
		doc[name] = v
	}
	for _, kind := range []string{"private", "shared"} {
		extended, _ := doc["extendedProperties"].(object)
		properties, _ := extended[kind].(object)
		for name, v := range properties {
			if v != nil && jsonType(v) != "string" {
				return nil, badRequest("invalid", "Invalid value for extendedProperties.%s.%s: expected string.", kind, name)
			}
		}
	}
	lines, _ := doc["recurrence"].([]any)
	for _, l := range lines {
		if jsonType(l) != "string" {
			return nil, badRequest("invalid", "Invalid value for recurrence: expected strings.")
		}
	}
	return doc, nil
}

func jsonType(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64, int:
		return "number"
	case []any:
		return "array"
	case object:
		return "object"
	}
	return "null"
}

// mergePatch is RFC 7396: objects merge, null removes, the rest replaces. Neither argument is changed.
func mergePatch(target, patch object) object {
	merged := maps.Clone(target)
	if merged == nil {
		merged = object{}
	}
	for name, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(merged, name)
		case object:
			inner, _ := merged[name].(object)
			merged[name] = mergePatch(inner, v)
		default:
			merged[name] = v
		}
	}
	return merged
}

// normalize checks an event as a client leaves it and brings its times into the stored form.
func normalize(doc object, cal *calendar) error {
	if status, _ := doc["status"].(string); !slices.Contains([]string{"confirmed", "tentative", cancelled}, status) {
		return badRequest("invalid", "Invalid value for status: %q", status)
	}
	var moments [2]moment
	recurs := doc["recurrence"] != nil
	for i, name := range []string{"start", "end"} {
		o, ok := doc[name].(object)
		if !ok || len(o) == 0 {
			return badRequest("required", "Missing %s time.", name)
		}
		m, err := readMoment(o, cal.TimeZone)
		if err != nil {
			return badRequest("invalid", "Invalid %s time: %v.", name, err)
		}
		if recurs && !m.Day && o["timeZone"] == nil {
			return badRequest("required", "Missing time zone definition for %s time.", name)
		}
		moments[i] = m
		doc[name] = m.json(m.local().Location())
	}
	start, end := moments[0], moments[1]
	if start.Day != end.Day {
		return badRequest("invalid", "Start and end times must either both be date or both be dateTime.")
	}
	if end.At.Before(start.At) {
		return badRequest("timeRangeEmpty", "The specified time range is empty.")
	}
	if recurs {
		lines := (&event{Doc: doc}).recurrence()
		if len(lines) == 0 {
			delete(doc, "recurrence")
		} else if _, err := parseRule(start, lines); err != nil {
			return badRequest("invalid", "Invalid recurrence rule: %v", err)
		}
	}
	return nil
}
