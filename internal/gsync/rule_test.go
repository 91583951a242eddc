package gsync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/teambition/rrule-go"
	"google.golang.org/api/calendar/v3"
)

// hostileRules never come true, or come true very often, or are very long.
var hostileRules = []string{
	"FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "FREQ=DAILY;BYSETPOS=2", "FREQ=DAILY;COUNT=1000000000;BYMONTH=2;BYMONTHDAY=30",
	"FREQ=WEEKLY;COUNT=5;BYMONTH=2;BYMONTHDAY=30", "FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=1", "FREQ=YEARLY;BYWEEKNO=53;BYYEARDAY=100;COUNT=3",
	"FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;INTERVAL=10000", "FREQ=YEARLY;BYDAY=53MO;BYSETPOS=-366", "FREQ=DAILY;UNTIL=99991231T000000Z;BYSETPOS=2",
	"FREQ=DAILY;BYHOUR=" + counted(24) + ";BYMINUTE=" + counted(60) + ";BYSECOND=" + counted(60),
	"FREQ=YEARLY;BYDAY=MO,TU,WE;BYSETPOS=366;BYHOUR=" + counted(24) + ";BYMINUTE=" + counted(60) + ";BYSECOND=" + counted(60),
	"FREQ=DAILY;BYHOUR=" + strings.Repeat("1,", 1000) + "1;BYMINUTE=" + strings.Repeat("1,", 1000) + "1;BYSECOND=" + strings.Repeat("1,", 1000) + "1",
	"FREQ=MONTHLY;BYSETPOS=" + strings.Repeat("1,-366,", 5000) + "2;BYMONTHDAY=" + strings.Repeat("31,", 5000) + "30",
}

func counted(n int) string {
	values := make([]string, n)
	for i := range values {
		values[i] = fmt.Sprint(i)
	}
	return strings.Join(values, ",")
}

func hostile(rule string, start string) storedEvent {
	row := newEventRow(&calendar.Event{
		Id: "x", Start: &calendar.EventDateTime{DateTime: start, TimeZone: "Europe/Berlin"}, End: &calendar.EventDateTime{DateTime: start},
		Recurrence: []string{"RRULE:" + rule},
	}, "UTC")
	return storedEvent{"c", row}
}

// However hostile its series are, a request takes the steps that it may take and no more, and a series whose instances aren't known
// says so at its start.
func TestHostileSeriesAreBounded(t *testing.T) {
	t.Parallel()
	var rows []storedEvent
	for i := range 400 {
		rows = append(rows, hostile(hostileRules[i%len(hostileRules)], []string{"2026-03-23T09:00:00Z", "1971-01-01T00:00:00Z", "0001-01-01T00:00:00Z"}[i%3]))
	}
	b := newBudget(t.Context(), maxRequestSteps)
	shown, err := expandAll(b, rows, nil, march, march.AddDate(1, 0, 0))
	require.NoError(t, err)
	require.GreaterOrEqual(t, b.total, 0)
	marked := 0
	for _, e := range shown {
		if len(e.Warnings) > 0 {
			require.Equal(t, []string{warnTooCostly}, e.Warnings)
			require.Equal(t, "x", e.ID, "the series, not an instance")
			marked++
		}
	}
	require.Positive(t, marked)

	// What costs nothing is shown as ever, beside what costs too much.
	b = newBudget(t.Context(), maxRequestSteps)
	fine := hostile("FREQ=DAILY;COUNT=3", "2026-03-23T09:00:00Z")
	shown, err = expandAll(b, []storedEvent{hostile(hostileRules[2], "0001-01-01T00:00:00Z"), fine}, nil, march, may)
	require.NoError(t, err)
	require.Len(t, shown, 4)
	require.Equal(t, "0001-01-01T00:00:00Z", shown[0].Start, "before the window: a mark that nobody sees is none")

	// Where the rule allows it, the window costs the steps, not the years before it.
	b = newBudget(t.Context(), maxRequestSteps)
	_, err = expandAll(b, []storedEvent{hostile(hostileRules[0], "0001-01-01T00:00:00Z")}, nil, march, may)
	require.NoError(t, err)
	require.Less(t, maxRequestSteps-b.total, 300)
}

