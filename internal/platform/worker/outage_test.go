package worker_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/faultproxy"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// database gives the worker a pool whose statements end after 50 ms, through a proxy, and the ping of its dependency.
func database(t *testing.T) (query func(context.Context, string) error, ping func(context.Context) error, proxy *faultproxy.Proxy) {
	t.Helper()
	proxy = faultproxy.New(t, pgtest.Empty(t).URL)
	pool, err := postgres.Open(t.Context(), postgres.Config{
		URL: proxy.URL, MaxConns: 2, ConnectTimeout: patience, QueryTimeout: 50 * time.Millisecond,
	}, "worker-test")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	query = func(ctx context.Context, sql string) error {
		_, err := pool.Exec(ctx, sql)
		return err
	}
	return query, func(ctx context.Context) error { return postgres.Ping(ctx, pool) }, proxy
}

// handlers makes a handler of one event one of a batch, too.
func handlers(handle worker.Handler) map[string]worker.Config {
	return map[string]worker.Config{
		"single": {Handle: handle},
		"batch": {BatchSize: 10, HandleBatch: func(ctx context.Context, batch []*worker.Delivery) error {
			for _, d := range batch {
				if err := handle(ctx, d); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// A handler that is always slow looks like an outage by its errors. The database answers a ping, so the attempts count, and
// nothing else stands still or goes to DEAD.
func TestAHandlerThatIsAlwaysSlowEndsAsADeadLetter(t *testing.T) {
	t.Parallel()
	for reason, sleep := range map[string]func(ctx context.Context, query func(context.Context, string) error) error{
		"statement timeout": func(ctx context.Context, query func(context.Context, string) error) error {
			return query(ctx, `SELECT pg_sleep(600)`)
		},
		"own deadline": func(ctx context.Context, query func(context.Context, string) error) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			return query(ctx, `SELECT pg_sleep(600)`)
		},
		"reported as a fault": func(ctx context.Context, query func(context.Context, string) error) error {
			return postgres.Fault(query(ctx, `SELECT pg_sleep(600)`))
		},
	} {
		for mode := range handlers(nil) {
			t.Run(reason+", "+mode, func(t *testing.T) {
				t.Parallel()
				query, ping, _ := database(t)
				r := newRig(t)
				published := []events.Event{r.publish(t), r.publish(t), r.publish(t), r.publish(t), r.publish(t), r.publish(t)}
				slow := published[2]
				var handled calls
				cfg := handlers(func(ctx context.Context, d *worker.Delivery) error {
					if d.Event.ID == slow.ID {
						return sleep(ctx, query)
					}
					handled.add(d.Event.ID)
					return nil
				})[mode]
				cfg.Ping = ping
				r.start(t, cfg)
				letter := r.dead(t, 1)[0]
				require.Equal(t, "probe:"+slow.ID, letter.Header.Get("Nats-Msg-Id"))
				require.Equal(t, "3", letter.Header.Get(worker.HeaderAttempts))
				r.settled(t)
				for _, e := range slices.Delete(published, 2, 3) {
					require.NotZero(t, handled.of(e.ID))
				}
			})
		}
	}
}

// A database that is cut off, or whose packets are dropped, fails the ping: the event stays in progress on its one delivery.
func TestADatabaseThatIsCutOffUsesUpNoAttempts(t *testing.T) {
	t.Parallel()
	for fault, cut := range map[string]func(*faultproxy.Proxy){"cut": (*faultproxy.Proxy).Cut, "dropped": (*faultproxy.Proxy).Pause} {
		for mode := range handlers(nil) {
			t.Run(fault+", "+mode, func(t *testing.T) {
				t.Parallel()
				query, ping, proxy := database(t)
				require.NoError(t, query(t.Context(), `SELECT`))
				cut(proxy)
				r := newRig(t)
				e := r.publish(t)
				var pings atomic.Int32
				enough := make(chan struct{})
				cfg := handlers(func(ctx context.Context, d *worker.Delivery) error {
					if d.Event.ID == e.ID && d.Attempt != 1 {
						t.Errorf("delivered again, attempt %d", d.Attempt)
					}
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					return query(ctx, `SELECT`)
				})[mode]
				cfg.Ping = func(ctx context.Context) error {
					ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond) // dropped packets would take the worker's five seconds
					defer cancel()
					err := ping(ctx)
					if err == nil {
						return nil
					}
					if int(pings.Add(1)) == r.consumer.MaxAttempts+1 {
						close(enough)
					}
					return err
				}
				r.start(t, cfg)
				select {
				case <-enough:
				case <-time.After(patience):
					t.Fatal("the worker has not pinged often enough")
				}
				proxy.Heal()
				r.settled(t)
				require.Empty(t, r.dead(t, 0))
			})
		}
	}
}

// An event that makes every batch fail takes no other to DEAD: it comes alone at its last attempt.
func TestAnEventThatFailsItsBatchDiesAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var published []events.Event
	for range 40 {
		published = append(published, r.publish(t))
	}
	bad := published[20]
	r.start(t, worker.Config{BatchSize: 100, BatchWait: time.Second, HandleBatch: func(_ context.Context, batch []*worker.Delivery) error {
		if slices.ContainsFunc(batch, func(d *worker.Delivery) bool { return d.Event.ID == bad.ID }) {
			return worker.RetryAfter(errors.New("the whole batch failed"), time.Millisecond)
		}
		return nil
	}})
	r.settled(t)
	letter := r.dead(t, 1)[0]
	require.Equal(t, "probe:"+bad.ID, letter.Header.Get("Nats-Msg-Id"))
}
