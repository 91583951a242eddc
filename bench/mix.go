package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"fdc/internal/devstack/embedpg"
	"fdc/internal/platform/flags"
	"fdc/internal/workspace"
)

const (
	mixUsers = 100
	mixTeam  = 5 // users of a workspace
	// mixPause lets each user ask about nine times a second: slow enough that the API keeps up without its caches too, so
	// that both sides answer the same requests.
	mixPause = 100 * time.Millisecond
)

// mix is the day of a cockpit, faster: a hundred users at once, five to a workspace. It takes their latency when each asks
// again as soon as there is an answer, and counts what the database reads for the same requests with the caches and without.
func mix(ctx context.Context, b *bench) ([]sample, error) {
	var hurried loadResult
	with, without := reads{absent: noStatements}, reads{absent: noStatements}
	err := b.inTurns(
		func() error {
			return b.inMix(ctx, func(_ *world, api *runningAPI, users [][]exchange) (err error) {
				hurried, err = load(ctx, loadRequest{Addr: api.addr, Connections: users, Warmup: min(b.length(), time.Second), Length: b.length()})
				return err
			})
		},
		func() (err error) { with, err = b.mixReads(ctx, true); return err },
		func() (err error) { without, err = b.mixReads(ctx, false); return err },
	)
	if err != nil {
		return nil, err
	}
	about := fmt.Sprintf("mix of %d users", mixUsers)
	return []sample{
		{line: line{Case: about + " at once, p95", Ours: "API", Unit: milliseconds, Target: target{AtMost: 100}}, ours: hurried.P95},
		{line: line{Case: about + " at once", Ours: "API", Unit: perSecond}, ours: hurried.PerSecond},
		{
			line: line{
				Case: about + ": database reads for 1000 requests", Ours: "caches on", Baseline: "caches off", Unit: "reads",
				Target: target{Ratio: 20}, // 95 % fewer
			},
			ours: with.perThousand, baseline: without.perThousand, absent: with.absent,
		},
	}, nil
}

const noStatements = "pg_stat_statements not found"

// reads is how many statements that read the database ran.
type reads struct {
	perThousand float64 // requests
	absent      string
}

func (b *bench) mixReads(ctx context.Context, cached bool) (reads, error) {
	if !b.countsStatements {
		return reads{absent: noStatements}, nil
	}
	var count int
	var result loadResult
	err := b.inMix(ctx, func(w *world, api *runningAPI, users [][]exchange) (err error) {
		if err := w.setCaches(ctx, api, cached); err != nil {
			return err
		}
		before, err := w.reads(ctx)
		if err != nil {
			return err
		}
		result, err = load(ctx, loadRequest{Addr: api.addr, Connections: users, Pause: mixPause, Length: 3 * b.length()})
		if err != nil {
			return err
		}
		count, err = w.reads(ctx)
		count -= before
		return err
	})
	b.tell("caches on: %t, %d requests, %d reads", cached, result.Requests, count)
	return reads{perThousand: 1000 * float64(count) / float64(result.Requests)}, err
}

// inMix gives measure a world with the users, an API and a cache invalidator, and what each user asks for.
func (b *bench) inMix(ctx context.Context, measure func(w *world, api *runningAPI, users [][]exchange) error) error {
	return b.inWorld(ctx, func(w *world) error {
		accounts, err := w.signUpAll(ctx, b.amount(mixUsers, 4*mixTeam))
		if err != nil {
			return err
		}
		if err := w.share(ctx, accounts); err != nil {
			return err
		}
		if err := w.countStatements(ctx); err != nil {
			return err
		}
		api, err := b.startAPI(ctx, w, accounts)
		if err != nil {
			return err
		}
		stop, err := b.startInvalidator(ctx, w)
		if err != nil {
			return errors.Join(err, api.stop())
		}
		err = func() error {
			users := make([][]exchange, len(accounts))
			for i, a := range accounts {
				if users[i], err = api.script(ctx, a, rand.New(rand.NewPCG(uint64(b.run), uint64(i)))); err != nil { //nolint:gosec // repeatable
					return err
				}
			}
			return measure(w, api, users)
		}()
		return errors.Join(err, stop(), api.stop())
	})
}

