package ratelimit

import "time"

// Window is the time that every limit is for.
const Window = time.Minute

const (
	windowMillis = int64(Window / time.Millisecond)
	// stepMillis is how long a reported remainder holds while the previous window's requests expire.
	stepMillis = windowMillis / 6
)

// windowAt is the number of the window that t is in and the milliseconds that have passed of it.
func windowAt(t time.Time) (number, elapsed int64) {
	ms := t.UnixMilli()
	return ms / windowMillis, ms % windowMillis
}

// weighted is what of the previous window's count the last minute still covers, rounded down.
func weighted(previous, elapsed int64) int64 {
	return previous * (windowMillis - elapsed) / windowMillis
}

// judge decides on one more request after previous and current ones in the two windows, so many milliseconds into
// the second. More than the limit can't have been admitted: counts above it are of requests that were refused.
//
// Remaining is what is left at the beginning of the present step, so that it doesn't rise before Reset has passed.
func judge(limit, previous, current, elapsed int64) Decision {
	previous, current = min(previous, limit), min(current, limit)
	used := current + weighted(previous, elapsed)
	if used < limit {
		d := Decision{Allowed: true, Limit: limit, Reset: millis(windowMillis - elapsed)}
		step := elapsed - elapsed%stepMillis
		d.Remaining = max(0, limit-current-weighted(previous, step)-1)
		if previous > 0 {
			d.Reset = millis(step + stepMillis - elapsed)
		}
		return d
	}
	d := Decision{Limit: limit}
	if current < limit {
		// The first moment at which little enough is left of the previous window.
		free := windowMillis - ((limit-current)*windowMillis-1)/previous
		d.Reset = millis(free - elapsed)
	} else {
		d.Reset = millis(windowMillis - elapsed + 1) // the next window's first moment that forgets something
	}
	return d
}

// judgeTimes decides on one more request at the time now, after those admitted at times, which are within the last window. All
// are in Unix milliseconds.
func judgeTimes(limit int64, times []int64, now int64) Decision {
	n := int64(len(times))
	switch {
	case n >= limit:
		return Decision{Limit: limit, Reset: millis(times[n-limit] + windowMillis - now)}
	case n == 0:
		return Decision{Allowed: true, Limit: limit, Remaining: limit - 1, Reset: Window}
	default:
		return Decision{Allowed: true, Limit: limit, Remaining: limit - n - 1, Reset: millis(times[0] + windowMillis - now)}
	}
}

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
