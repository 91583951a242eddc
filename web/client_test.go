package web_test

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/testenv"
	"fdc/web"
)

// Where no WebSocket gets through, events come as Server-Sent Events, and where those don't either, the page polls. Either way it ends
// with the session.
func TestOtherWays(t *testing.T) {
	t.Parallel()
	at := stack(t)
	const noSockets = `window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.({ code: 1006 })); } close() {} };`
	const noEvents = `window.EventSource = class { constructor() { setTimeout(() => this.onerror?.()); } addEventListener() {} close() {} };`
	streams, bob := both(t, at, "tasks")
	streams.listen(noSockets)
	streams.holds(`heard.status === "live"`, "live over Server-Sent Events")
	polls, _ := founder(t, at, "tasks")
	polls.listen(noSockets + noEvents)
	polls.holds(`heard.status === "polling" && heard.resyncs.filter(r => r === "polling").length >= 3`, "polling")

	bob.add("Told either way")
	streams.holds(`heard.events.some(e => e.type === "fdc.task.created.v1")`, "the event")
	require.Equal(t, fmt.Sprint([]string{"start"}), fmt.Sprint(value[[]string](streams, `heard.resyncs`)))

	for _, p := range []*person{streams, polls} {
		value[bool](p, `fetch("/api/auth/logout", { method: "POST" }).then(r => r.ok)`)
		p.holds(`heard.status === "ended"`, "the end of the session")
	}
}

// What a handler throws keeps nobody else from hearing, and a connection that is closed stays so.
func TestHandlers(t *testing.T) {
	t.Parallel()
	alice, bob := both(t, stack(t), "tasks")
	alice.listen("")
	alice.holds(`heard.status === "live"`, "alice listens")
	value[bool](alice, `(window.second = [], live.listen({ onEvent: () => { throw new Error("planted"); } }),
		window.unlisten = live.listen({ onEvent: (e) => { if (byPeople(e)) second.push(e); } }), true)`)
	bob.add("One")
	alice.holds(`heard.events.length === 1 && second.length === 1`, "both hear")
	require.Contains(t, fmt.Sprint(alice.complaints()), "planted")
	value[bool](alice, `(unlisten(), true)`)
	bob.add("Two")
	alice.holds(`heard.events.length === 2`, "the first hears")
	require.Equal(t, 1, value[int](alice, `second.length`))
	value[bool](alice, `(live.close(), true)`)
	require.Equal(t, "closed", value[string](alice, `heard.status`))
	value[bool](alice, `(dispatchEvent(new Event("online")), true)`)
	require.Equal(t, "closed", value[string](alice, `live.status`))
}

// The hook for React, in a page of a frontend's own.
func TestTheHook(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice, email := connected(t, at, "sync")
	alice.sees("#google", "in step")
	alice.base = frontend(t, at.HTTP)
	alice.do("open", navigate(alice.base+"/frontend/"))
	alice.sees("#status", "idle")
	quick := slow(t, at.Google, email)
	alice.click("#start")
	alice.holds(`seen.includes("processing") && progress.length > 0`, "progress")
	quick()
	alice.sees("#status", "completed")
	require.NotEmpty(t, value[string](alice, `document.querySelector("#job").textContent`))
	require.Equal(t, "", alice.textOf("#error"))

	value[bool](alice, `fetch("/api/google/disconnect", { method: "POST" }).then(r => r.ok)`)
	alice.click("#start")
	alice.holds(`document.querySelector("#error").textContent.length > 10`, "why it can't be started")
	alice.sees("#status", "idle")
	require.Empty(t, alice.complaints())
}

// frontend serves a page that uses the hook at an origin of its own, and passes all else on to the API, as a frontend's server does.
func frontend(t *testing.T, target string) string {
	t.Helper()
	to, err := url.Parse(target)
	require.NoError(t, err)
	api := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		if r.In.Header.Get("Origin") != "" {
			r.Out.Header.Set("Origin", target)
		}
	}}
	const page = `<!doctype html><html lang="en"><title>Frontend</title>
		<script type="importmap">{"imports":{"react":"/frontend/react.js"}}</script>
		<div id="root"></div>
		<script type="module">
			import { createElement as h, createRoot } from "react";
			import { connect } from "%[1]s";
			import { useGoogleSync } from "%[2]s";
			window.seen = []; window.progress = [];
			const live = connect({});
			function Sync() {
				const { startSync, status, progress: now, jobId, error } = useGoogleSync({ live });
				seen.push(status);
				if (now) progress.push(now);
				return h("div", null, h("button", { id: "start", onClick: () => startSync({ mode: "resync" }) }, "Sync"),
					h("p", { id: "status" }, status), h("p", { id: "job" }, jobId), h("p", { id: "error" }, error?.message));
			}
			createRoot(document.querySelector("#root")).render(h(Sync));
		</script>`
	react := reactModule(t)
	mux := http.NewServeMux()
	mux.Handle("/", api)
	mux.HandleFunc("/frontend/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, page, assetPath(t, "client-fdc"), assetPath(t, "client-react"))
	})
	mux.HandleFunc("/frontend/react.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = fmt.Fprint(w, react)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// reactModule is React as one module, as a bundler would make it: the package has no modules of its own.
func reactModule(t *testing.T) string {
	t.Helper()
	bundle := "const modules = {\n"
	for name, file := range map[string]string{
		"react": "react/cjs/react.production.js", "scheduler": "scheduler/cjs/scheduler.production.js",
		"react-dom": "react-dom/cjs/react-dom.production.js", "react-dom/client": "react-dom/cjs/react-dom-client.production.js",
	} {
		bundle += quote(name) + ": (exports, require) => {\n" + npmFile(t, file) + "\n},\n"
	}
	return bundle + `};
		const made = {};
		const require = (name) => {
			if (!made[name]) modules[name](made[name] = {}, require);
			return made[name];
		};
		export const { createElement, useMemo, useSyncExternalStore } = require("react");
		export const { createRoot } = require("react-dom/client");`
}

// bare is somebody at an empty page beside all modules, for tests of what needs no server.
func bare(t *testing.T) *person {
	t.Helper()
	site, err := web.New()
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asset := site.Assets[r.URL.Path]
		w.Header().Set("Content-Type", cmp.Or(asset.Media, "text/html"))
		_, _ = w.Write(asset.Body)
	}))
	t.Cleanup(server.Close)
	p := visit(t, server.URL)
	p.do("open", navigate(server.URL))
	return p
}

