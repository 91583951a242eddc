package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"fdc/internal/platform/ratelimit"
)

// plenty is a limit that nobody reaches: a refusal from memory is cheaper than an admission.
const plenty = 1_000_000_000

// limiter charges requests of 64 users: in memory, as for most routes, and waiting for the count over all nodes, as for
// sign-in, beside redis_rate, which always waits.
func limiter(ctx context.Context, b *bench) (samples []sample, err error) {
	subjects := make([]string, connections)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("user:%d", i)
	}
	err = b.inWorld(ctx, func(w *world) error {
		ours := ratelimit.New(ratelimit.Config{NC: w.nc, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry()})
		stop := background(ctx, ours.Run)
		samples, err = b.chargeBeside(ctx, ours, subjects)
		return errors.Join(err, stop())
	})
	return samples, err
}

func (b *bench) chargeBeside(ctx context.Context, l *ratelimit.Limiter, subjects []string) ([]sample, error) {
	memory := &ratelimit.Policy{Key: "bench-memory", Limit: plenty}
	exact := &ratelimit.Policy{Key: "bench-exact", Limit: 10}
	charge := func(p *ratelimit.Policy) func(string) error {
		return func(subject string) error {
			if d := l.Allow(ctx, p, subject); !d.Allowed {
				return fmt.Errorf("refused: %+v", d)
			}
			return nil
		}
	}
	inMemory, err := cost(b.length(), subjects, charge(memory))
	if err != nil {
		return nil, err
	}
	// An exact limit is a small one: each call has a subject of its own, as no subject has many.
	var calls atomic.Int64
	chargeExact := func(subject string) error { return charge(exact)(fmt.Sprint(subject, ":", calls.Add(1))) }
	var ours, theirs float64
	sides := []func() error{func() (err error) { ours, err = waiting(b.length(), subjects, chargeExact); return err }}
	absent := noRedis
	if b.cache != nil {
		absent = ""
		client := redis.NewClient(&redis.Options{Addr: b.cache.addr, PoolSize: connections, MinIdleConns: connections})
		defer client.Close() //nolint:errcheck // nothing is pending
		peer, limit := redis_rate.NewLimiter(client), redis_rate.PerMinute(plenty)
		sides = append(sides, func() (err error) {
			theirs, err = waiting(b.length(), subjects, func(subject string) error {
				result, err := peer.Allow(ctx, subject, limit)
				if err == nil && result.Allowed != 1 {
					err = fmt.Errorf("refused: %+v", result)
				}
				return err
			})
			return err
		})
	}
	if err := b.inTurns(sides...); err != nil {
		return nil, err
	}
	return []sample{
		{
			line: line{Case: "rate limit, background key", Ours: "limiter", Unit: microseconds, Target: target{AtMost: 1}},
			ours: inMemory,
		},
		{
			line: line{
				Case: fmt.Sprintf("rate limit, exact key, %d at a time, p50", connections), Ours: "limiter", Baseline: "redis_rate",
				Unit: milliseconds, Target: target{Ratio: 1 / 1.2},
			},
			ours: ours, baseline: theirs, absent: absent,
		},
	}, nil
}

// cost is the mean of calls that come one after the other, in microseconds.
func cost(length time.Duration, subjects []string, call func(subject string) error) (float64, error) {
	start := time.Now()
	calls := 0
	for ; time.Since(start) < length; calls += len(subjects) {
		for _, subject := range subjects {
			if err := call(subject); err != nil {
				return 0, err
			}
		}
	}
	return float64(time.Since(start)) / float64(calls) / float64(time.Microsecond), nil
}

// waiting is the median of calls for all subjects at a time, in milliseconds, once each has been called.
func waiting(length time.Duration, subjects []string, call func(subject string) error) (float64, error) {
	var callers sync.WaitGroup
	latencies := make([][]time.Duration, len(subjects))
	errs := make([]error, len(subjects))
	for i, subject := range subjects {
		callers.Go(func() {
			if errs[i] = call(subject); errs[i] != nil {
				return
			}
			for begun := time.Now(); time.Since(begun) < length; {
				start := time.Now()
				if errs[i] = call(subject); errs[i] != nil {
					return
				}
				latencies[i] = append(latencies[i], time.Since(start))
			}
		})
	}
	callers.Wait()
	var all []time.Duration
	for _, one := range latencies {
		all = append(all, one...)
	}
	return median(inMilliseconds(all)), errors.Join(errs...)
}
