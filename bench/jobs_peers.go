package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"golang.org/x/sync/errgroup"

	"fdc/events"
)

// riverJobs is River, fetching as often as it can.
type riverJobs struct {
	world  *world
	handle func(id string)
	client *river.Client[pgx.Tx]
}

type riverArgs struct {
	ID string `json:"id"`
}

// Kind names the job type for River.
func (riverArgs) Kind() string { return "bench" }

func newRiverJobs(ctx context.Context, w *world) (queue, error) {
	driver := riverpgxv5.New(w.pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return nil, fmt.Errorf("make River's migrator: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, fmt.Errorf("make River's tables: %w", err)
	}
	q := &riverJobs{world: w}
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(_ context.Context, job *river.Job[riverArgs]) error {
		q.handle(job.Args.ID)
		return nil
	}))
	q.client, err = river.NewClient(driver, &river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: jobConcurrency}},
		Workers:           workers,
		FetchCooldown:     river.FetchCooldownMin, // a hundred times shorter than the default
		FetchPollInterval: 100 * time.Millisecond, // new jobs are notified; this is the safety net
		JobTimeout:        -1,
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	return q, nil
}

func (q *riverJobs) fill(ctx context.Context, n int) error {
	params := make([]river.InsertManyParams, n)
	for i := range params {
		params[i].Args = riverArgs{ID: events.NewID()}
	}
	if _, err := q.client.InsertManyFast(ctx, params); err != nil {
		return fmt.Errorf("insert River jobs: %w", err)
	}
	return nil
}

func (q *riverJobs) start(ctx context.Context, handle func(string)) (func() error, error) {
	q.handle = handle
	if err := q.client.Start(ctx); err != nil {
		return nil, fmt.Errorf("start River: %w", err)
	}
	return func() error { return q.client.Stop(ctx) }, nil
}

func (q *riverJobs) idle(ctx context.Context) (idle bool, err error) {
	err = q.world.pool.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM river_job WHERE state <> 'completed')`).Scan(&idle)
	return idle, err
}

func (q *riverJobs) enqueue(ctx context.Context, committing func(string)) error {
	return pgx.BeginFunc(ctx, q.world.pool, func(tx pgx.Tx) error {
		id := events.NewID()
		if _, err := q.client.InsertTx(ctx, tx, riverArgs{ID: id}, nil); err != nil {
			return fmt.Errorf("insert River job: %w", err)
		}
		committing(id)
		return nil
	})
}

// asynqJobs is asynq on a Redis that syncs each write, looking for work every millisecond. Each world has a queue of its
// own in it.
type asynqJobs struct {
	redis  asynq.RedisClientOpt
	queue  string
	client *asynq.Client
}

const asynqType = "bench"

func newAsynqJobs(_ context.Context, w *world) (queue, error) {
	q := &asynqJobs{redis: asynq.RedisClientOpt{Addr: w.servers.redis.addr, PoolSize: jobConcurrency}, queue: w.name}
	q.client = asynq.NewClient(q.redis)
	w.closers = append(w.closers, func() { _ = q.client.Close() }) // nothing is pending on it
	return q, nil
}

func (q *asynqJobs) fill(ctx context.Context, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for range n {
		group.Go(func() error { return q.enqueue(ctx, func(string) {}) })
	}
	return group.Wait()
}

func (q *asynqJobs) start(_ context.Context, handle func(string)) (func() error, error) {
	server := asynq.NewServer(q.redis, asynq.Config{
		Concurrency: jobConcurrency, Queues: map[string]int{q.queue: 1}, LogLevel: asynq.FatalLevel,
		TaskCheckInterval: time.Millisecond, // a thousand times shorter than the default
	})
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		handle(string(task.Payload()))
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("start asynq: %w", err)
	}
	return func() error { server.Shutdown(); return nil }, nil
}

func (q *asynqJobs) idle(context.Context) (bool, error) {
	inspector := asynq.NewInspector(q.redis)
	info, err := inspector.GetQueueInfo(q.queue)
	if err = errors.Join(err, inspector.Close()); err != nil {
		return false, fmt.Errorf("read asynq queue: %w", err)
	}
	return info.Pending == 0 && info.Active == 0 && info.Retry == 0, nil
}

func (q *asynqJobs) enqueue(ctx context.Context, committing func(string)) error {
	id := events.NewID()
	committing(id)
	if _, err := q.client.EnqueueContext(ctx, asynq.NewTask(asynqType, []byte(id)), asynq.Queue(q.queue)); err != nil {
		return fmt.Errorf("enqueue asynq task: %w", err)
	}
	return nil
}
