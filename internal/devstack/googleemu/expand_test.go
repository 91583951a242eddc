package googleemu

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOccurrences(t *testing.T) {
	t.Parallel()
	berlin := moment{At: time.Date(2026, 3, 27, 9, 30, 0, 0, time.UTC), Zone: "Europe/Berlin"} // 10:30 there, two days before summer time
	day := moment{Day: true, At: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)}
	for name, tc := range map[string]struct {
		start    moment
		lines    []string
		from, to string
		want     string
	}{
		"wall clock":          {berlin, []string{"RRULE:FREQ=DAILY;COUNT=4"}, "", "", "2026-03-27T09:30Z 2026-03-28T09:30Z 2026-03-29T08:30Z 2026-03-30T08:30Z"},
		"exception date":      {berlin, []string{"RRULE:FREQ=DAILY;COUNT=3", "EXDATE;TZID=Europe/Berlin:20260328T103000"}, "", "", "2026-03-27T09:30Z 2026-03-29T08:30Z"},
		"exception in UTC":    {berlin, []string{"RRULE:FREQ=DAILY;COUNT=2", "EXDATE:20260328T093000Z"}, "", "", "2026-03-27T09:30Z"},
		"extra date":          {berlin, []string{"RRULE:FREQ=DAILY;COUNT=1", "RDATE:20260401T100000Z"}, "", "", "2026-03-27T09:30Z 2026-04-01T10:00Z"},
		"bare dates":          {berlin, []string{"RDATE:20260401T100000Z"}, "", "", "2026-03-27T09:30Z 2026-04-01T10:00Z"},
		"until":               {berlin, []string{"RRULE:FREQ=DAILY;UNTIL=20260329T083000Z"}, "", "", "2026-03-27T09:30Z 2026-03-28T09:30Z 2026-03-29T08:30Z"},
		"window":              {berlin, []string{"RRULE:FREQ=DAILY"}, "2026-04-01T08:30Z", "2026-04-03T08:30Z", "2026-04-01T08:30Z 2026-04-02T08:30Z"},
		"whole days":          {day, []string{"RRULE:FREQ=MONTHLY;COUNT=3"}, "", "", "2026-01-31 2026-03-31 2026-05-31"},
		"whole days until":    {day, []string{"RRULE:FREQ=DAILY;UNTIL=20260202"}, "", "", "2026-01-31 2026-02-01 2026-02-02"},
		"whole day exception": {day, []string{"RRULE:FREQ=DAILY;COUNT=3", "EXDATE;VALUE=DATE:20260201"}, "", "", "2026-01-31 2026-02-02"},
		"broken":              {day, []string{"RRULE:FREQ=DAILY;BYDAY=XX"}, "", "", ""},
		"impossible":          {day, []string{"RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "", "", ""},
		"two rules":           {day, []string{"RRULE:FREQ=DAILY", "RRULE:FREQ=WEEKLY"}, "", "", ""},
		"exrule":              {day, []string{"RRULE:FREQ=DAILY", "EXRULE:FREQ=WEEKLY"}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bound := func(s string) time.Time {
				if s == "" {
					return time.Time{}
				}
				at, err := time.Parse("2006-01-02T15:04Z", s)
				require.NoError(t, err)
				return at
			}
			var got []string
			for _, o := range occurrences(tc.start, tc.lines, bound(tc.from), bound(tc.to), 100) {
				if o.Day {
					got = append(got, o.At.Format(dateLayout))
				} else {
					got = append(got, o.At.UTC().Format("2006-01-02T15:04Z"))
				}
			}
			require.Equal(t, tc.want, strings.Join(got, " "))
		})
	}
	require.Len(t, occurrences(day, []string{"RRULE:FREQ=DAILY"}, time.Time{}, time.Time{}, 7), 7)
	require.Empty(t, occurrences(day, []string{"RRULE:FREQ=DAILY"}, day.At.AddDate(300, 0, 0), time.Time{}, 7), "a rule is followed only so far")
}

func TestInstanceIDs(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]moment{
		"abc_20260327T093000Z": {At: time.Date(2026, 3, 27, 10, 30, 0, 0, time.FixedZone("", 3600))},
		"abc_20260327":         {Day: true, At: time.Date(2026, 3, 27, 0, 0, 0, 0, time.UTC)},
	} {
		require.Equal(t, want, instanceID("abc", m))
		series, day, at, ok := splitInstanceID(want)
		require.True(t, ok)
		require.Equal(t, "abc", series)
		require.Equal(t, m.Day, day)
		require.True(t, at.Equal(m.At))
	}
	for _, id := range []string{"", "abc", "_20260327", "abc_", "abc_20261327", "abc_2026"} {
		_, _, _, ok := splitInstanceID(id)
		require.False(t, ok, id)
	}
}

// FuzzRecurrence: whatever a client calls a rule, it is refused or followed, in order and not for ever.
func FuzzRecurrence(f *testing.F) {
	for _, seed := range []string{
		"RRULE:FREQ=WEEKLY;BYDAY=MO,TU;UNTIL=20260701T000000Z", "RRULE:FREQ=MONTHLY;BYDAY=-1FR;INTERVAL=3", "RRULE:FREQ=YEARLY;BYWEEKNO=53;WKST=SU",
		"EXDATE;TZID=Asia/Tokyo:20260302T090000", "RDATE;VALUE=DATE:20260303,20260304", "RRULE:FREQ=DAILY;BYSETPOS=-1;BYHOUR=1,2", "RRULE:FREQ=YEARLY;BYEASTER=-2",
		"RRULE:COUNT=1", "RRULE", ":", "RRULE:FREQ=DAILY;COUNT=-1;INTERVAL=0",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, line string, day bool) {
		start := moment{Day: day, At: testTime.Truncate(24 * time.Hour), Zone: "America/New_York"}
		if _, err := parseRule(start, []string{line}); err != nil {
			return
		}
		found := occurrences(start, []string{line}, time.Time{}, start.At.AddDate(5, 0, 0), maxInstances)
		for i := range found {
			if i > 0 && !found[i-1].At.Before(found[i].At) {
				t.Fatalf("%q: %v after %v", line, found[i], found[i-1])
			}
		}
	})
}
