package service

import (
	"context"
	"fmt"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
)

// Consume runs a worker on the service's declared consumer.
func Consume(ctx context.Context, b *Backends, r Runtime, name string, config worker.Config) error {
	consumer, ok := bus.ConsumerNamed(name)
	if !ok {
		return fmt.Errorf("consumer %s is not declared", name)
	}
	if _, err := bus.BindConsumer(ctx, b.JS, name, r.Waiting); err != nil {
		return Orderly(ctx, err)
	}
	config.Consumer, config.Log, config.Metrics, config.Waiting = consumer, r.Log, r.Admin.Metrics, r.Waiting
	r.Admin.Ready()
	return worker.New(b.JS, config).Run(ctx)
}