// share moves the users into the workspaces of the first of them, evenly.
func (w *world) share(ctx context.Context, accounts []*account) error {
	workspaces := workspace.New(w.outbox)
	owners, members := accounts[:len(accounts)/mixTeam], accounts[len(accounts)/mixTeam:]
	for i, a := range members {
		owner := owners[i%len(owners)]
		invitation, err := workspaces.Invite(ctx, meta(owner.userID), owner.userID, owner.workspace, a.email, workspace.RoleMember)
		if err != nil {
			return err
		}
		if _, err := workspaces.Accept(ctx, meta(a.userID), a.userID, invitation.ID); err != nil {
			return err
		}
		a.workspace = owner.workspace
	}
	return w.settle(ctx)
}

// script is what a user asks for, in an order of their own: mostly the document, every other time with the ETag of the
// last, and the session; now and then they look at the tasks or change a card.
func (api *runningAPI) script(ctx context.Context, a *account, order *rand.Rand) ([]exchange, error) {
	var script []exchange
	for _, part := range []struct {
		times        int // of a hundred
		method, path string
		body         string
		again        bool
	}{
		{times: 37, method: http.MethodGet, path: a.documentPath()},
		{times: 37, method: http.MethodGet, path: a.documentPath(), again: true},
		{times: 22, method: http.MethodGet, path: "/api/auth/session"},
		{times: 2, method: http.MethodGet, path: "/api/workspaces/" + a.workspace + "/tasks"},
		{times: 2, method: http.MethodPatch, path: a.documentPath(), body: `{"note":%q}`},
	} {
		for range part.times {
			var body []byte
			if part.body != "" {
				body = fmt.Appendf(nil, part.body, fmt.Sprint(a.userID, order.Uint64()))
			}
			e, err := api.request(ctx, http.StatusOK, part.method, part.path, a, body)
			if err != nil {
				return nil, err
			}
			e.Again = part.again
			script = append(script, e)
		}
	}
	order.Shuffle(len(script), func(i, j int) { script[i], script[j] = script[j], script[i] })
	return script, nil
}

// countStatements has the database count the statements of connections that are opened from now on.
func (w *world) countStatements(ctx context.Context) error {
	if !w.servers.countsStatements {
		return nil
	}
	for _, statement := range []string{
		"CREATE EXTENSION pg_stat_statements",
		"ALTER ROLE " + embedpg.Owner + " IN DATABASE " + w.name + " SET pg_stat_statements.track = top",
	} {
		if _, err := w.pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("count statements: %w", err)
		}
	}
	return nil
}

// reads is how many statements have read the world's database so far. The relay's look at the outbox is none of them: it
// comes with the clock and with commits, not with requests that read.
func (w *world) reads(ctx context.Context) (n int, err error) {
	err = w.pool.QueryRow(ctx, `
		SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
		WHERE d.datname = current_database() AND query ~* '^\s*SELECT' AND query !~ '\moutbox\M'`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count reads: %w", err)
	}
	return n, nil
}

// setCaches turns the caches of sessions and documents on or off, and waits until the API knows.
func (w *world) setCaches(ctx context.Context, api *runningAPI, on bool) error {
	store, err := w.flagStore(ctx)
	if err != nil {
		return err
	}
	for _, flag := range []string{flags.SessionCache, flags.WorkspaceCache} {
		if _, err := store.Set(ctx, operator(), flag, on, "bench", 0); err != nil {
			return err
		}
	}
	return until(ctx, 10*time.Second, func(ctx context.Context) (bool, error) { return api.caches(ctx, on) })
}
