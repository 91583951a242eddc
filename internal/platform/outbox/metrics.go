package outbox

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fdc/internal/platform/postgres"
)

// backlog asks for the backlog at each scrape.
type backlog struct {
	q               postgres.Querier
	pending, oldest *prometheus.Desc
}

// BacklogMetrics returns a collector of outbox_pending and outbox_oldest_age_seconds. While the database is away the two
// are missing from the page rather than wrong.
func BacklogMetrics(q postgres.Querier) prometheus.Collector {
	return &backlog{
		q:       q,
		pending: prometheus.NewDesc("outbox_pending", "Events committed and not yet acknowledged by the stream.", nil, nil),
		oldest:  prometheus.NewDesc("outbox_oldest_age_seconds", "How long the oldest of them has waited.", nil, nil),
	}
}

// Describe is called by Prometheus.
func (b *backlog) Describe(out chan<- *prometheus.Desc) {
	out <- b.pending
	out <- b.oldest
}

// Collect is called by Prometheus.
func (b *backlog) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	stats, err := ReadStats(ctx, b.q)
	if err != nil {
		return
	}
	out <- prometheus.MustNewConstMetric(b.pending, prometheus.GaugeValue, float64(stats.Pending))
	out <- prometheus.MustNewConstMetric(b.oldest, prometheus.GaugeValue, stats.OldestAgeSeconds)
}
