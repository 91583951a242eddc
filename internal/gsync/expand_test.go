package gsync

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/calendar/v3"

	"fdc/events"
)

// Series of every kind, over random windows: what FDC expands is what Google expands.
func TestExpansionEqualsGoogles(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	r := rand.New(rand.NewPCG(5, 6))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	zones := []string{"Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe", "UTC", "Pacific/Apia"}
	require.NoError(t, w.google.AddCalendar(alice, calendarIn(pick(zones...))))

	for i := range 60 {
		start := time.Date(2025, time.Month(1+r.IntN(12)), 1+r.IntN(28), r.IntN(24), 15*r.IntN(4), 0, 0, time.UTC)
		rule := "RRULE:" + pick(
			"FREQ=DAILY", "FREQ=DAILY;INTERVAL=3", "FREQ=WEEKLY;BYDAY=MO,SU", "FREQ=WEEKLY;INTERVAL=2;WKST=SU;BYDAY=TU,SA", "FREQ=MONTHLY",
			"FREQ=MONTHLY;BYDAY=-1FR", "FREQ=MONTHLY;BYMONTHDAY=31", "FREQ=YEARLY", "FREQ=YEARLY;BYMONTH=3,10;BYDAY=-1SU", "FREQ=DAILY;INTERVAL=2;BYHOUR=1,2,3")
		more := object{}
		if r.IntN(3) == 0 {
			days := 1 + r.IntN(3)
			rule = strings.ReplaceAll(rule, ";BYHOUR=1,2,3", "")
			more["start"], more["end"] = object{"date": start.Format(time.DateOnly)}, object{"date": start.AddDate(0, 0, days).Format(time.DateOnly)}
			rule += pick("", ";COUNT=7", ";UNTIL="+start.AddDate(0, 6, 0).Format("20060102"))
			more["recurrence"] = []string{
				rule, "EXDATE;VALUE=DATE:" + start.AddDate(0, 0, 7).Format("20060102"), "RDATE;VALUE=DATE:" + start.AddDate(0, 0, 4).Format("20060102"),
			}
		} else {
			zone := zones[r.IntN(len(zones))]
			local := start.In(location(zone))
			text := func(t time.Time) object { return object{"dateTime": t.Format(time.RFC3339), "timeZone": zone} }
			more["start"], more["end"] = text(local), text(local.Add(time.Duration(1+r.IntN(50))*time.Hour/2))
			rule += pick("", ";COUNT=20", ";UNTIL="+start.AddDate(0, 5, 3).Format("20060102T150405Z"))
			more["recurrence"] = []string{
				rule, "EXDATE;TZID=" + zone + ":" + local.AddDate(0, 0, 14).Format("20060102T150405"),
				"RDATE:" + start.Add(100*time.Hour).Format("20060102T150405Z"),
			}
		}
		p.event(fmt.Sprintf("series %d", i), start.Format(time.RFC3339), more)
	}
	p.synced(events.SyncCalendar, "")

	// Every tenth instance of some window is cancelled or moved, by the rules of Google.
	g := p.googleCalendar()
	shown, err := p.Events(t.Context(), p.id, may, may.AddDate(0, 1, 0))
	require.NoError(t, err)
	for i, e := range shown {
		switch {
		case i%20 == 0:
			require.NoError(t, g.Events.Delete(e.CalendarID, e.ID).Do(), e.ID)
		case i%20 == 10 && !e.AllDay:
			from, err := time.Parse(time.RFC3339, e.Start)
			require.NoError(t, err)
			from = from.Add(time.Duration(r.IntN(2000)-1000) * time.Hour)
			_, err = g.Events.Patch(e.CalendarID, e.ID, &calendar.Event{
				Summary: "moved", Start: &calendar.EventDateTime{DateTime: utcText(from)}, End: &calendar.EventDateTime{DateTime: utcText(from.Add(time.Hour))},
			}).Do()
			require.NoError(t, err, e.ID)
		}
	}
	p.synced(events.SyncCalendar, "")

	for range 15 {
		from := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.IntN(3*365*24*60)) * time.Minute)
		p.sameEvents(from, from.Add(time.Duration(1+r.IntN(90*24*60))*time.Minute))
	}
	p.sameEvents(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
	p.quiet()
}

func TestWallClockAcrossDST(t *testing.T) {
	t.Parallel()
	row := newEventRow(&calendar.Event{
		Id: "x", Start: at("2026-03-23T09:00:00+01:00"), End: at("2026-03-23T10:00:00+01:00"), Recurrence: []string{"RRULE:FREQ=WEEKLY;COUNT=3"},
	}, "UTC")
	shown, err := expandAll(newBudget(t.Context(), maxRequestSteps), []storedEvent{{"c", row}}, map[instanceID]bool{{"c", "x", "2026-03-30T07:00:00Z"}: true}, march, may)
	require.NoError(t, err)
	var starts []string
	for _, e := range shown {
		starts = append(starts, e.ID+" "+e.Start)
	}
	require.Equal(t, []string{"x_20260323T080000Z 2026-03-23T08:00:00Z", "x_20260406T070000Z 2026-04-06T07:00:00Z"}, starts)
}

// Nothing that Google might send makes the reading of it fail, and what is shown lies in the window.
func FuzzEventRow(f *testing.F) {
	f.Add("2026-03-23T09:00:00+01:00", "2026-03-23T10:00:00+01:00", "", "Europe/Berlin", "RRULE:FREQ=WEEKLY;COUNT=3")
	f.Add("", "", "2026-03-23", "", "RRULE:FREQ=DAILY;UNTIL=20260401\nEXDATE;VALUE=DATE:20260325")
	f.Add("0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "", "Local", "RDATE:20260101T000000Z")
	f.Add("2026-03-23T09:00:00", "x", "", "Mars/Olympus", "RRULE:FREQ=SECONDLY")
	f.Add("2026-03-23T09:00:00Z", "2026-03-23T08:00:00Z", "", "UTC", "EXRULE:FREQ=DAILY\nRRULE:")
	f.Fuzz(func(t *testing.T, start, end, date, zone, lines string) {
		row := newEventRow(&calendar.Event{
			Id: "x", Start: &calendar.EventDateTime{DateTime: start, TimeZone: zone, Date: date}, End: &calendar.EventDateTime{DateTime: end},
			Recurrence: strings.Split(lines, "\n"),
		}, "Asia/Tokyo")
		shown, err := expandAll(newBudget(t.Context(), maxRequestSteps), []storedEvent{{"c", row}}, nil, march, may)
		if err != nil {
			require.ErrorContains(t, err, "shorter")
			return
		}
		for _, e := range shown {
			require.True(t, e.starts.Before(may) || len(e.Warnings) > 0, e)
		}
		if row.Starts == nil {
			require.Empty(t, shown)
		}
	})
}
