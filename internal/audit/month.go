package audit

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Month is a month of the log, in UTC.
type Month struct{ start time.Time }

// MonthOf returns the month that a time is in.
func MonthOf(t time.Time) Month {
	t = t.UTC()
	return Month{time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)}
}

// Add returns the month n months later.
func (m Month) Add(n int) Month { return Month{m.start.AddDate(0, n, 0)} }

// Before reports whether m is earlier than o.
func (m Month) Before(o Month) bool { return m.start.Before(o.start) }

// Start returns the first moment of the month.
func (m Month) Start() time.Time { return m.start }

// String is YYYY-MM.
func (m Month) String() string { return m.start.Format("2006-01") }

// bound is the month's first moment as a partition bound. The explicit +00 keeps the session's time zone out of it.
func (m Month) bound() string { return m.start.Format("2006-01-02 15:04:05+00") }

// Bounds is the condition that the month's rows fulfil.
func (m Month) Bounds() string {
	return fmt.Sprintf("occurred_at >= '%s' AND occurred_at < '%s'", m.bound(), m.Add(1).bound())
}

// ParseMonth reads YYYY-MM.
func ParseMonth(text string) (Month, error) {
	t, err := time.Parse("2006-01", text)
	if err != nil {
		return Month{}, fmt.Errorf("%q is no month; want YYYY-MM", text)
	}
	return Month{t}, nil
}

const tablePrefix = table + "_"

// Table is the name of the month's partition: audit_logs_YYYY_MM.
func (m Month) Table() string {
	return fmt.Sprintf("%s%04d_%02d", tablePrefix, m.start.Year(), m.start.Month())
}

// parseTable is the month whose partition has that name; false for every name that table would not give.
func parseTable(name string) (Month, bool) {
	rest, ok := strings.CutPrefix(name, tablePrefix)
	if !ok || len(rest) != len("2006_01") || rest[4] != '_' {
		return Month{}, false
	}
	year, err1 := strconv.Atoi(rest[:4])
	number, err2 := strconv.Atoi(rest[5:])
	if err1 != nil || err2 != nil || number < 1 || number > 12 {
		return Month{}, false
	}
	m := Month{time.Date(year, time.Month(number), 1, 0, 0, 0, 0, time.UTC)}
	return m, m.Table() == name
}
