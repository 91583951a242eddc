package gsync

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/teambition/rrule-go"
)

// maxRepeat is how many days, weeks, months or years may lie between instances.
const maxRepeat = 10_000

// lastYear is where series end that have no other end.
const lastYear = 9999

// numbers are the values of a BY part; nil when the rule has none.
type numbers map[int]bool

// rule is an RRULE of RFC 5545 by the day, week, month or year. The library only reads the text: its own iterator looks for
// the next instance until the year 9999 and can't be stopped.
type rule struct {
	start    time.Time // in the zone of the event
	freq     rrule.Frequency
	interval int
	count    int       // 0: no end by number
	until    time.Time // zero: no end by time
	weekBase int       // the day before which weeks begin: Monday is 0

	months, monthDays, yearDays, weeks, weekdays numbers
	nth                                          map[[2]int]bool // {number, weekday} in the month or year
	setpos                                       []int
	hours, minutes, seconds                      []int
}

// newRule reads an RRULE without its name. Rules by the hour or finer are refused, calendars have none, and so is BYEASTER, which
// is no part of RFC 5545.
func newRule(text string, start time.Time) (*rule, error) {
	o, err := rrule.StrToROptionInLocation(text, start.Location())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRule, err)
	}
	if o.Freq > rrule.DAILY || o.Interval < 0 || o.Interval > maxRepeat || len(o.Byeaster) > 0 || !sensible(o) {
		return nil, errRule
	}
	r := &rule{
		start: start, freq: o.Freq, interval: max(o.Interval, 1), count: max(o.Count, 0), until: o.Until, weekBase: o.Wkst.Day(),
		months: numbersOf(o.Bymonth), monthDays: numbersOf(o.Bymonthday), yearDays: numbersOf(o.Byyearday), weeks: numbersOf(o.Byweekno),
		setpos: distinct(o.Bysetpos), hours: distinct(o.Byhour), minutes: distinct(o.Byminute), seconds: distinct(o.Bysecond),
	}
	for _, day := range o.Byweekday {
		if day.N() == 0 || r.freq > rrule.MONTHLY {
			r.weekdays = r.weekdays.with(day.Day())
			continue
		}
		if r.nth == nil {
			r.nth = map[[2]int]bool{}
		}
		r.nth[[2]int{day.N(), day.Day()}] = true
	}
	r.fillFromStart()
	return r, nil
}

// sensible reports whether all numbers are within the bounds of RFC 5545.
func sensible(o *rrule.ROption) bool {
	within := func(values []int, least, most int, negative bool) bool {
		return !slices.ContainsFunc(values, func(v int) bool {
			if negative && v < 0 {
				v = -v
			}
			return v < least || v > most
		})
	}
	return within(o.Bysecond, 0, 59, false) && within(o.Byminute, 0, 59, false) && within(o.Byhour, 0, 23, false) &&
		within(o.Bymonthday, 1, 31, true) && within(o.Byyearday, 1, 366, true) && within(o.Byweekno, 1, 53, true) &&
		within(o.Bymonth, 1, 12, false) && within(o.Bysetpos, 1, 366, true) &&
		!slices.ContainsFunc(o.Byweekday, func(d rrule.Weekday) bool { return d.N() < -53 || d.N() > 53 })
}

// fillFromStart takes what the rule leaves open from the start of the series.
func (r *rule) fillFromStart() {
	if r.monthDays == nil && r.yearDays == nil && r.weeks == nil && r.weekdays == nil && r.nth == nil {
		switch r.freq {
		case rrule.YEARLY:
			if r.months == nil {
				r.months = r.months.with(int(r.start.Month()))
			}
			r.monthDays = r.monthDays.with(r.start.Day())
		case rrule.MONTHLY:
			r.monthDays = r.monthDays.with(r.start.Day())
		case rrule.WEEKLY:
			r.weekdays = r.weekdays.with(weekday(r.start))
		default:
		}
	}
	if r.hours == nil {
		r.hours = []int{r.start.Hour()}
	}
	if r.minutes == nil {
		r.minutes = []int{r.start.Minute()}
	}
	if r.seconds == nil {
		r.seconds = []int{r.start.Second()}
	}
}

func (n numbers) with(v int) numbers {
	if n == nil {
		n = numbers{}
	}
	n[v] = true
	return n
}

func numbersOf(values []int) (n numbers) {
	for _, v := range values {
		n = n.with(v)
	}
	return n
}

// distinct sorts the values and drops repetitions, of which a hostile rule may have thousands.
func distinct(values []int) []int {
	slices.Sort(values)
	return slices.Compact(values)
}

// each calls yield with the instances, in order, until it returns false. Instances on days before from and after to need not be
// among them; a zero time is no bound. A rule that counts has to be followed from its start, others are from near the window.
func (r *rule) each(b *budget, from, to time.Time, yield func(time.Time) bool) error {
	last := math.MaxInt
	if !to.IsZero() {
		last = dayOf(to.UTC()) + 1 // a zone may be a day ahead of UTC
	}
	made := 0
	for i := r.firstPeriod(from); ; i++ {
		first, length := r.period(i)
		if first > last || day(first).Year() > lastYear {
			return nil
		}
		if err := b.spend(1); err != nil {
			return err
		}
		days, err := r.days(b, first, length)
		if err != nil {
			return err
		}
		more, err := r.instances(b, days, func(at time.Time) bool {
			if !r.until.IsZero() && at.After(r.until) {
				return false
			}
			if at.Before(r.start) {
				return true
			}
			made++
			return yield(at) && made != r.count
		})
		if err != nil || !more {
			return err
		}
	}
}

