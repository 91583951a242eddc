package postgres

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// poolMetrics shows a pool's statistics as they are at each scrape.
type poolMetrics struct {
	pool                                       *pgxpool.Pool
	max, acquired, idle, waits, waitS, givenUp *prometheus.Desc
}

// PoolMetrics returns a collector of a pool's use.
func PoolMetrics(pool *pgxpool.Pool) prometheus.Collector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &poolMetrics{
		pool:     pool,
		max:      desc("postgres_pool_max_connections", "Connections the pool may open."),
		acquired: desc("postgres_pool_acquired_connections", "Connections in use."),
		idle:     desc("postgres_pool_idle_connections", "Connections open and not in use."),
		waits:    desc("postgres_pool_waits_total", "Acquisitions that had to wait for a connection."),
		waitS:    desc("postgres_pool_wait_seconds_total", "Time spent waiting for a connection."),
		givenUp:  desc("postgres_pool_given_up_total", "Acquisitions that ended without a connection: none in time, or the caller left."),
	}
}

// Describe is called by Prometheus.
func (m *poolMetrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect is called by Prometheus.
func (m *poolMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.pool.Stat()
	out <- prometheus.MustNewConstMetric(m.max, prometheus.GaugeValue, float64(s.MaxConns()))
	out <- prometheus.MustNewConstMetric(m.acquired, prometheus.GaugeValue, float64(s.AcquiredConns()))
	out <- prometheus.MustNewConstMetric(m.idle, prometheus.GaugeValue, float64(s.IdleConns()))
	out <- prometheus.MustNewConstMetric(m.waits, prometheus.CounterValue, float64(s.EmptyAcquireCount()))
	out <- prometheus.MustNewConstMetric(m.waitS, prometheus.CounterValue, s.EmptyAcquireWaitTime().Seconds())
	out <- prometheus.MustNewConstMetric(m.givenUp, prometheus.CounterValue, float64(s.CanceledAcquireCount()))
}