// A caller that leaves, or whose time is over, ends an expansion in the middle of a series.
func TestExpansionEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, rule := range hostileRules {
		for looks := range 3 {
			b := newBudget(t.Context(), maxRequestSteps)
			b.err = func() error {
				if looks--; looks < 0 {
					return context.DeadlineExceeded
				}
				return nil
			}
			row := hostile(rule, "0001-01-01T00:00:00Z")
			_, err := expandAll(b, []storedEvent{row, row, row, row}, nil, march, may)
			require.ErrorIs(t, err, context.DeadlineExceeded, rule)
			require.LessOrEqual(t, maxRequestSteps-b.total, 3*(maxSeriesSteps+stepsPerCheck))
		}
	}
}

// Random rules over random windows: what we find near the window is what the library finds from the start on.
func TestRulesEqualTheLibrarys(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	zoneNames := []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"} // none that has skipped a day
	for range 1000 {
		loc := location(zoneNames[r.IntN(len(zoneNames))])
		start := time.Date(1990+r.IntN(30), time.Month(1+r.IntN(12)), 1+r.IntN(31), r.IntN(24), r.IntN(60), 0, 0, loc)
		text := pick("FREQ=DAILY", "FREQ=WEEKLY", "FREQ=WEEKLY;BYDAY=MO,TH", "FREQ=WEEKLY;BYDAY=SU,SA;WKST=SU", "FREQ=MONTHLY", "FREQ=MONTHLY;BYDAY=-1FR,2TU",
			"FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1,2", "FREQ=MONTHLY;BYMONTHDAY=-1,15,31", "FREQ=YEARLY", "FREQ=YEARLY;BYDAY=20MO,-3SU",
			"FREQ=YEARLY;BYMONTH=2,11;BYDAY=1WE,-1WE", "FREQ=YEARLY;BYYEARDAY=1,-1,200", "FREQ=YEARLY;BYWEEKNO=20,53;BYDAY=TU", "FREQ=YEARLY;BYSETPOS=3;BYMONTH=5;BYDAY=FR") +
			pick("", "", ";INTERVAL=2", ";INTERVAL=7") + pick("", "", ";COUNT=40", ";UNTIL=20240229T120000Z") +
			pick("", "", "", ";BYHOUR=3,17,2;BYMINUTE=0,30")
		theirs, err := rrule.StrToRRule(text)
		require.NoError(t, err)
		theirs.DTStart(start)
		ours, err := newRule(text, start)
		require.NoError(t, err)

		from := time.Date(1989+r.IntN(35), time.Month(1+r.IntN(12)), 1, r.IntN(24), 0, 0, 0, time.UTC)
		to := from.Add(time.Duration(r.IntN(400*24)) * time.Hour)
		var want, got []string
		for _, at := range theirs.Between(from, to, true) {
			want = append(want, utcText(at))
		}
		err = ours.each(newBudget(t.Context(), maxRequestSteps), from, to, func(at time.Time) bool {
			if !at.Before(from) && !at.After(to) {
				got = append(got, utcText(at))
			}
			return true
		})
		require.NoError(t, err, "%s from %s", text, start)
		require.Equal(t, want, got, "%s from %s between %s and %s", text, start, from, to)
	}
}

// No recurrence takes more steps than a series may have, to store as to read.
func FuzzRuleIsBounded(f *testing.F) {
	for _, rule := range hostileRules {
		f.Add("RRULE:"+rule, int64(0), uint16(400))
	}
	f.Add("RRULE:FREQ=YEARLY;BYDAY=MO,2TU;BYWEEKNO=-53\nEXDATE;TZID=Europe/Berlin:20260101T000000", int64(-62e9), uint16(1))
	f.Add("RDATE;VALUE=DATE:"+strings.Repeat("20260101,", 9000)+"20260101\nRDATE;TZID=Mars/Olympus:20260101T000000", int64(2e11), uint16(30))
	f.Fuzz(func(t *testing.T, lines string, start int64, days uint16) {
		at := time.Unix(start%250e9, 0)
		row := newEventRow(&calendar.Event{
			Id: "x", Start: &calendar.EventDateTime{DateTime: utcText(at)}, End: &calendar.EventDateTime{DateTime: utcText(at)},
			Recurrence: strings.Split(lines, "\n"),
		}, "Asia/Tokyo")
		b := newBudget(t.Context(), maxRequestSteps)
		from := at.AddDate(0, 0, int(days))
		shown, err := expandAll(b, []storedEvent{{"c", row}}, nil, from, from.Add(maxWindow))
		require.NoError(t, err)
		require.LessOrEqual(t, maxRequestSteps-b.total, maxSeriesSteps)
		require.LessOrEqual(t, len(shown), maxSeriesSteps)
	})
}
