package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/gsync"
	"fdc/internal/platform/seal"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// google is an emulator of Google, the feature that asks it, and users who are connected.
type google struct {
	world    *world
	emulator *googleemu.Emulator
	service  *gsync.Service
	users    []googleUser
	spent    atomic.Int64 // nanoseconds for which somebody waited for the emulator
}

type googleUser struct{ id, email, workspace string }

// callers is how many ask at the same time where many users ask.
const callers = 32

// withGoogle measures in a world in which so many users have connected Google.
func (b *bench) withGoogle(ctx context.Context, users int, measure func(*google) error) error {
	return b.inWorld(ctx, func(w *world) error {
		emulator, err := googleemu.New(googleemu.Options{Log: zerolog.Nop()})
		if err != nil {
			return fmt.Errorf("start the emulator: %w", err)
		}
		server := httptest.NewServer(emulator)
		defer server.Close()
		g := &google{world: w, emulator: emulator}
		keys, err := seal.ParseKeys(seal.NewKey("v1"))
		if err != nil {
			return err
		}
		workspaces := workspace.New(w.outbox)
		g.service = gsync.New(gsync.Config{
			Outbox: w.outbox, Keys: keys, Tasks: task.New(w.outbox, workspaces), Members: workspaces, Log: zerolog.Nop(), NATS: w.nc,
			OAuth:     gsync.OAuth{ClientID: "bench", ClientSecret: "bench", Endpoint: server.URL},
			Transport: timed{&g.spent, &http.Transport{MaxIdleConnsPerHost: callers}},
		})
		err = g.connect(ctx, users)
		if err == nil {
			err = w.settle(ctx)
		}
		if err == nil {
			err = measure(g)
		}
		return errors.Join(err, emulator.Close())
	})
}

// timed adds up for how long requests were under way.
type timed struct {
	spent *atomic.Int64
	next  http.RoundTripper
}

func (t timed) RoundTrip(r *http.Request) (*http.Response, error) {
	defer func(began time.Time) { t.spent.Add(int64(time.Since(began))) }(time.Now())
	return t.next.RoundTrip(r)
}

// connect makes users with a workspace each, who consent as a browser would.
func (g *google) connect(ctx context.Context, n int) error {
	g.users = make([]googleUser, n)
	var group errgroup.Group
	group.SetLimit(callers)
	for i := range g.users {
		u := &g.users[i]
		*u = googleUser{events.NewID(), fmt.Sprintf("user%d@example.com", i), ""}
		group.Go(func() (err error) {
			err = g.world.outbox.Tx(ctx, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `INSERT INTO users (id, email, google_id) VALUES ($1, $2, 'g-' || $2)`, u.id, u.email); err != nil {
					return fmt.Errorf("make user: %w", err)
				}
				u.workspace, err = workspace.New(g.world.outbox).CreateTx(ctx, tx, meta(u.id), u.id, "Own")
				return err
			})
			if err == nil {
				err = g.emulator.AddUser(u.email, u.email)
			}
			if err != nil {
				return err
			}
			grant, err := g.consent(ctx, u.email)
			if err != nil {
				return fmt.Errorf("consent: %w", err)
			}
			return g.service.Connect(ctx, meta(u.id), u.id, grant)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err := g.world.pool.Exec(ctx, `TRUNCATE outbox`) // no relay runs, and none of it is measured
	return err
}

func (g *google) consent(ctx context.Context, email string) (gsync.Grant, error) {
	const redirect = "http://127.0.0.1/callback"
	verifier := oauth2.GenerateVerifier()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.service.AuthURL("state", verifier, redirect, email, gsync.ForConnect), http.NoBody)
	if err != nil {
		return gsync.Grant{}, err
	}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := browser.Do(r)
	if err != nil {
		return gsync.Grant{}, err
	}
	if err := response.Body.Close(); err != nil {
		return gsync.Grant{}, err
	}
	back, err := url.Parse(response.Header.Get("Location"))
	if err != nil {
		return gsync.Grant{}, err
	}
	return g.service.Exchange(ctx, back.Query().Get("code"), verifier, redirect)
}

// request asks for a sync of each of the users, many at the same time.
func (g *google) request(ctx context.Context, users []googleUser, ask gsync.Ask) error {
	var group errgroup.Group
	group.SetLimit(callers)
	for _, u := range users {
		group.Go(func() error {
			_, _, err := g.service.Request(ctx, meta(u.id), u.id, ask)
			return err
		})
	}
	return group.Wait()
}

