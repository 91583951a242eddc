package googleemu

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"
)

// Calendar is a calendar to make.
type Calendar struct {
	ID          string `json:"id"` // the user's email, or "primary", is the calendar every user already has
	Summary     string `json:"summary"`
	TimeZone    string `json:"timeZone"`    // UTC when empty
	NoDeletions bool   `json:"noDeletions"` // deltas never name deletions
}

var emailPattern = regexp.MustCompile(`^[^@\s]+@[^@\s]+$`)

// AddUser makes an account with a primary calendar and a default task list. An account that exists gets the new name.
func (e *Emulator) AddUser(email, name string) error {
	email = normalEmail(email)
	if !emailPattern.MatchString(email) {
		return fmt.Errorf("add user: %q is no email", email)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.changed()
	if u := e.st.user(email); u != nil {
		u.Name = name
		return nil
	}
	if len(e.st.Users) >= maxUsers {
		return fmt.Errorf("add user %s: more than %d", email, maxUsers)
	}
	sum := sha256.Sum256([]byte(email))
	u := &user{
		ID:    fmt.Sprintf("1%020d", binary.BigEndian.Uint64(sum[:8])), // 21 digits, as Google's
		Email: email, Name: name, Calendars: map[string]*calendar{}, TaskLists: map[string]*taskList{},
	}
	now := e.now()
	u.Calendars[email] = &calendar{ID: email, Summary: email, TimeZone: "UTC", Seq: u.next(), Updated: now, Events: map[string]*event{}}
	u.Default = opaque(sum[:16])
	e.addTaskList(u, u.Default, "My Tasks", now)
	e.st.Users[email] = u
	return nil
}

// known is the user, or an error that says which is missing.
func (e *Emulator) known(email string) (*user, error) {
	if u := e.st.user(email); u != nil {
		return u, nil
	}
	return nil, notFound("user " + email)
}

// AddCalendar makes a calendar in the user's list. One that exists gets the new settings and is listed again.
func (e *Emulator) AddCalendar(email string, c Calendar) error {
	if c.TimeZone == "" {
		c.TimeZone = "UTC"
	}
	if _, err := loadZone(c.TimeZone); err != nil {
		return fmt.Errorf("add calendar %q: %w", c.ID, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.known(email)
	if err != nil {
		return err
	}
	if c.ID == "" || strings.ContainsAny(c.ID, "/ ") || len(c.ID) > 1024 {
		return fmt.Errorf("add calendar: %q is no id", c.ID)
	}
	cal := u.calendar(c.ID)
	if cal == nil {
		if len(u.Calendars) >= maxCalendars {
			return fmt.Errorf("add calendar %s: more than %d", c.ID, maxCalendars)
		}
		cal = &calendar{ID: c.ID, Summary: c.ID, Events: map[string]*event{}, Updated: e.now()}
		u.Calendars[c.ID] = cal
	}
	if c.Summary != "" {
		cal.Summary = c.Summary
	}
	cal.TimeZone, cal.NoDeletions, cal.Removed, cal.Seq = c.TimeZone, c.NoDeletions, false, u.next()
	e.changed()
	return nil
}

// AddEvent stores an event resource as it is, also one that the API would refuse: ends before starts and broken rules exist in
// real calendars. With recurringEventId and originalStartTime it is an exception of that series. It returns the id.
func (e *Emulator) AddEvent(email, calendarID string, resource map[string]any) (string, error) {
	doc, err := plain(resource)
	if err != nil {
		return "", fmt.Errorf("add event: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.known(email)
	if err != nil {
		return "", err
	}
	cal := u.calendar(calendarID)
	if cal == nil {
		return "", notFound("calendar " + calendarID)
	}
	if len(cal.Events) >= maxEvents {
		return "", overQuota("Calendar usage limits exceeded.")
	}
	now := e.now()
	ev := &event{ID: field(doc, "id"), Created: now, Updated: now, Series: field(doc, "recurringEventId")}
	if ev.Series != "" {
		master := cal.Events[ev.Series]
		if master == nil {
			return "", notFound("series " + ev.Series)
		}
		original, err := readMoment(doc["originalStartTime"], cal.TimeZone)
		if err != nil {
			return "", fmt.Errorf("add exception of %s: originalStartTime: %w", ev.Series, err)
		}
		ev.Original, ev.ID = &original, instanceID(ev.Series, original)
		inherited := master.instance(original, cal.TimeZone)
		ev.UID, ev.Doc = inherited.UID, inherited.Doc
	}
	if ev.ID == "" {
		ev.ID = newEventID()
	}
	if ev.UID == "" {
		ev.UID = ev.ID + "@google.com"
	}
	fields, err := writable(doc)
	if err != nil {
		return "", fmt.Errorf("add event %s: %w", ev.ID, err)
	}
	ev.Doc = mergePatch(ev.Doc, fields)
	if ev.Doc["status"] == nil {
		ev.Doc["status"] = "confirmed"
	}
	if sound := maps.Clone(ev.Doc); normalize(sound, cal) == nil {
		ev.Doc = sound
	}
	e.put(u, cal, ev, now)
	return ev.ID, nil
}

// plain is a document as JSON would read it back: no []string, no structs.
func plain(v map[string]any) (object, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var o object
	return o, json.Unmarshal(b, &o)
}

// AddTaskList makes a task list and returns its id.
func (e *Emulator) AddTaskList(email, title string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.known(email)
	if err != nil {
		return "", err
	}
	if len(u.TaskLists) >= maxTaskLists {
		return "", overQuota("Too many task lists.")
	}
	return e.addTaskList(u, newTaskID(), title, e.now()).ID, nil
}

// AddTask appends a task resource to the list ("@default" too), also in states that only Google's own apps produce:
// hidden, deleted. parent puts it under another task, id chooses its id. It returns the id.
func (e *Emulator) AddTask(email, listID string, resource map[string]any) (string, error) {
	doc, err := plain(resource)
	if err != nil {
		return "", fmt.Errorf("add task: %w", err)
	}
	seed, err := readSeedTask(doc)
	if err != nil {
		return "", fmt.Errorf("add task: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.known(email)
	if err != nil {
		return "", err
	}
	list := u.taskList(listID)
	if list == nil {
		return "", notFound("task list " + listID)
	}
	if len(list.Tasks) >= maxTasks {
		return "", overQuota("Too many tasks in the list.")
	}
	if seed.ID == "" {
		seed.ID = newTaskID()
	}
	now := e.now()
	t, err := (&task{ID: seed.ID}).apply(doc, now)
	if err != nil {
		return "", fmt.Errorf("add task %s: %w", seed.ID, err)
	}
	t.Hidden, t.Deleted, t.Parent = seed.Hidden, seed.Deleted, seed.Parent
	previous := ""
	if siblings := list.siblings(t); len(siblings) > 0 {
		previous = siblings[len(siblings)-1].ID
	}
	if err := list.place(t, seed.Parent, previous); err != nil {
		return "", fmt.Errorf("add task %s: %w", seed.ID, err)
	}
	e.putTask(u, list, t, now)
	return t.ID, nil
}

// Token returns an access token with all scopes, to act as the user. Revoking the user's grants ends it like any other.
func (e *Emulator) Token(email string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.known(email)
	if err != nil {
		return "", err
	}
	return field(e.issueAccess(e.now(), u.Email, emulatorClient, everything), "access_token"), nil
}

const (
	alice = "alice@example.com"
	bob   = "bob@example.com"
	team  = "team@group.calendar.google.com"
)

// SeedDemo fills the emulator for a demonstration: Alice with a year of calendar around now, in two time zones, and forty tasks;
// Bob with a little of both. The same now makes the same data, ids too. It does nothing when Alice is already there.
func SeedDemo(e *Emulator, now time.Time) error {
	e.mu.Lock()
	seeded := e.st.user(alice) != nil
	e.mu.Unlock()
	if seeded {
		return nil
	}
	d := &demo{Emulator: e, today: now.UTC().Truncate(24 * time.Hour)}
	d.user(alice, "Alice Founder", "Asia/Tokyo")
	d.user(bob, "Bob Member", "Europe/Berlin")
	d.check(e.AddCalendar(alice, Calendar{ID: team, Summary: "チーム / Team", TimeZone: "America/New_York"}))
	d.series()
	d.days()
	d.meetings()
	d.tasks()
	d.bob()
	if d.err != nil {
		return fmt.Errorf("seed demo: %w", d.err)
	}
	return nil
}

// demo builds the demonstration. The first error stays.
type demo struct {
	*Emulator
	today  time.Time // midnight UTC
	events int
	err    error
}

func (d *demo) check(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *demo) user(email, name, zone string) {
	d.check(d.AddUser(email, name))
	d.check(d.AddCalendar(email, Calendar{ID: "primary", TimeZone: zone}))
}

// event adds one and returns its id.
func (d *demo) event(email, calendarID string, resource object) string {
	d.events++
	if resource["id"] == nil && resource["recurringEventId"] == nil {
		resource["id"] = fmt.Sprintf("demo%05d", d.events)
	}
	id, err := d.AddEvent(email, calendarID, resource)
	d.check(err)
	return id
}

// day is so many days from today.
func (d *demo) day(offset int) time.Time { return d.today.AddDate(0, 0, offset) }

// weekday is the first such day on or after an offset from today.
func (d *demo) weekday(offset int, day time.Weekday) time.Time {
	at := d.day(offset)
	return at.AddDate(0, 0, (int(day)-int(at.Weekday())+7)%7)
}

// at is a time on a day's wall clock.
func at(day time.Time, clock, zone string) object {
	return object{"dateTime": day.Format(dateLayout) + "T" + clock + ":00", "timeZone": zone}
}

func on(day time.Time) object { return object{"date": day.Format(dateLayout)} }

// series adds weekly, daily, monthly and yearly ones that cross daylight saving changes, with moved and cancelled instances.
func (d *demo) series() {
	const tokyo, newYork, berlin = "Asia/Tokyo", "America/New_York", "Europe/Berlin"
	type repeat struct {
		calendar, title, zone, from, to string
		day                             time.Time
		rule                            string
	}
	all := []repeat{
		{"primary", "朝会", tokyo, "09:30", "09:45", d.weekday(-182, time.Monday), "RRULE:FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR"},
		{"primary", "1on1 田中さん", tokyo, "14:00", "14:30", d.weekday(-180, time.Tuesday), "RRULE:FREQ=WEEKLY;BYDAY=TU"},
		{"primary", "週次レビュー", tokyo, "17:00", "18:00", d.weekday(-178, time.Friday), "RRULE:FREQ=WEEKLY;BYDAY=FR"},
		{"primary", "Berlin partner call", berlin, "10:00", "11:00", d.weekday(-175, time.Wednesday), "RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=WE"},
		{"primary", "英語レッスン", tokyo, "20:00", "20:50", d.weekday(-120, time.Thursday), "RRULE:FREQ=WEEKLY;BYDAY=TH;COUNT=40"},
		{"primary", "Invoices and payroll", tokyo, "11:00", "12:00", d.weekday(-170, time.Thursday), "RRULE:FREQ=MONTHLY;BYDAY=4TH"},
		{team, "Team sync 定例", newYork, "08:30", "09:15", d.weekday(-182, time.Monday), "RRULE:FREQ=WEEKLY;BYDAY=MO"},
		{team, "Sprint planning", newYork, "10:00", "11:30", d.weekday(-182, time.Tuesday), "RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=TU"},
		{team, "Retrospective ふりかえり", berlin, "16:00", "17:00", d.weekday(-176, time.Friday), "RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=FR"},
		{team, "Board meeting 取締役会", newYork, "13:00", "15:00", d.weekday(-160, time.Wednesday), "RRULE:FREQ=MONTHLY;INTERVAL=3;BYDAY=2WE"},
	}
	for i, s := range all {
		id := d.event(alice, s.calendar, object{
			"summary": s.title, "start": at(s.day, s.from, s.zone), "end": at(s.day, s.to, s.zone), "recurrence": []string{s.rule},
			"colorId": fmt.Sprint(i%11 + 1),
		})
		if !strings.Contains(s.rule, "WEEKLY;BYDAY="+strings.ToUpper(s.day.Weekday().String()[:2])) {
			continue // the exceptions below need to know which days have an instance
		}
		off, moved := s.day.AddDate(0, 0, 7*(20+i)), s.day.AddDate(0, 0, 7*(28+i))
		d.event(alice, s.calendar, object{
			"recurringEventId": id, "originalStartTime": at(off, s.from, s.zone), "status": cancelled,
		})
		next := moved.AddDate(0, 0, 1)
		d.event(alice, s.calendar, object{
			"recurringEventId": id, "originalStartTime": at(moved, s.from, s.zone), "summary": s.title + " (moved 変更)",
			"start": at(next, s.from, s.zone), "end": at(next, s.to, s.zone),
		})
	}
	birthday := d.day(-40)
	d.event(alice, "primary", object{
		"summary": "創立記念日 Company birthday", "start": on(birthday), "end": on(birthday.AddDate(0, 0, 1)), "recurrence": []string{"RRULE:FREQ=YEARLY"},
		"transparency": "transparent",
	})
}

// days adds holidays and journeys: all-day events of one and of several days.
func (d *demo) days() {
	holidays := []struct{ date, title string }{
		{"01-01", "元日 New Year's Day"},
		{"02-11", "建国記念の日"},
		{"02-23", "天皇誕生日"},
		{"04-29", "昭和の日"},
		{"05-03", "憲法記念日"},
		{"05-04", "みどりの日"},
		{"05-05", "こどもの日"},
		{"08-11", "山の日"},
		{"11-03", "文化の日"},
		{"11-23", "勤労感謝の日"},
		{"07-04", "Independence Day"},
		{"10-03", "Tag der Deutschen Einheit"},
		{"12-25", "Christmas Day"},
	}
	for year := d.day(-182).Year(); year <= d.day(183).Year(); year++ {
		for _, h := range holidays {
			day, err := time.Parse(dateLayout, fmt.Sprintf("%d-%s", year, h.date))
			d.check(err)
			if day.After(d.day(-183)) && day.Before(d.day(183)) {
				d.event(alice, "primary", object{"summary": h.title, "start": on(day), "end": on(day.AddDate(0, 0, 1)), "transparency": "transparent"})
			}
		}
	}
	journeys := []struct {
		offset, days int
		title        string
	}{
		{-150, 3, "大阪出張"},
		{-95, 5, "夏休み Vacation"},
		{-60, 2, "Offsite in Hakone 箱根合宿"},
		{-14, 4, "Trade fair Berlin"},
		{9, 2, "福岡出張"},
		{47, 7, "休暇 Family holiday"},
		{88, 3, "Conference, New York"},
		{140, 2, "社員旅行"},
	}
	for _, j := range journeys {
		d.event(alice, "primary", object{"summary": j.title, "start": on(d.day(j.offset)), "end": on(d.day(j.offset + j.days))})
	}
}

// meetings adds single events over the year, on work days, in the zone of their calendar or of whom they are with.
func (d *demo) meetings() {
	titles := []string{
		"採用面接", "Customer interview", "契約書レビュー", "Product demo", "歯医者", "Pricing workshop", "投資家ミーティング", "Design review",
		"ランチ 佐藤さん", "Security review", "決算説明会の準備", "Call with Acme GmbH", "新機能の打ち合わせ", "Quarterly planning", "税理士さんと相談", "Launch checklist",
	}
	zones := []string{"Asia/Tokyo", "Asia/Tokyo", "America/New_York", "Europe/Berlin"}
	for i := range 180 {
		day := d.day(-180 + 2*i)
		if w := day.Weekday(); w == time.Saturday || w == time.Sunday {
			day = day.AddDate(0, 0, 2)
		}
		calendarID, hour := "primary", 9+i*5%9
		if i%4 == 3 {
			calendarID = team
		}
		until := fmt.Sprintf("%02d:45", hour)
		if i%2 == 1 {
			until = fmt.Sprintf("%02d:15", hour+1)
		}
		zone := zones[i%len(zones)]
		resource := object{
			"summary": titles[i*7%len(titles)], "start": at(day, fmt.Sprintf("%02d:00", hour), zone), "end": at(day, until, zone),
		}
		if i%5 == 0 {
			resource["location"] = "東京都千代田区丸の内 1-1"
		}
		if i%6 == 0 {
			resource["description"] = "議題は共有ドキュメントを参照。\nAgenda in the shared document."
		}
		d.event(alice, calendarID, resource)
	}
}

// tasks adds Alice's forty.
func (d *demo) tasks() {
	titles := []string{
		"請求書を送る", "Renew the domain", "採用ページを更新", "Write the launch post", "名刺を注文", "Book flights to Berlin", "事業計画を見直す", "Reply to Acme",
		"契約書に署名", "Prepare board slides", "領収書を整理", "Order office chairs", "新オフィスの内見", "Fix the onboarding email", "展示会の申し込み", "Call the bank",
	}
	parent := ""
	for i := range 40 {
		t := object{"id": fmt.Sprintf("demoTask%02d", i), "title": titles[i%len(titles)]}
		if i >= len(titles) {
			t["title"] = fmt.Sprintf("%s (%d)", titles[i%len(titles)], i/len(titles)+1)
		}
		if i%3 != 2 {
			t["due"] = d.day(i*3-30).Format(dateLayout) + "T00:00:00.000Z"
		}
		if i%7 == 0 {
			t["notes"] = "詳細は共有フォルダ。\nDetails are in the shared folder."
		}
		switch {
		case i%5 == 4:
			t["status"], t["completed"] = completed, d.day(-i).Format(time.RFC3339)
			t["hidden"] = i%10 == 9
		case i%8 == 0:
			parent = field(t, "id")
		case i%8 < 3:
			t["parent"] = parent
		}
		_, err := d.AddTask(alice, "@default", t)
		d.check(err)
	}
}

// bob adds Bob's few.
func (d *demo) bob() {
	monday := d.weekday(-28, time.Monday)
	d.event(bob, "primary", object{
		"summary": "Team lunch", "start": at(monday, "12:00", "Europe/Berlin"), "end": at(monday, "13:00", "Europe/Berlin"),
		"recurrence": []string{"RRULE:FREQ=WEEKLY;COUNT=20"},
	})
	d.event(bob, "primary", object{"summary": "Urlaub", "start": on(d.day(20)), "end": on(d.day(25))})
	for i, title := range []string{"Read the handbook", "経費精算", "Set up the laptop"} {
		_, err := d.AddTask(bob, "@default", object{"id": fmt.Sprintf("demoBob%d", i), "title": title, "due": d.day(i).Format(time.RFC3339)})
		d.check(err)
	}
}
