package gsync

import (
	"context"
	"errors"
)

// Bounds of an expansion, in steps. A step is a day looked at, an instance made, or a few bytes of a rule read: some tens of
// nanoseconds.
const (
	maxRequestSteps = 1_000_000 // all series of a request together
	maxSeriesSteps  = 20_000    // one series: 50 years of a daily one
	stepsPerCheck   = 1000      // between two looks at the context
)

// errSteps says that a series needs more steps than it may have.
var errSteps = errors.New("the series takes too many steps")

// budget bounds the work of expanding series: in all, and of each. Whatever expands a series spends every step from it
// before it takes the step, and stops at the first error. It serves one goroutine.
type budget struct {
	total     int // left for all series
	series    int // left for this one
	unchecked int
	err       func() error // that of the request's context
}

func newBudget(ctx context.Context, total int) *budget {
	return &budget{total: total, series: min(maxSeriesSteps, total), err: ctx.Err}
}

// next begins another series. Its error is the context's.
func (b *budget) next() error {
	b.series = min(maxSeriesSteps, b.total)
	return b.err()
}

// spend takes n steps. The error is errSteps when the series has none left, or the context's.
func (b *budget) spend(n int) error {
	if n > b.series {
		b.total -= b.series
		b.series = 0
		return errSteps
	}
	b.series -= n
	b.total -= n
	if b.unchecked += n; b.unchecked >= stepsPerCheck {
		b.unchecked = 0
		return b.err()
	}
	return nil
}
