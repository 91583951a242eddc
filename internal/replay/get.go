package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// Get reads the event with a sequence; fault.NotFound when the stream has none, and says why.
func Get(ctx context.Context, js jetstream.JetStream, sequence uint64) (Stored, error) {
	stream, err := js.Stream(ctx, bus.Events)
	if err != nil {
		return Stored{}, fmt.Errorf("look up %s: %w", bus.Events, err)
	}
	msg, err := stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		switch state := stream.CachedInfo().State; {
		case state.Msgs == 0:
			return Stored{}, fault.New(fault.NotFound, "no-such-event", "The stream EVENTS is empty.")
		case sequence > state.LastSeq:
			return Stored{}, fault.New(fault.NotFound, "no-such-event", "There is no event %d yet; the last one is %d.", sequence, state.LastSeq)
		case sequence < state.FirstSeq:
			return Stored{}, fault.New(fault.NotFound, "no-such-event",
				"Event %d is no longer in the stream, which begins with %d; the audit log and exports may have it.", sequence, state.FirstSeq)
		default:
			return Stored{}, fault.New(fault.NotFound, "no-such-event", "Event %d was taken out of the stream.", sequence)
		}
	}
	if err != nil {
		return Stored{}, fmt.Errorf("get event %d: %w", sequence, err)
	}
	return Stored{Sequence: msg.Sequence, Subject: msg.Subject, Time: msg.Time, Header: msg.Header, Body: msg.Data}, nil
}