// run runs what is queued, in so many slots or as many as a syncer has, until all of it has ended well, and says how long that took.
func (g *google) run(ctx context.Context, slots int) (took time.Duration, err error) {
	began := time.Now()
	stop, err := g.syncer(ctx, slots)
	if err != nil {
		return 0, err
	}
	err = g.ended(ctx)
	took = time.Since(began)
	return took, errors.Join(err, stop())
}

// ended waits until all jobs have ended, which has to be well.
func (g *google) ended(ctx context.Context) error {
	err := until(ctx, 5*time.Minute, func(ctx context.Context) (idle bool, err error) {
		err = g.world.pool.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM sync_jobs WHERE status IN ('pending', 'processing'))`).Scan(&idle)
		return idle, err
	})
	if err != nil {
		return err
	}
	var others int
	err = g.world.pool.QueryRow(ctx, `SELECT count(*) FROM sync_jobs WHERE status <> 'completed'`).Scan(&others)
	if err == nil && others > 0 {
		err = fmt.Errorf("%d jobs were not completed", others)
	}
	return err
}

// syncer is what of cmd/syncer works on jobs, and the relay that wakes it.
func (g *google) syncer(ctx context.Context, slots int) (stop func() error, err error) {
	runner := gsync.NewRunner(g.service, gsync.RunnerConfig{Slots: slots})
	stopWorker, err := g.world.consume(ctx, callers, runner.Handle)
	if err != nil {
		return nil, err
	}
	stopRelay, stopRunner := background(ctx, g.world.relay().Run), background(ctx, runner.Run)
	return func() error { return errors.Join(stopRunner(), stopWorker(), stopRelay()) }, nil
}

// one runs a user's sync and returns what it did.
func (g *google) one(ctx context.Context, u googleUser, ask gsync.Ask) (gsync.Job, error) {
	job, err := g.service.RunNow(ctx, meta(u.id), u.id, ask)
	if err == nil && job.Status != gsync.StatusCompleted {
		err = fmt.Errorf("the sync ended as %s: %+v", job.Status, job.Error)
	}
	return job, err
}

// syncStart takes the time from a request for a sync to the moment at which a runner has taken it.
func syncStart(ctx context.Context, b *bench) ([]sample, error) {
	var took []time.Duration
	err := b.withGoogle(ctx, b.amount(300, 20), func(g *google) error {
		stop, err := g.syncer(ctx, 0)
		if err != nil {
			return err
		}
		err = func() error {
			for _, u := range g.users {
				asked := time.Now()
				job, _, err := g.service.Request(ctx, meta(u.id), u.id, gsync.Ask{Type: events.SyncTasks})
				if err != nil {
					return err
				}
				err = until(ctx, 30*time.Second, func(ctx context.Context) (bool, error) {
					job, err = g.service.Job(ctx, u.id, job.ID)
					return job.Ended(), err
				})
				if err != nil {
					return err
				}
				took = append(took, job.StartedAt.Sub(asked))
			}
			return nil
		}()
		return errors.Join(err, stop())
	})
	values := inMilliseconds(took)
	return []sample{
		{line: line{Case: "sync: request → a runner has it, p50", Ours: "queue", Unit: milliseconds, Target: target{AtMost: 15}}, ours: median(values)},
		{line: line{Case: "sync: request → a runner has it, p99", Ours: "queue", Unit: milliseconds}, ours: quantile(values, 0.99)},
	}, err
}

// syncJobs makes jobs that find nothing to do, one request and one transaction each, while they are worked off.
func syncJobs(ctx context.Context, b *bench) ([]sample, error) {
	n := b.amount(10_000, 200)
	var ours, theirs float64
	err := b.inTurns(
		func() error {
			return b.withGoogle(ctx, n, func(g *google) error {
				_, err := g.world.pool.Exec(ctx, `
					INSERT INTO sync_settings (user_id, workspace_id, task_list_id, calendar_ids, auto_sync, interval_minutes)
					SELECT user_id, workspace_id, '@default', '{}', true, 15 FROM workspace_members`)
				if err != nil {
					return err
				}
				stop, err := g.syncer(ctx, poolSize)
				if err != nil {
					return err
				}
				began := time.Now()
				asked := make(chan error, 1)
				go func() { asked <- g.request(ctx, g.users, gsync.Ask{Type: events.SyncCalendar}) }()
				if err = <-asked; err == nil {
					err = g.ended(ctx)
				}
				ours = rate(n, time.Since(began))
				return errors.Join(err, stop())
			})
		},
		func() (err error) { theirs, err = b.riverSingles(ctx, n); return err },
	)
	return []sample{{
		line: line{
			Case: fmt.Sprintf("sync: %d jobs without work, request → end", n), Ours: "queue", Baseline: "River, single inserts", Unit: perSecond,
			Target: target{Ratio: 1},
		},
		ours: ours, baseline: theirs,
	}}, err
}

// riverSingles is the same with River: each job inserted in a transaction of its own, worked off meanwhile.
func (b *bench) riverSingles(ctx context.Context, n int) (perSecond float64, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		q, err := newRiverJobs(ctx, w)
		if err != nil {
			return err
		}
		handled := newMoments()
		stop, err := q.start(ctx, func(id string) { handled.record(id, time.Now()) })
		if err != nil {
			return err
		}
		began := time.Now()
		var group errgroup.Group
		group.SetLimit(callers)
		for range n {
			group.Go(func() error { return q.enqueue(ctx, func(string) {}) })
		}
		err = group.Wait()
		if err == nil {
			err = until(ctx, 5*time.Minute, q.idle)
		}
		perSecond = rate(n, time.Since(began))
		return errors.Join(err, stop())
	})
	return perSecond, err
}

// syncFull reads a calendar and a task list for the first time.
func syncFull(ctx context.Context, b *bench) ([]sample, error) {
	var own time.Duration
	var grown float64
	err := b.withGoogle(ctx, 1, func(g *google) error {
		u := g.users[0]
		if err := g.fill(u.email, b.amount(2500, 100), b.amount(1000, 50)); err != nil {
			return err
		}
		runtime.GC()
		peak, stop := heapPeak()
		spent, began := g.spent.Load(), time.Now()
		job, err := g.one(ctx, u, gsync.Ask{})
		own = time.Since(began) - time.Duration(g.spent.Load()-spent)
		stop()
		grown = float64(peak.Load()) / (1 << 20)
		if want := int64(b.amount(2500, 100)); err == nil && job.Result.Calendar.Created != want {
			err = fmt.Errorf("%d events came instead of %d", job.Result.Calendar.Created, want)
		}
		return err
	})
	return []sample{
		{line: line{Case: "sync: 2500 events and 1000 tasks, without the emulator's time", Ours: "engine", Unit: milliseconds, Target: target{AtMost: 1500}}, ours: inMilliseconds([]time.Duration{own})[0]},
		{line: line{Case: "sync: 2500 events and 1000 tasks, growth of the heap, the emulator's included", Ours: "engine", Unit: megabytes, Target: target{AtMost: 60}}, ours: grown},
	}, err
}

func (g *google) fill(email string, calendarEvents, listTasks int) error {
	start := time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC)
	for i := range calendarEvents {
		at := start.Add(time.Duration(i) * time.Hour)
		_, err := g.emulator.AddEvent(email, "primary", map[string]any{
			"summary": fmt.Sprintf("Meeting %d about the roadmap", i), "description": "Bring the numbers of the last quarter along.",
			"start": map[string]any{"dateTime": at.Format(time.RFC3339)}, "end": map[string]any{"dateTime": at.Add(time.Hour).Format(time.RFC3339)},
		})
		if err != nil {
			return err
		}
	}
	for i := range listTasks {
		_, err := g.emulator.AddTask(email, "@default", map[string]any{"title": fmt.Sprintf("Call customer %d", i), "notes": "They asked for the price list."})
		if err != nil {
			return err
		}
	}
	return nil
}

// heapPeak watches by how much the heap grows, until stop is called.
func heapPeak() (peak *atomic.Int64, stop func()) {
	peak = new(atomic.Int64)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) //nolint:gosec // far from overflowing
	}
	before, done := heap(), make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			peak.Store(max(peak.Load(), heap()-before))
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	})
	return peak, func() { close(done); wait.Wait() }
}

// syncIdle counts what a sync costs that finds nothing new.
func syncIdle(ctx context.Context, b *bench) ([]sample, error) {
	var calls, writes float64
	err := b.withGoogle(ctx, 1, func(g *google) error {
		u := g.users[0]
		if err := g.fill(u.email, 100, 50); err != nil {
			return err
		}
		for range 2 {
			if _, err := g.one(ctx, u, gsync.Ask{}); err != nil {
				return err
			}
		}
		before, err := g.world.rowWrites(ctx)
		if err != nil {
			return err
		}
		job, err := g.one(ctx, u, gsync.Ask{})
		if err != nil {
			return err
		}
		after, err := g.world.rowWrites(ctx)
		calls, writes = float64(job.Result.APICalls), float64(after-before)
		return err
	})
	return []sample{
		{line: line{Case: "sync: nothing new in a calendar and a list, requests to Google", Ours: "engine", Unit: "requests", Target: target{AtMost: 3}}, ours: calls},
		{line: line{Case: "sync: nothing new, rows written but the job's own", Ours: "engine", Unit: "rows", Target: target{AtMost: 0.1}}, ours: writes},
	}, err
}

// syncFair takes the time that somebody waits who asks for a sync when as many others as there are were due and have not begun.
func syncFair(ctx context.Context, b *bench) ([]sample, error) {
	n := b.amount(1000, 50)
	var waited time.Duration
	err := b.withGoogle(ctx, n+1, func(g *google) error {
		if err := g.request(ctx, g.users[1:], gsync.Ask{}); err != nil {
			return err
		}
		if _, err := g.world.pool.Exec(ctx, `UPDATE sync_jobs SET trigger = $1`, events.TriggerSchedule); err != nil {
			return err
		}
		stop, err := g.syncer(ctx, 0)
		if err != nil {
			return err
		}
		err = until(ctx, time.Minute, func(ctx context.Context) (under bool, err error) {
			err = g.world.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM sync_jobs WHERE status = 'completed')`).Scan(&under)
			return under, err
		})
		if err == nil {
			asked := time.Now()
			var job gsync.Job
			if job, err = g.one(ctx, g.users[0], gsync.Ask{Type: events.SyncTasks}); err == nil {
				waited = job.StartedAt.Sub(asked)
			}
		}
		var left int
		if err == nil {
			err = g.world.pool.QueryRow(ctx, `SELECT count(*) FROM sync_jobs WHERE status = 'pending'`).Scan(&left)
		}
		if err == nil && left == 0 && !b.Quick {
			err = errors.New("nobody was left to wait for")
		}
		return errors.Join(err, stop())
	})
	return []sample{{
		line: line{Case: fmt.Sprintf("sync: a request while the first syncs of %d users are due → a runner has it", n), Ours: "queue", Unit: milliseconds},
		ours: inMilliseconds([]time.Duration{waited})[0],
	}}, err
}

