package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Provision makes every stream, bucket and consumer and updates the settings of those that exist. It is idempotent. A setting
// that can't be changed in place is an error that names the stream, but for caches and rate limits: those are made anew, empty.
func Provision(ctx context.Context, js jetstream.JetStream, replicas int) error {
	for _, config := range append(Streams(replicas), Buckets(replicas)...) {
		_, err := js.CreateOrUpdateStream(ctx, config)
		if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == invalidConfig && expendable(config.Name) {
			if err = js.DeleteStream(ctx, config.Name); err == nil {
				_, err = js.CreateStream(ctx, config)
			}
		}
		if err != nil {
			return fmt.Errorf("provision stream %s: %w", config.Name, err)
		}
	}
	for _, consumer := range Consumers() {
		if _, err := js.CreateOrUpdateConsumer(ctx, Events, consumer.config(replicas)); err != nil {
			return fmt.Errorf("provision consumer %s: %w", consumer.Name, err)
		}
		if _, err := js.CreateOrUpdateConsumer(ctx, Replay, consumer.queueConfig(replicas)); err != nil {
			return fmt.Errorf("provision consumer %s of %s: %w", consumer.Name, Replay, err)
		}
	}
	return nil
}

// invalidConfig is the server's code for a configuration that it doesn't take, be it because of the one before.
const invalidConfig = 10052

// Reachable waits for the server to answer for as long as a dial may take, and says in one line what is wrong with it:
// absent, wrong credentials, no JetStream.
func Reachable(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for nc.Status() != nats.CONNECTED {
		select {
		case <-ctx.Done():
			if err := nc.LastError(); err != nil {
				return err
			}
			return errors.New("no server answers")
		case <-time.After(20 * time.Millisecond):
		}
	}
	_, err := js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return errors.New("the server runs without JetStream; start it from nats.conf")
	}
	return err
}

// ProvisionObjects makes an object store, or leaves the one that is there.
func ProvisionObjects(ctx context.Context, js jetstream.JetStream, bucket string, replicas int) error {
	_, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: bucket, Description: "Objects", Storage: jetstream.FileStorage, Replicas: replicas,
	})
	if err != nil {
		return fmt.Errorf("provision object store %s: %w", bucket, err)
	}
	return nil
}
