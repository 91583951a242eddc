package replay

import (
	"context"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// ImportPlan is what of a file EVENTS lacks.
type ImportPlan struct {
	Count         int64            `json:"count"`
	FirstSequence uint64           `json:"firstSequence"` // as the file has it
	LastSequence  uint64           `json:"lastSequence"`
	ByType        map[string]int64 `json:"byType"`
	Present       int64            `json:"present"` // lines whose events EVENTS has from an import that was interrupted

	last uint64 // of EVENTS
}

// PlanImport checks a whole file and finds out where an import of it begins: EVENTS is empty, or holds the file's beginning and
// nothing behind it.
func (r *Replays) PlanImport(ctx context.Context, file io.Reader) (ImportPlan, error) {
	stream, err := r.JS.Stream(ctx, bus.Events)
	if err != nil {
		return ImportPlan{}, fmt.Errorf("look up %s: %w", bus.Events, err)
	}
	state := stream.CachedInfo().State
	newest := ""
	if state.Msgs > 0 {
		msg, err := stream.GetMsg(ctx, state.LastSeq)
		if err != nil {
			return ImportPlan{}, fmt.Errorf("read the last event of %s: %w", bus.Events, err)
		}
		if ev, err := events.Decode(msg.Data); err == nil {
			newest = ev.ID
		}
	}
	plan, found := NewPlan(""), state.Msgs == 0
	out := ImportPlan{last: state.LastSeq}
	lines, before := int64(0), uint64(0)
	err = ReadLines(file, func(l Line) error {
		if lines++; r.Tell != nil && lines%256 == 0 {
			r.Tell(lines, 0)
		}
		if l.Sequence <= before {
			return &LineError{l.Number, fmt.Errorf("sequence %d is not after that of the line before, %d", l.Sequence, before)}
		}
		before = l.Sequence
		plan.add(l.Sequence, l.Event.Action())
		if state.Msgs > 0 && l.Event.ID == newest {
			found, out.Present, plan = true, lines, NewPlan("")
		}
		return nil
	})
	out.Count, out.FirstSequence, out.LastSequence, out.ByType = plan.Count, plan.FirstSequence, plan.LastSequence, plan.ByType
	switch {
	case err != nil:
		return out, err
	case !found:
		return out, fault.New(fault.Conflict, "stream-not-empty",
			"EVENTS holds %d events, and its last one is not in the file: an import is for a stream that is empty, or to go on with.", state.Msgs)
	}
	return out, nil
}

// Import publishes into EVENTS what PlanImport has found missing, in the file's order, each event under its own subject and id. It stops when
// somebody else publishes meanwhile.
func (r *Replays) Import(ctx context.Context, file io.Reader, plan ImportPlan) error {
	last, done, lines := plan.last, int64(0), int64(0)
	var batch []*nats.Msg
	bytes := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		sequence, err := r.publish(ctx, batch, bus.Events)
		if err != nil {
			return err
		}
		if want := last + uint64(len(batch)); sequence != want {
			return fault.New(fault.Conflict, "stream-busy",
				"Somebody else publishes into EVENTS (sequence %d instead of %d); stop the api services while events are imported.", sequence, want)
		}
		done += int64(len(batch))
		last, batch, bytes = sequence, nil, 0
		if r.Tell != nil {
			r.Tell(done, plan.Count)
		}
		return nil
	}
	err := ReadLines(file, func(l Line) error {
		if lines++; lines <= plan.Present {
			return nil
		}
		batch = append(batch, &nats.Msg{
			Subject: l.Subject, Data: append([]byte(nil), l.Body...), Header: nats.Header{jetstream.MsgIDHeader: {l.Event.ID}},
		})
		if bytes += len(l.Body); len(batch) < publishBatch && bytes < publishBytes {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return err
}
