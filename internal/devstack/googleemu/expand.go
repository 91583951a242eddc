package googleemu

import (
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a machine without zoneinfo still knows Asia/Tokyo

	"github.com/teambition/rrule-go"
)

// moment is an event's start or end.
type moment struct {
	Day  bool      `json:"day,omitempty"` // a whole day: At is its midnight in UTC
	At   time.Time `json:"at"`
	Zone string    `json:"zone"` // where its wall clock hangs; the calendar's when the event names none
}

const dateLayout = "2006-01-02"

// readMoment reads a start, end or originalStartTime. A time without an offset is in its timeZone.
func readMoment(v any, otherwise string) (moment, error) {
	o, ok := v.(object)
	if !ok {
		return moment{}, fmt.Errorf("missing")
	}
	date, hasDate := o["date"].(string)
	clock, hasClock := o["dateTime"].(string)
	if hasDate == hasClock {
		return moment{}, fmt.Errorf("needs either date or dateTime")
	}
	if hasDate {
		day, err := time.Parse(dateLayout, date)
		return moment{Day: true, At: day}, err
	}
	name, _ := o["timeZone"].(string)
	if name == "" {
		name = otherwise
	}
	loc, err := loadZone(name)
	if err != nil {
		return moment{}, err
	}
	at, err := time.Parse(time.RFC3339, clock)
	if err != nil {
		if at, err = time.ParseInLocation("2006-01-02T15:04:05", clock, loc); err != nil {
			return moment{}, err
		}
	}
	return moment{At: at.In(loc).Truncate(time.Second), Zone: name}, nil
}

// json is the moment on the wire, its wall clock read in the given zone.
func (m moment) json(in *time.Location) object {
	if m.Day {
		return object{"date": m.At.Format(dateLayout)}
	}
	return object{"dateTime": m.At.In(in).Format(time.RFC3339), "timeZone": m.Zone}
}

// instant is when the moment is for someone in that zone.
func (m moment) instant(in *time.Location) time.Time {
	if m.Day {
		return time.Date(m.At.Year(), m.At.Month(), m.At.Day(), 0, 0, 0, 0, in)
	}
	return m.At
}

// local is the moment in the zone its wall clock hangs in, which is where a rule has to be computed:
// an instant of ours may have lost its location in the state file.
func (m moment) local() time.Time {
	if m.Day {
		return m.At.UTC()
	}
	loc, err := loadZone(m.Zone)
	if err != nil {
		loc = time.UTC // only a seeded event can name an unknown zone
	}
	return m.At.In(loc)
}

// shift is the same moment at another instant.
func (m moment) shift(at time.Time) moment { return moment{Day: m.Day, At: at, Zone: m.Zone} }

// instanceID is how Google names the instance of a series.
func instanceID(series string, original moment) string {
	if original.Day {
		return series + "_" + original.At.Format("20060102")
	}
	return series + "_" + original.At.UTC().Format("20060102T150405Z")
}

// splitInstanceID is instanceID's inverse.
func splitInstanceID(id string) (series string, day bool, at time.Time, ok bool) {
	i := strings.LastIndexByte(id, '_')
	if i <= 0 {
		return "", false, time.Time{}, false
	}
	series, suffix := id[:i], id[i+1:]
	if at, err := time.Parse("20060102", suffix); err == nil {
		return series, true, at, true
	}
	if at, err := time.Parse("20060102T150405Z", suffix); err == nil {
		return series, false, at, true
	}
	return "", false, time.Time{}, false
}

// soundRule refuses what the library behind this cannot bear, and what Google does not have either: sub-daily frequencies and
// long lists of hours or minutes could keep a CPU busy for years, numbers beyond the calendar overflow, BYEASTER panics.
func soundRule(o rrule.ROption) error {
	switch {
	case o.Freq > rrule.DAILY:
		return fmt.Errorf("frequency %s is not supported", o.Freq)
	case o.Interval < 0 || o.Interval > 10_000 || o.Count < 0 || o.Count > maxRecurrenceSteps:
		return fmt.Errorf("interval or count out of range")
	case max(len(o.Byhour), 1)*max(len(o.Byminute), 1)*max(len(o.Bysecond), 1) > 24:
		return fmt.Errorf("more than 24 times a day")
	case len(o.Byeaster) > 0:
		return fmt.Errorf("BYEASTER is not supported")
	case len(o.Bysetpos)+len(o.Bymonth)+len(o.Bymonthday)+len(o.Byyearday)+len(o.Byweekno)+len(o.Byweekday) > 400:
		return fmt.Errorf("the rule is too long")
	}
	return nil
}

// parseRule reads recurrence lines. EXRULE is refused, as the library would ignore it.
func parseRule(start moment, lines []string) (*rrule.Set, error) {
	if len(lines) > 500 {
		return nil, fmt.Errorf("more than 500 recurrence lines")
	}
	hasRule := false
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		name, _, _ = strings.Cut(name, ";")
		switch name {
		case "RRULE":
			if hasRule {
				return nil, fmt.Errorf("more than one RRULE")
			}
			hasRule = true
		case "RDATE", "EXDATE":
		default:
			return nil, fmt.Errorf("recurrence line %q is not supported", name)
		}
	}
	first := start.local()
	set, err := rrule.StrSliceToRRuleSetInLoc(lines, first.Location())
	if err != nil {
		return nil, err
	}
	if rule := set.GetRRule(); rule != nil {
		if err := soundRule(rule.OrigOptions); err != nil {
			return nil, err
		}
	}
	set.DTStart(first)
	if !hasRule {
		set.RDate(first) // a series of bare dates begins with its own start
	}
	return set, nil
}

// occurrences are the instances of a rule that start in [from, to), at most limit. Zero times mean no bound.
// A broken rule, which real calendars contain, has none.
func occurrences(start moment, lines []string, from, to time.Time, limit int) []moment {
	set, err := parseRule(start, lines)
	if err != nil {
		return nil
	}
	var found []moment
	next := set.Iterator()
	for range maxRecurrenceSteps {
		at, ok := next()
		if !ok || !to.IsZero() && !at.Before(to) || len(found) == limit {
			break
		}
		if at.Before(from) {
			continue
		}
		found = append(found, start.shift(at))
	}
	return found
}

// zones keeps time zones once loaded: the standard library reads a file each time. Its size is that of the zone database.
var zones sync.Map

func loadZone(name string) (*time.Location, error) {
	if known, ok := zones.Load(name); ok {
		return known.(*time.Location), nil //nolint:forcetypeassert // nothing else is stored
	}
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("unknown time zone %q", name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("unknown time zone %q", name)
	}
	zones.Store(name, loc)
	return loc, nil
}