// firstPeriod is the number of the first period that may reach from.
func (r *rule) firstPeriod(from time.Time) int {
	if r.count > 0 || from.IsZero() || !from.After(r.start) {
		return 0
	}
	start, end := r.start, from.UTC().AddDate(0, 0, -1) // a zone may be a day behind UTC
	periods := 0
	switch r.freq {
	case rrule.YEARLY:
		periods = end.Year() - start.Year()
	case rrule.MONTHLY:
		periods = monthOf(end) - monthOf(start)
	case rrule.WEEKLY:
		periods = (dayOf(end) - r.weekStart(dayOf(start))) / 7
	default:
		periods = dayOf(end) - dayOf(start)
	}
	return max(periods/r.interval, 0)
}

// period is the first day of a period, and how many it has.
func (r *rule) period(number int) (first, days int) {
	number *= r.interval
	switch r.freq {
	case rrule.YEARLY:
		year := r.start.Year() + number
		return firstDay(year, 1), firstDay(year+1, 1) - firstDay(year, 1)
	case rrule.MONTHLY:
		month := int(r.start.Month()) + number
		return firstDay(r.start.Year(), month), firstDay(r.start.Year(), month+1) - firstDay(r.start.Year(), month)
	case rrule.WEEKLY:
		return r.weekStart(dayOf(r.start)) + 7*number, 7
	default:
		return dayOf(r.start) + number, 1
	}
}

// days are those of a period on which the rule has instances.
func (r *rule) days(b *budget, first, length int) (found []int, err error) {
	for d := first; d < first+length; d++ {
		if err := b.spend(1); err != nil {
			return nil, err
		}
		at := day(d)
		year, month, dayOfMonth := at.Date()
		if r.months != nil && !r.months[int(month)] {
			d = firstDay(year, int(month)+1) - 1
			continue
		}
		if r.has(at, dayOfMonth, firstDay(year, int(month)+1)-d) {
			found = append(found, d)
		}
	}
	return found, nil
}

// has reports whether a day is one of the rule's, whose month is. left is how many days its month has from it on.
func (r *rule) has(at time.Time, dayOfMonth, left int) bool {
	if r.monthDays != nil && !r.monthDays[dayOfMonth] && !r.monthDays[-left] {
		return false
	}
	if r.yearDays != nil && !r.yearDays[at.YearDay()] && !r.yearDays[at.YearDay()-1-daysIn(at.Year())] {
		return false
	}
	if r.weeks != nil {
		week, weeks := r.week(dayOf(at))
		if !r.weeks[week] && !r.weeks[week-1-weeks] {
			return false
		}
	}
	if r.weekdays == nil && r.nth == nil {
		return true
	}
	on := weekday(at)
	if r.weekdays[on] {
		return true
	}
	if r.freq == rrule.YEARLY && r.months == nil {
		dayOfMonth, left = at.YearDay(), daysIn(at.Year())-at.YearDay()+1
	}
	return r.nth[[2]int{(dayOfMonth + 6) / 7, on}] || r.nth[[2]int{-(left + 6) / 7, on}]
}

// instances calls yield with the times on the days, those at the rule's positions when it has any.
func (r *rule) instances(b *budget, days []int, yield func(time.Time) bool) (more bool, err error) {
	minutes, seconds := len(r.minutes), len(r.seconds)
	perDay := len(r.hours) * minutes * seconds
	one := func(i int) (bool, error) {
		if err := b.spend(1); err != nil {
			return false, err
		}
		year, month, dayOfMonth := day(days[i/perDay]).Date()
		i %= perDay
		return yield(time.Date(year, month, dayOfMonth, r.hours[i/(minutes*seconds)], r.minutes[i/seconds%minutes], r.seconds[i%seconds],
			0, r.start.Location())), nil
	}
	if r.setpos == nil {
		for i := range len(days) * perDay {
			if more, err := one(i); err != nil || !more {
				return false, err
			}
		}
		return true, nil
	}
	positions, err := r.positions(b, len(days)*perDay)
	if err != nil {
		return false, err
	}
	for _, i := range positions {
		if more, err := one(i); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// positions are what BYSETPOS picks among n.
func (r *rule) positions(b *budget, n int) (picked []int, err error) {
	if err := b.spend(len(r.setpos)); err != nil {
		return nil, err
	}
	for _, pos := range r.setpos {
		if pos > 0 {
			pos--
		} else {
			pos += n
		}
		if 0 <= pos && pos < n {
			picked = append(picked, pos)
		}
	}
	return distinct(picked), nil
}

// week is the number of a day's week, and how many its year has. The first week of a year has four days of it or more.
func (r *rule) week(d int) (number, weeks int) {
	middle := day(r.weekStart(d) + 3)
	lastMiddle := day(r.weekStart(firstDay(middle.Year(), 12)+27) + 3) // the 28th of December is in the last week
	return (middle.YearDay() + 6) / 7, (lastMiddle.YearDay() + 6) / 7
}

// weekStart is the first day of a day's week.
func (r *rule) weekStart(d int) int { return d - (weekday(day(d))-r.weekBase+7)%7 }

// Days are numbered from 1970: durations between times overflow after 292 years.

// day is a day as UTC's midnight.
func day(number int) time.Time { return time.Unix(int64(number)*86400, 0).UTC() }

// dayOf is the number of the date that t shows.
func dayOf(t time.Time) int {
	year, month, dayOfMonth := t.Date()
	return firstDay(year, int(month)) + dayOfMonth - 1
}

func firstDay(year, month int) int {
	return int(time.Date(year, time.Month(month), 1, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

func monthOf(t time.Time) int { return t.Year()*12 + int(t.Month()) }

func daysIn(year int) int { return firstDay(year+1, 1) - firstDay(year, 1) }

// weekday is 0 on Mondays.
func weekday(t time.Time) int { return (int(t.Weekday()) + 6) % 7 }