// Properties of a merge, on as many random documents as FDC_MERGE_CASES says.
func TestMerge(t *testing.T) {
	t.Parallel()
	p := bare(t)
	failed := value[[]string](p, `import(`+quote(assetPath(t, "console-merge"))+`).then(({ merge, decide, same }) => {
		const failed = [];
		const pick = (...of) => of[Math.floor(Math.random() * of.length)];
		const random = (depth) => {
			const kind = depth > 0 ? pick(0, 1, 2, 3, 3, 3) : pick(0, 1);
			if (kind === 0) return pick(1, 2, "a", null, true);
			if (kind === 1) return pick("b", false, 0);
			if (kind === 2) return [random(depth - 1), random(depth - 1)];
			return Object.fromEntries(["x", "y", "__proto__", "z"].filter(() => Math.random() < .6).map((name) => [name, random(depth - 1)]));
		};
		const object = () => JSON.parse(JSON.stringify({ root: random(3), other: random(2) }));
		const must = (holds, what, ...values) => { if (!holds) failed.push(what + ": " + JSON.stringify(values)); };
		for (let i = 0; i < `+strconv.Itoa(testenv.Size(t, "FDC_MERGE_CASES", 500))+` && failed.length < 5; i++) {
			const [base, mine, theirs] = [object(), object(), object()];
			must(same(merge(base, mine, mine).merged, mine), "both the same", base, mine);
			must(same(merge(base, base, theirs).merged, theirs), "only theirs", base, theirs);
			must(same(merge(base, mine, base).merged, mine), "only mine", base, mine);
			for (const two of [merge(base, base, theirs), merge(base, mine, base), merge(base, mine, mine)]) must(two.conflicts.length === 0, "no conflict", base, mine, theirs);
			const ours = merge(base, mine, theirs), others = merge(base, theirs, mine);
			must(ours.conflicts.length === others.conflicts.length, "conflicts are the same from both sides", base, mine, theirs);
			if (ours.conflicts.length === 0) must(same(ours.merged, others.merged), "so is what comes out", base, mine, theirs);
			let chosen = ours.merged;
			for (const { path, mine: value } of ours.conflicts) chosen = decide(chosen, path, value);
			must(same(chosen, others.merged), "mine for every conflict is what the other side's merge keeps", base, mine, theirs, chosen, others.merged);
			for (const { path, theirs: value } of ours.conflicts) chosen = decide(chosen, path, value);
			must(same(chosen, ours.merged), "and back again", base, mine, theirs);
		}
		return failed;
	})`)
	require.Empty(t, failed)
}

// The operators' figures, by hand.
func TestFigures(t *testing.T) {
	t.Parallel()
	p := bare(t)
	got := value[[]string](p, `import(`+quote(assetPath(t, "ops-figures"))+`).then(({ quantile, rate, sum }) => {
		const sample = (at, n, ...counts) => ({ at, status: {}, metrics: [
			{ name: "c", labels: { a: "1" }, value: n }, { name: "c", labels: { a: "2" }, value: 2 * n },
			{ name: "http_request_seconds", labels: { route: "/x" }, value: counts.at(-1), buckets: counts.slice(0, -1).map((count, i) => ({ upTo: [.01, .1, 1][i], count })) },
		] });
		const before = sample(1000, 10, 100, 100, 100, 100), now = sample(3000, 30, 150, 190, 200, 200);
		return [sum(now.metrics, "c"), sum(now.metrics, "c", { a: "2" }), rate(before, now, "c"), rate(undefined, now, "c"), rate(now, sample(5000, 1, 0, 0, 0, 0), "c"),
			quantile(before, now, .5), quantile(before, now, .7), quantile(before, now, .99), quantile(now, now, .5)]
			.map((n) => Number.isNaN(n) ? "none" : n.toFixed(4));
	})`)
	require.Equal(t, []string{"90.0000", "60.0000", "30.0000", "none", "none", "0.0100", "0.0550", "0.9100", "none"}, got)
}
