package replay

import (
	"context"
	"io"

	"fdc/events"
	"fdc/internal/platform/bus"
)

const (
	shadowBatch    = 500
	shadowExamples = 10
)

// Shadow says of each event what its handler would change now, "" where nothing. It changes nothing itself.
type Shadow func(ctx context.Context, batch []events.Event) ([]string, error)

// ShadowReport is what a replay would change.
type ShadowReport struct {
	Consumer    string    `json:"consumer"`
	Count       int64     `json:"count"`
	Same        int64     `json:"same"`
	WouldChange int64     `json:"wouldChange"`
	Examples    []Example `json:"examples"` // the first of what would change
}

// Example is an event that would change something.
type Example struct {
	Sequence uint64 `json:"sequence"`
	Type     string `json:"type"`
	What     string `json:"what"`
}

// shadowing collects events and has them compared.
type shadowing struct {
	shadow Shadow
	report ShadowReport
	batch  []events.Event
	at     []uint64
}

func (s *shadowing) add(ctx context.Context, sequence uint64, ev events.Event) error {
	s.batch, s.at = append(s.batch, ev), append(s.at, sequence)
	if len(s.batch) < shadowBatch {
		return nil
	}
	return s.flush(ctx)
}

func (s *shadowing) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	whats, err := s.shadow(ctx, s.batch)
	if err != nil {
		return err
	}
	for i, what := range whats {
		s.report.count(s.at[i], s.batch[i].Action(), what)
	}
	s.batch, s.at = s.batch[:0], s.at[:0]
	return nil
}

func (r *ShadowReport) count(sequence uint64, action, what string) {
	r.Count++
	if what == "" {
		r.Same++
		return
	}
	r.WouldChange++
	if len(r.Examples) < shadowExamples {
		r.Examples = append(r.Examples, Example{sequence, action, what})
	}
}

// Shadow compares what the consumer would do with the selected events with what is there.
func (r *Replays) Shadow(ctx context.Context, c bus.Consumer, s Selection, shadow Shadow) (ShadowReport, error) {
	w := shadowing{shadow: shadow, report: ShadowReport{Consumer: c.Name, Examples: []Example{}}}
	reader := r.reader(c, s)
	if len(reader.Subjects) == 0 {
		return w.report, nil
	}
	err := reader.Run(ctx, func(e Stored) error {
		ev, err := events.Decode(e.Body)
		if err != nil {
			w.report.count(e.Sequence, action(e.Subject), "it would become a dead letter: "+err.Error())
			return nil //nolint:nilerr // it is reported
		}
		return w.add(ctx, e.Sequence, ev)
	})
	if err == nil {
		err = w.flush(ctx)
	}
	return w.report, err
}

// ShadowFile is Shadow for the events of a file.
func ShadowFile(ctx context.Context, file io.Reader, c bus.Consumer, s Selection, shadow Shadow) (ShadowReport, error) {
	w := shadowing{shadow: shadow, report: ShadowReport{Consumer: c.Name, Examples: []Example{}}}
	err := ReadLines(file, func(l Line) error {
		if !s.selects(l) || !letsThrough(c.Filters, l.Subject) {
			return nil
		}
		return w.add(ctx, l.Sequence, l.Event)
	})
	if err == nil {
		err = w.flush(ctx)
	}
	return w.report, err
}
