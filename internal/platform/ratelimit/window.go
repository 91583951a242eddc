package ratelimit

import "time"

// Window is the time that every limit is for.
const Window = time.Minute

const windowMillis = int64(Window / time.Millisecond)

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
func judge(limit, previous, current, elapsed int64) Decision {
	previous, current = min(previous, limit), min(current, limit)
	used := current + weighted(previous, elapsed)
	if used < limit {
		return Decision{Allowed: true, Limit: limit, Remaining: limit - used - 1, Reset: millis(windowMillis - elapsed)}
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

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
