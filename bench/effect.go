package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/flags"
	"fdc/internal/platform/outbox"
	"fdc/internal/service"
)

// patience is how long a change may take to have its effect before the case counts as failed.
const patience = 10 * time.Second

// revocation logs users out on one of two APIs, as soon as the other has their session in memory, and takes the time from the
// answer until the other refuses them, asked as fast as it answers. So the least is the time of one request.
func revocation(ctx context.Context, b *bench) ([]sample, error) {
	var took []time.Duration
	err := b.inWorld(ctx, func(w *world) error {
		accounts, err := w.signUpAll(ctx, b.amount(200, 10))
		if err != nil {
			return err
		}
		here, err := b.startAPI(ctx, w, accounts)
		if err != nil {
			return err
		}
		there, err := b.startAPI(ctx, w, accounts)
		if err != nil {
			return errors.Join(err, here.stop())
		}
		stop, err := b.startInvalidator(ctx, w)
		if err != nil {
			return errors.Join(err, there.stop(), here.stop())
		}
		for _, a := range accounts {
			var delay time.Duration
			if delay, err = revoke(ctx, here, there, a); err != nil {
				break
			}
			took = append(took, delay)
		}
		return errors.Join(err, stop(), there.stop(), here.stop())
	})
	return effectSamples("logout on one API → refusal on another", "API", took), err
}

func revoke(ctx context.Context, here, there *runningAPI, a *account) (time.Duration, error) {
	const session = "/api/auth/session"
	for range 5 { // the second is answered from memory
		if _, err := there.get(ctx, session, a); err != nil {
			return 0, err
		}
	}
	answer, err := here.ask(ctx, http.MethodPost, "/api/auth/logout", a)
	if err == nil && answer.status != http.StatusNoContent {
		err = fmt.Errorf("logout answers %d: %s", answer.status, answer.body)
	}
	if err != nil {
		return 0, err
	}
	return effect(func() (bool, error) {
		answer, err := there.ask(ctx, http.MethodGet, session, a)
		return answer.status == http.StatusUnauthorized, err
	})
}

// flagEffect turns the cache of documents off and on, as `fdc flags set` does, and takes the time until the API's answers
// show it.
func flagEffect(ctx context.Context, b *bench) ([]sample, error) {
	took := map[bool][]time.Duration{}
	err := b.inWorld(ctx, func(w *world) error {
		accounts, err := w.signUpAll(ctx, 1)
		if err != nil {
			return err
		}
		store, err := w.flagStore(ctx)
		if err != nil {
			return err
		}
		api, err := b.startAPI(ctx, w, accounts)
		if err != nil {
			return err
		}
		err = func() error {
			for i := range b.amount(200, 10) {
				on := i%2 == 1
				if _, err := store.Set(ctx, operator(), flags.WorkspaceCache, on, "bench", 0); err != nil {
					return err
				}
				delay, err := effect(func() (bool, error) { return api.caches(ctx, on) })
				if err != nil {
					return err
				}
				took[on] = append(took[on], delay)
			}
			return nil
		}()
		return errors.Join(err, api.stop())
	})
	const about = "flag set → effect on a live API, "
	return append(effectSamples(about+"off", "API", took[false]), effectSamples(about+"on", "API", took[true])...), err
}

// effect asks again and again, without a pause, and gives how long it took until the answer was yes.
func effect(ask func() (bool, error)) (time.Duration, error) {
	for start := time.Now(); ; {
		yes, err := ask()
		took := time.Since(start)
		switch {
		case err != nil:
			return 0, err
		case yes:
			return took, nil
		case took > patience:
			return 0, fmt.Errorf("no effect after %s", patience)
		}
	}
}

func effectSamples(name, ours string, took []time.Duration) []sample {
	values := inMilliseconds(took)
	return []sample{
		{line: line{Case: name + ", p50", Ours: ours, Unit: milliseconds}, ours: median(values)},
		{line: line{Case: name + ", p99", Ours: ours, Unit: milliseconds, Target: target{AtMost: 1000}}, ours: quantile(values, 0.99)},
	}
}

// caches reports whether the API answers with its cache of documents on, or off.
func (api *runningAPI) caches(ctx context.Context, on bool) (bool, error) {
	answer, err := api.get(ctx, api.accounts[0].documentPath(), api.accounts[0])
	return (answer.header.Get("Cache-Status") != "fdc-db; fwd=bypass") == on, err
}

// flagStore changes flags as the user and with the connections of the command fdc.
func (w *world) flagStore(ctx context.Context) (*flags.Store, error) {
	nc, err := w.connect("ops")
	if err != nil {
		return nil, err
	}
	js, err := bus.JetStream(nc)
	if err != nil {
		return nil, err
	}
	bucket, err := js.KeyValue(ctx, bus.Flags)
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", bus.Flags, err)
	}
	return flags.NewStore(bucket, outbox.New(w.pool, nil)), nil
}

// operator is who changes flags.
func operator() events.Meta { return events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor} }

// startInvalidator runs cmd/cache-invalidator's service until the returned function ends it, and waits until it has handled
// what happened before.
func (b *bench) startInvalidator(ctx context.Context, w *world) (stop func() error, err error) {
	nc, err := w.connect(bus.CacheInvalidator)
	if err != nil {
		return nil, err
	}
	js, err := bus.JetStream(nc)
	if err != nil {
		return nil, err
	}
	consumer, err := js.Consumer(ctx, bus.Events, bus.CacheInvalidator)
	if err != nil {
		return nil, fmt.Errorf("bind consumer %s: %w", bus.CacheInvalidator, err)
	}
	config := service.CacheInvalidatorConfig{Common: service.Common{
		Database: w.db, Bus: bus.Config{URL: w.nats.URL(bus.CacheInvalidator), Replicas: 1},
	}}
	lent := service.Runtime{Log: zerolog.Nop(), Admin: daemon.NewAdmin().Service(bus.CacheInvalidator)}
	stop = background(ctx, func(ctx context.Context) error { return service.RunCacheInvalidator(ctx, config, lent) })
	err = until(ctx, 30*time.Second, func(ctx context.Context) (bool, error) {
		var unsent int
		if err := w.pool.QueryRow(ctx, `SELECT count(*) FROM outbox WHERE sequence IS NULL`).Scan(&unsent); err != nil || unsent > 0 {
			return false, err
		}
		info, err := consumer.Info(ctx)
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0, err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the cache invalidator: %w", err), stop())
	}
	return stop, nil
}
