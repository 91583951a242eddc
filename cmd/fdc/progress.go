package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// bar shows how far long work is, on a terminal; elsewhere it shows nothing.
type bar struct {
	w       io.Writer // nil: nobody looks
	phase   string
	began   time.Time
	shown   time.Time
	visible bool
}

func (c *cli) bar() *bar {
	b := &bar{}
	if f, ok := c.stderr.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			b.w = f
		}
	}
	return b
}

const barWidth = 30

// tell redraws a few times a second. total is 0 when nobody knows it.
func (b *bar) tell(phase string, done, total int64) {
	now := time.Now()
	if phase != b.phase {
		b.phase, b.began = phase, now
	}
	if b.w == nil || now.Sub(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown, b.visible = now, true
	fmt.Fprint(b.w, "\r\x1b[K", barLine(phase, done, total, now.Sub(b.began))) //nolint:errcheck // progress is no part of the result
}

// barLine is what tell draws.
func barLine(phase string, done, total int64, took time.Duration) string {
	rate := float64(done) / max(took.Seconds(), 0.001)
	line := fmt.Sprintf("%s %d", phase, done)
	if total > 0 {
		part := min(float64(done)/float64(total), 1)
		full := int(part * barWidth)
		line = fmt.Sprintf("%s [%s%s] %3.0f %%", phase, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), part*100)
	}
	line += fmt.Sprintf(", %.0f/s", rate)
	if total > done && rate > 0 {
		line += ", " + time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second).String() + " left"
	}
	return line
}

// end clears the line.
func (b *bar) end() {
	if b.visible {
		fmt.Fprint(b.w, "\r\x1b[K") //nolint:errcheck // progress is no part of the result
		b.visible = false
	}
}
