package ratelimit

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/testenv"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	const second = 1000
	for name, c := range map[string]struct {
		limit, previous, current, elapsed int64
		want                              Decision
	}{
		"the first":                {60, 0, 0, 0, Decision{true, 60, 59, time.Minute}},
		"the last":                 {60, 0, 59, 30 * second, Decision{true, 60, 0, 30 * time.Second}},
		"one too many":             {60, 0, 60, 30 * second, Decision{false, 60, 0, 30*time.Second + time.Millisecond}},
		"at the edge":              {60, 60, 0, 0, Decision{false, 60, 0, time.Millisecond}},
		"just after it":            {60, 60, 1, 1, Decision{false, 60, 0, time.Second}},
		"half of it has gone":      {60, 60, 0, 30 * second, Decision{true, 60, 29, 10 * time.Second}},
		"in between, as before":    {60, 60, 0, 39 * second, Decision{true, 60, 29, time.Second}},
		"more than what is left":   {60, 60, 31, 35 * second, Decision{true, 60, 0, 5 * time.Second}},
		"half of it, and spent":    {60, 60, 30, 30 * second, Decision{false, 60, 0, time.Millisecond}},
		"refused ones don't weigh": {10, 500, 0, 30 * second, Decision{true, 10, 4, 10 * time.Second}},
		"nor here":                 {10, 0, 500, 59 * second, Decision{false, 10, 0, time.Second + time.Millisecond}},
		"a limit of one":           {1, 1, 0, 1, Decision{true, 1, 0, 10*time.Second - time.Millisecond}},
	} {
		require.Equal(t, c.want, judge(c.limit, c.previous, c.current, c.elapsed), name)
	}
}

// However requests come, no stretch of d up to a window has more than q·(1+d/window)+1 of them: no double at the edge. Who
// waits as long as a refusal says is let in, and not a millisecond earlier. FDC_LIMIT_ROUNDS seeds, or few.
func TestNoDoubleAtTheEdge(t *testing.T) {
	t.Parallel()
	for round := range testenv.Size(t, "FDC_LIMIT_ROUNDS", 100) {
		rng := rand.New(rand.NewPCG(1, uint64(round)))
		limit := 1 + rng.Int64N(40)
		var previous, current, window int64
		var admitted []int64
		for now := rng.Int64N(windowMillis); len(admitted) < 400; {
			if number := now / windowMillis; number != window {
				if number != window+1 {
					current = 0
				}
				previous, current, window = current, 0, number
			}
			d := judge(limit, previous, current, now%windowMillis)
			if d.Allowed {
				current++
				admitted = append(admitted, now)
			} else {
				free := now + d.Reset.Milliseconds()
				p, c := previous, current
				if free/windowMillis != window {
					p, c = current, 0
				}
				if !judge(limit, p, c, free%windowMillis).Allowed {
					t.Fatal("refused after waiting")
				}
				if before := free - 1; before/windowMillis == window && judge(limit, previous, current, before%windowMillis).Allowed {
					t.Fatal("told to wait too long")
				}
			}
			switch rng.IntN(20) { // bursts, pauses, and a liking for edges
			case 0:
				now += rng.Int64N(2 * windowMillis)
			case 1:
				now += windowMillis - now%windowMillis - rng.Int64N(3)
			default:
				now += rng.Int64N(20)
			}
		}
		for i := range admitted {
			for j := i; j < len(admitted) && admitted[j]-admitted[i] <= windowMillis; j++ {
				bound := limit + limit*(admitted[j]-admitted[i])/windowMillis + 1
				if n := int64(j - i + 1); n > bound {
					t.Fatalf("%d of %d in %d ms, limit %d", n, bound, admitted[j]-admitted[i], limit)
				}
			}
		}
	}
}

// The table forgets what was used longest ago, and holds no more than it is told.
func TestTheTableIsBounded(t *testing.T) {
	t.Parallel()
	p := &Policy{Key: "k", Limit: 1}
	tab := newTable(shardCount * 2)
	get := func(subject string) *entry {
		e := tab.acquire(p, subject, 1)
		e.shard.mu.Unlock()
		return e
	}
	often := get("often")
	for i := range 10_000 {
		get(time.Duration(i).String())
		require.Same(t, often, get("often"))
	}
	require.LessOrEqual(t, tab.size(), shardCount*2)
	require.NotSame(t, often, func() *entry { get("a"); return tab.acquire(p, "rare", 1) }())
}

func TestAdvance(t *testing.T) {
	t.Parallel()
	e := &entry{window: 7, current: tally{shared: 3, unsent: 1}}
	e.advance(6)
	require.Equal(t, int64(4), e.current.all(), "a clock that steps back")
	e.advance(8)
	require.Equal(t, int64(4), e.previous.all())
	require.Zero(t, e.current.all())
	require.Same(t, &e.previous, e.tally(7))
	require.Nil(t, e.tally(6))
	e.advance(10)
	require.Zero(t, e.previous.all())
}
