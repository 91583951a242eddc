package bus

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Provision makes every stream, bucket and consumer and updates the settings of those that exist. It is idempotent and
// never recreates one; a setting that can't be changed in place is an error that names the stream.
func Provision(ctx context.Context, js jetstream.JetStream, replicas int) error {
	if _, err := js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("ask NATS for JetStream: %w", err)
	}
	for _, config := range append(Streams(replicas), Buckets(replicas)...) {
		if _, err := js.CreateOrUpdateStream(ctx, config); err != nil {
			return fmt.Errorf("provision stream %s: %w", config.Name, err)
		}
	}
	for _, consumer := range Consumers() {
		if _, err := js.CreateOrUpdateConsumer(ctx, Events, consumer.config(replicas)); err != nil {
			return fmt.Errorf("provision consumer %s: %w", consumer.Name, err)
		}
	}
	return nil
}
