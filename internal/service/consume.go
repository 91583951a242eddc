package service

import (
	"context"
	"fmt"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
)

// consume runs a worker on the service's declared consumer.
func consume(ctx context.Context, b *backends, r Runtime, name string, config worker.Config) error {
	consumer, ok := bus.ConsumerNamed(name)
	if !ok {
		return fmt.Errorf("consumer %s is not declared", name)
	}
	if _, err := bus.BindConsumer(ctx, b.js, name, r.waiting); err != nil {
		return orderly(ctx, err)
	}
	config.Consumer, config.Log, config.Metrics, config.Waiting = consumer, r.Log, r.Admin.Metrics, r.waiting
	r.Admin.Ready()
	return worker.New(b.js, config).Run(ctx)
}
