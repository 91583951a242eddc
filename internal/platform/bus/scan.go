package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	scanIdle = 250 * time.Millisecond // without a message, before the consumer is asked whether any is left
	scanAsk  = time.Second            // for its answer
)

// Scan calls each for the messages that a new consumer has pending, until each returns false or none is left: those that were
// deleted meanwhile never come. It fails when no message arrives for as long as patience while some are left. How long it takes in
// all depends on the link.
func Scan(ctx context.Context, consumer jetstream.Consumer, patience time.Duration, each func(jetstream.Msg, *jetstream.MsgMetadata) bool) error {
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	defer messages.Stop()
	received := uint64(0) // of what the consumer has delivered
	for heard := time.Now(); ; {
		idle, cancel := context.WithTimeout(ctx, scanIdle)
		msg, err := messages.Next(jetstream.NextContext(idle))
		cancel()
		switch {
		case err == nil:
			meta, err := msg.Metadata()
			if err != nil {
				return fmt.Errorf("scan: %w", err)
			}
			if !each(msg, meta) || meta.NumPending == 0 {
				return nil
			}
			received, heard = meta.Sequence.Consumer, time.Now()
		case ctx.Err() != nil, !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("scan: %w", err)
		case time.Since(heard) > patience: // nothing has arrived while the consumer was asked either
			return fmt.Errorf("scan: no message for %s: %w", patience, err)
		case exhausted(ctx, consumer, received):
			return nil
		}
	}
}

// exhausted reports whether a consumer has nothing left to deliver and nothing is on its way; not when NATS doesn't say.
func exhausted(ctx context.Context, consumer jetstream.Consumer, received uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, scanAsk)
	defer cancel()
	info, err := consumer.Info(ctx)
	// An ordered consumer that was made anew begins to count again.
	return err == nil && info.NumPending == 0 && (info.Delivered.Consumer == received || info.Delivered.Consumer == 0)
}