// rowWrites counts the rows that were ever written, but for those of jobs: the job, its events, the next one's time.
func (w *world) rowWrites(ctx context.Context) (n int64, err error) {
	if _, err := w.pool.Exec(ctx, `SELECT pg_stat_force_next_flush()`); err != nil {
		return 0, fmt.Errorf("count writes: %w", err)
	}
	err = w.pool.QueryRow(ctx, `
		SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables
		WHERE relname NOT IN ('sync_jobs', 'outbox', 'sync_schedules')`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count writes: %w", err)
	}
	return n, nil
}

// syncMany syncs many users who have nothing new, on one syncer, and as many syncs of few users beside it.
func syncMany(ctx context.Context, b *bench) ([]sample, error) {
	few, many, all := b.amount(10, 5), b.amount(1000, 20), b.amount(10_000, 40)
	speed := func(users, jobs int) (perSecond float64, err error) {
		err = b.withGoogle(ctx, users, func(g *google) error {
			ask := gsync.Ask{}
			if err := g.request(ctx, g.users, ask); err != nil {
				return err
			}
			if _, err := g.run(ctx, poolSize); err != nil { // the first sync of each
				return err
			}
			if err := g.world.settle(ctx); err != nil {
				return err
			}
			var took time.Duration
			done := 0
			for done < jobs {
				asking := g.users[:min(users, jobs)]
				if err := g.request(ctx, asking, ask); err != nil {
					return err
				}
				t, err := g.run(ctx, 0)
				if err != nil {
					return err
				}
				took, done = took+t, done+len(asking)
			}
			perSecond = rate(done, took)
			return nil
		})
		return perSecond, err
	}
	var one, thousand, most float64 // syncs a second
	err := b.inTurns(
		func() (err error) { one, err = speed(few, many); return err },
		func() (err error) { thousand, err = speed(many, many); return err },
		func() (err error) { most, err = speed(all, many); return err },
	)
	name := func(users int) string { return fmt.Sprintf("sync: %d users with nothing new, one syncer", users) }
	return []sample{
		{line: line{Case: name(many) + ", a sync", Ours: "engine", Unit: milliseconds, Target: target{AtMost: 5}}, ours: 1000 / thousand},
		{line: line{Case: name(all), Ours: fmt.Sprint(all), Baseline: fmt.Sprintf("%d users", few), Unit: perSecond, Target: target{Ratio: 0.8}}, ours: most, baseline: one},
	}, err
}
