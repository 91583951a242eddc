package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// line is one line of the table: the same work, ours and someone else's.
type line struct {
	Case     string `json:"case"`
	Ours     string `json:"ours"`
	Baseline string `json:"baseline,omitempty"` // empty: there is nothing to compare with
	Unit     string `json:"unit"`               // "/s": more is better; anything else: less is
	Target   target `json:"target"`
}

// target is what a line should reach. A zero field asks for nothing.
type target struct {
	Ratio  float64 `json:"ratio,omitempty"`  // at least
	AtMost float64 `json:"atMost,omitempty"` // ours, in the line's unit
}

// sample is one measurement of a line.
type sample struct {
	line
	ours, baseline float64
	absent         string // why there is no baseline
}

// row is a line with all its measurements.
type row struct {
	line
	Absent  string    `json:"absent,omitempty"`
	OurRuns []float64 `json:"oursRuns"`
	Runs    []float64 `json:"baselineRuns"`
	Ratios  []float64 `json:"ratioRuns"` // how many times better ours was, run by run
}

// report is the result of one call of the program.
type report struct {
	Machine  machine  `json:"machine"`
	Settings settings `json:"settings"`
	Rows     []*row   `json:"items"`
}

func (r *report) add(samples []sample) {
	for _, s := range samples {
		i := slices.IndexFunc(r.Rows, func(row *row) bool { return row.line == s.line })
		if i < 0 {
			i = len(r.Rows)
			r.Rows = append(r.Rows, &row{line: s.line})
		}
		row := r.Rows[i]
		row.OurRuns = append(row.OurRuns, s.ours)
		row.Absent = s.absent
		if s.absent != "" || s.Baseline == "" {
			continue
		}
		row.Runs = append(row.Runs, s.baseline)
		ratio := s.ours / s.baseline
		if s.Unit != perSecond {
			ratio = s.baseline / s.ours
		}
		row.Ratios = append(row.Ratios, ratio)
	}
}

// verdict says what the target is and whether the medians reach it.
func (w *row) verdict() string {
	var wants []string
	met := true
	if w.Target.Ratio != 0 {
		wants = append(wants, fmt.Sprintf("≥ %s×", number(w.Target.Ratio)))
		met = met && len(w.Ratios) > 0 && median(w.Ratios) >= w.Target.Ratio
	}
	if w.Target.AtMost != 0 {
		wants = append(wants, fmt.Sprintf("≤ %s %s", number(w.Target.AtMost), w.Unit))
		met = met && median(w.OurRuns) <= w.Target.AtMost
	}
	switch {
	case len(wants) == 0:
		return "–"
	case met:
		return strings.Join(wants, ", ") + " met"
	default:
		return strings.Join(wants, ", ") + " MISSED"
	}
}

// print writes the report as Markdown, so that it can go into README.md as it is.
func (r *report) print(w io.Writer) error {
	var text strings.Builder
	m := r.Machine
	redis := "no Redis"
	if m.Redis != "" {
		redis = "Redis " + m.Redis
	}
	fmt.Fprintf(&text, "%s, %d cores (%s), %s, PostgreSQL %s, nats-server %s, %s, an fsync takes %s;\n",
		m.Time.Format(time.DateOnly), m.Cores, m.CPU, m.Go, m.Postgres, m.NATS, redis, m.Fsync.Round(time.Microsecond))
	runs := 0
	for _, row := range r.Rows {
		runs = max(runs, len(row.OurRuns))
	}
	fmt.Fprintf(&text, "runs: %d of %g s; medians, in brackets the lowest and the highest ratio\n\n", runs, r.Settings.Seconds)

	table := [][]string{{"case", "ours", "baseline", "ratio", "target"}}
	for _, row := range r.Rows {
		table = append(table, row.cells())
	}
	widths := make([]int, len(table[0]))
	for _, cells := range table {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, cells := range table {
		for i, cell := range cells {
			fmt.Fprintf(&text, "| %-*s ", widths[i], cell)
		}
		text.WriteString("|\n")
		if n == 0 {
			text.WriteString(strings.Repeat("|---", len(cells)) + "|\n")
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func (w *row) cells() []string {
	ours := w.Ours + " " + quantity(median(w.OurRuns), w.Unit)
	if w.Baseline == "" {
		return []string{w.Case, ours, "–", "–", w.verdict()}
	}
	if w.Absent != "" {
		return []string{w.Case, ours, w.Baseline + ": " + w.Absent, "–", w.verdict()}
	}
	ratio := number(median(w.Ratios)) + "×"
	if len(w.Ratios) > 1 {
		ratio += fmt.Sprintf(" (%s–%s)", number(slices.Min(w.Ratios)), number(slices.Max(w.Ratios)))
	}
	return []string{w.Case, ours, w.Baseline + " " + quantity(median(w.Runs), w.Unit), ratio, w.verdict()}
}

// MarshalJSON adds what the table computes from the runs.
func (w *row) MarshalJSON() ([]byte, error) {
	type plain row
	return json.Marshal(struct {
		*plain
		OursMedian     float64  `json:"oursMedian"`
		BaselineMedian *float64 `json:"baselineMedian"`
		RatioMedian    *float64 `json:"ratioMedian"`
		Verdict        string   `json:"verdict"`
	}{(*plain)(w), median(w.OurRuns), known(w.Runs), known(w.Ratios), w.verdict()})
}

func known(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	m := median(values)
	return &m
}

// Units of measurement.
const (
	perSecond    = "/s"
	milliseconds = "ms"
	microseconds = "µs"
	megabytes    = "MB"
	kibibytes    = "KiB"
)

func quantity(v float64, unit string) string {
	if unit == perSecond {
		return number(v) + unit
	}
	return number(v) + " " + unit
}

// number shows three significant digits.
func number(v float64) string {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprint(v)
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	if digits == 0 {
		unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
		return fmt.Sprintf("%.0f", math.Round(v/unit)*unit)
	}
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.*f", digits, v), "0"), ".")
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile interpolates between the two values around q.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// inMilliseconds turns latencies into numbers for quantile.
func inMilliseconds(latencies []time.Duration) []float64 {
	values := make([]float64, len(latencies))
	for i, d := range latencies {
		values[i] = float64(d) / float64(time.Millisecond)
	}
	return values
}

// rate is so many in so long, per second.
func rate(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }
