package audit

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// month is the first moment of a month, in UTC.
type month struct{ start time.Time }

func monthOf(t time.Time) month {
	t = t.UTC()
	return month{time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)}
}

func (m month) add(n int) month { return month{m.start.AddDate(0, n, 0)} }

func (m month) before(o month) bool { return m.start.Before(o.start) }

// String is YYYY-MM.
func (m month) String() string { return m.start.Format("2006-01") }

// bound is the month's first moment as a partition bound. The explicit +00 keeps the session's time zone out of it.
func (m month) bound() string { return m.start.Format("2006-01-02 15:04:05+00") }

// bounds is the condition that the month's rows fulfil.
func (m month) bounds() string {
	return fmt.Sprintf("occurred_at >= '%s' AND occurred_at < '%s'", m.bound(), m.add(1).bound())
}

// parseMonth reads YYYY-MM.
func parseMonth(text string) (month, error) {
	t, err := time.Parse("2006-01", text)
	if err != nil {
		return month{}, fmt.Errorf("%q is no month; want YYYY-MM", text)
	}
	return month{t}, nil
}

const tablePrefix = table + "_"

// table is the name of the month's partition: audit_logs_YYYY_MM.
func (m month) table() string {
	return fmt.Sprintf("%s%04d_%02d", tablePrefix, m.start.Year(), m.start.Month())
}

// parseTable is the month whose partition has that name; false for every name that table would not give.
func parseTable(name string) (month, bool) {
	rest, ok := strings.CutPrefix(name, tablePrefix)
	if !ok || len(rest) != len("2006_01") || rest[4] != '_' {
		return month{}, false
	}
	year, err1 := strconv.Atoi(rest[:4])
	number, err2 := strconv.Atoi(rest[5:])
	if err1 != nil || err2 != nil || number < 1 || number > 12 {
		return month{}, false
	}
	m := month{time.Date(year, time.Month(number), 1, 0, 0, 0, 0, time.UTC)}
	return m, m.table() == name
}
