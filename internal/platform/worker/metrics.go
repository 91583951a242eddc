package worker

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"fdc/internal/platform/bus"
)

// lag asks the server for the consumer's backlog at each scrape.
type lag struct {
	js              jetstream.JetStream
	consumer        string
	pending, unsure *prometheus.Desc
}

func newLag(js jetstream.JetStream, consumer string) *lag {
	labels := prometheus.Labels{"consumer": consumer}
	return &lag{
		js: js, consumer: consumer,
		pending: prometheus.NewDesc("consumer_lag", "Events not yet delivered to the consumer.", nil, labels),
		unsure:  prometheus.NewDesc("consumer_ack_pending", "Events delivered and not yet answered.", nil, labels),
	}
}

// Describe is called by Prometheus.
func (l *lag) Describe(out chan<- *prometheus.Desc) {
	out <- l.pending
	out <- l.unsure
}

// Collect is called by Prometheus. While NATS is away the two are missing from the page rather than wrong.
func (l *lag) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	consumer, err := l.js.Consumer(ctx, bus.Events, l.consumer)
	if err != nil {
		return
	}
	info := consumer.CachedInfo()
	out <- prometheus.MustNewConstMetric(l.pending, prometheus.GaugeValue, float64(info.NumPending))
	out <- prometheus.MustNewConstMetric(l.unsure, prometheus.GaugeValue, float64(info.NumAckPending))
}
