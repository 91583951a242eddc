package web_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	founder = "alice@example.com" // OWNER of Demo, operator, connected to Google
	member  = "bob@example.com"   // MEMBER of Demo
)

// enter opens a view of the workspace Demo.
func (p *person) enter(email, view string) {
	p.t.Helper()
	p.signIn(email, view)
	p.holds(`[...document.querySelectorAll("#workspace option")].some(o => o.textContent === "Demo")`, "the workspace Demo")
	if !value[bool](p, `document.querySelector("#workspace").selectedOptions[0].textContent === "Demo"`) {
		p.fill("#workspace", value[string](p, `[...document.querySelectorAll("#workspace option")].find(o => o.textContent === "Demo").value`))
	}
}

// both are Alice and Bob, each at a browser of their own, with a view of the workspace Demo.
func both(t *testing.T, base, view string) (alice, bob *person) {
	t.Helper()
	alice, bob = visit(t, base), visit(t, base)
	alice.enter(founder, view)
	bob.enter(member, view)
	return alice, bob
}

// inColumn is an expression for a card in a column of the board.
func inColumn(suit, title string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#board [data-suit=%s] .card .title")].some(e => e.textContent === %q)`, suit, title)
}

// add makes a task on the board.
func (p *person) add(title string) {
	p.t.Helper()
	p.fill(`#add [name="title"]`, title)
	p.click("#add button")
}

// press clicks the button of that text.
func (p *person) press(text string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`([...document.querySelectorAll("button")].find(b => b.textContent === %q).click(), true)`, text))
}

func TestTwoPeopleSeeEachOther(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice, bob := both(t, at.HTTP, "tasks")
	bob.holds(`document.querySelectorAll("#board .card").length > 100`, "the demo's tasks")

	alice.add("Seen by both")
	bob.holds(inColumn("unclassified", "Seen by both"), "bob sees what alice adds")

	// Alice drags the card, Bob moves it from the keyboard.
	value[bool](alice, `(() => {
		const card = [...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("Seen by both"));
		const to = document.querySelector("#board [data-suit=heart]");
		const dataTransfer = new DataTransfer();
		card.dispatchEvent(new DragEvent("dragstart", { bubbles: true, dataTransfer }));
		to.dispatchEvent(new DragEvent("dragover", { bubbles: true, cancelable: true, dataTransfer }));
		to.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
		return true;
	})()`)
	bob.holds(inColumn("heart", "Seen by both"), "bob sees where alice drags it")
	value[bool](bob, `(() => {
		const select = [...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("Seen by both")).querySelector("select");
		select.value = "joker";
		select.dispatchEvent(new Event("change"));
		return true;
	})()`)
	alice.holds(inColumn("joker", "Seen by both"), "alice sees where bob moves it")

	// An edit, with what HTML would be if the page took text for it, and the end.
	value[bool](alice, `([...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("Seen by both")).querySelector(".title").click(), true)`)
	alice.fill("dialog input", `<img src=x onerror="alert(1)"> & "you"`)
	alice.press("Save")
	bob.holds(inColumn("joker", `<img src=x onerror="alert(1)"> & "you"`), "bob reads the text as it is")
	value[bool](bob, `([...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("onerror")).querySelector(".title").click(), true)`)
	bob.press("Delete")
	alice.holds("!"+inColumn("joker", `<img src=x onerror="alert(1)"> & "you"`), "alice no longer sees what bob deletes")

	bob.goTo("audit")
	bob.sees("#content", "Only owners and admins")
	require.Empty(t, append(alice.complaints(), bob.complaints()...))
}

// The document's text, as a value.
func (p *person) document() string {
	p.t.Helper()
	return value[string](p, `JSON.stringify(JSON.parse(document.querySelector("#document").value))`)
}

func TestTwoPeopleEditTheDocument(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice, bob := both(t, at.HTTP, "document")
	alice.sees("#document-of", "Version")
	alice.fill("#document", `{"a":1,"b":{"x":1,"y":1},"c":[1]}`)
	alice.click("#save")
	bob.sees("#document", `"c": [`)

	// Different parts are merged without a question.
	alice.fill("#document", `{"a":2,"b":{"x":1,"y":1},"c":[1]}`)
	bob.fill("#document", `{"a":1,"b":{"x":1,"y":2},"c":[1]}`)
	bob.click("#save")
	alice.sees("#document-notice", "Somebody saved version")
	alice.click("#save")
	bob.sees("#document", `"a": 2`)
	require.JSONEq(t, `{"a":2,"b":{"x":1,"y":2},"c":[1]}`, bob.document())

	// What both have changed is asked; what only one has is in.
	alice.fill("#document", `{"a":3,"b":{"x":1,"y":2},"c":[1],"alice":true}`)
	bob.fill("#document", `{"a":4,"b":{"x":1},"c":[1,2]}`)
	bob.click("#save")
	alice.sees("#document-notice", "Somebody saved version")
	alice.click("#save")
	alice.sees("#merge legend", "/a")
	require.Equal(t, 1, value[int](alice, `document.querySelectorAll("#merge fieldset").length`))
	require.JSONEq(t, `{"a":4,"b":{"x":1},"c":[1,2],"alice":true}`, alice.document(), "theirs, until somebody chooses")
	alice.shot("merge")
	alice.click(`#merge input[name="conflict-0"]`) // hers
	require.JSONEq(t, `{"a":3,"b":{"x":1},"c":[1,2],"alice":true}`, alice.document())
	alice.press("Save the merged document")
	bob.sees("#document", `"alice": true`)
	require.JSONEq(t, `{"a":3,"b":{"x":1},"c":[1,2],"alice":true}`, bob.document())

	alice.fill("#document", `{"a":`)
	alice.click("#save")
	alice.sees("#toasts", "This is not JSON")
	require.Empty(t, append(alice.complaints(), bob.complaints()...))
}

func TestASyncIsWatched(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice := visit(t, at.HTTP)
	alice.enter(founder, "sync")
	alice.sees("#google", "in step")

	// Google takes its time, so that there is something to see.
	slow(t, at.Google)
	alice.click("#anew")
	alice.click("#sync .primary")
	alice.holds(`!document.querySelector("#progress").hidden && /Reading|Writing/.test(document.querySelector("#job").textContent)`, "progress")
	alice.sees("#job", "Completed")
	alice.holds(`document.querySelectorAll("#history tbody tr").length > 0`, "the history")
	alice.sees("#history", "Completed")
	emulator(t, at.Google, http.MethodDelete, "/_emulator/faults", nil)

	// The event from Google is in the calendar, with a task that has a time beside it.
	alice.goTo("calendar")
	alice.holds(`document.querySelectorAll("#week .entry.google").length > 0`, "events from Google")
	alice.shot("calendar")

	// A grant that Google's side has withdrawn is said as such.
	emulator(t, at.Google, http.MethodPost, "/_emulator/revoke", map[string]any{"email": founder})
	alice.goTo("sync")
	alice.click("#sync .primary")
	alice.sees("#google", "wants your consent again")
	alice.sees("#google a", "Connect Google again")
	require.Empty(t, alice.complaints())
}

// slow makes Google take its time for each answer, until its faults are deleted.
func slow(t *testing.T, google string) {
	t.Helper()
	emulator(t, google, http.MethodPut, "/_emulator/faults", []any{map[string]any{
		"match": map[string]any{"path": "/*"}, "count": 0, "fault": map[string]any{"latencyMs": 150},
	}})
}

// emulator asks the control API of Google's emulator.
func emulator(t *testing.T, google, method, path string, body any) {
	t.Helper()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(t.Context(), method, google+path, bytes.NewReader(text))
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // a test's own
	require.Less(t, answer.StatusCode, 300)
}

func TestSigningOut(t *testing.T) {
	t.Parallel()
	at := stack(t)
	home := visit(t, at.HTTP)
	home.enter(founder, "tasks")
	second := home.tab()
	second.do("open", navigate(at.HTTP+"/#devices"))
	second.sees("#devices", "this device")
	phone := visit(t, at.HTTP)
	phone.enter(founder, "tasks")

	// A device is signed out from another one, and its page ends at once.
	second.holds(`document.querySelectorAll("#devices .card").length === 2`, "the new device turns up")
	second.press("Sign out this device")
	phone.sees(".welcome", "Your session has ended")
	second.holds(`document.querySelectorAll("#devices .card").length === 1`, "it is gone")

	// Both tabs of a browser are one session.
	home.press("Sign out")
	home.sees(".welcome", "Sign in with Google")
	second.sees(".welcome", "Your session has ended")
	require.Empty(t, append(home.complaints(), second.complaints()...))
}

// A page that was without network for a while goes on where it was: what happened meanwhile comes once and in order.
func TestOffline(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice, bob := both(t, at.HTTP, "tasks")
	alice.listen(at.HTTP, "")
	alice.holds(`heard.status === "live"`, "alice listens")
	const tasks = 20
	add := func(i int) {
		bob.add(fmt.Sprintf("Offline %d", i))
		bob.holds(inColumn("unclassified", fmt.Sprintf("Offline %d", i)), "bob's own task")
	}
	add(0)
	alice.holds(`heard.events.length === 1`, "the first")
	alice.offline(true)
	alice.holds(`heard.status === "connecting"`, "alice is told")
	began := time.Now()
	for i := 1; i < tasks; i++ {
		add(i)
	}
	<-time.After(time.Until(began.Add(20 * time.Second))) // as long as a lift, or a tunnel
	require.Equal(t, 1, value[int](alice, `heard.events.length`))
	alice.offline(false)
	alice.holds(fmt.Sprintf(`heard.events.length >= %d`, tasks), "what was missed")
	require.Equal(t, fmt.Sprint([]string{"start"}), fmt.Sprint(value[[]string](alice, `heard.resyncs`)), "nothing had to be fetched anew")
	created := value[[]string](alice, `heard.events.filter(e => e.type === "fdc.task.created.v1").map(e => e.id)`)
	require.Len(t, created, tasks)
	require.IsIncreasing(t, created, "ids are in the order of time")
	alice.holds(inColumn("unclassified", fmt.Sprintf("Offline %d", tasks-1)), "the board has them too")
}

// Nobody is kept out: axe finds nothing serious in any view, in light and dark, on a desktop and a phone, in both languages.
func TestAccessibility(t *testing.T) {
	t.Parallel()
	at := stack(t)
	axe := npmFile(t, "axe-core/axe.min.js")
	alice := visit(t, at.HTTP)
	check := func(what string) {
		_ = value[bool](alice, `typeof axe === "object"`+"||"+`(0, eval)(`+quote(axe)+`, true)`)
		found := value[[]string](alice, `axe.run(document, { resultTypes: ["violations"] }).then(r => r.violations
			.filter(v => ["serious", "critical"].includes(v.impact))
			.flatMap(v => v.nodes.map(n => v.id + ": " + n.target.join(" ") + ": " + n.failureSummary)))`)
		require.Empty(t, found, what)
		alice.shot(what)
	}
	alice.do("open", navigate(at.HTTP))
	alice.sees("body", "Sign in with Google")
	check("welcome")
	alice.enter(founder, "tasks")
	for _, look := range []struct {
		name          string
		width, height int64
		scheme        string
	}{{"desktop-light", 1280, 860, "light"}, {"phone-dark", 390, 844, "dark"}} {
		alice.look(look.width, look.height, look.scheme)
		for view, loaded := range map[string]string{
			"tasks": "#board .card", "calendar": "#week .day", "document": "#document", "sync": "#google", "audit": "#log tbody tr", "devices": "#devices .card",
		} {
			alice.goTo(view)
			alice.holds(fmt.Sprintf(`document.querySelectorAll(%q).length > 0`, loaded), view)
			check(look.name + "-" + view)
		}
		require.LessOrEqual(t, value[int](alice, `document.documentElement.scrollWidth`), int(look.width), "it fits")
	}
	alice.fill(`select[aria-label="Language"]`, "ja")
	alice.sees("nav", "カレンダー")
	require.Equal(t, "ja", value[string](alice, `document.documentElement.lang`))
	check("japanese")
	alice.do("operators", navigate(at.HTTP+"/ops"))
	alice.sees("#state", "Live")
	alice.holds(`document.querySelectorAll("#partitions rect").length > 0`, "the partitions")
	alice.holds(`document.querySelector("polyline.p50")?.getAttribute("points").split(" ").length > 1`, "the chart")
	for _, scheme := range []string{"light", "dark"} {
		alice.look(1280, 1100, scheme)
		check("ops-" + scheme)
	}
	require.Empty(t, alice.complaints())
}

// The first visit costs little. How long it takes is BenchmarkFirstVisit's.
func TestFirstVisit(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice := visit(t, at.HTTP)
	alice.enter(founder, "tasks")
	alice.holds(`document.querySelectorAll("#board .card").length > 100`, "the board")
	const sizes = `["navigation", "resource"].flatMap(type => performance.getEntriesByType(type))`
	require.LessOrEqual(t, value[int](alice, sizes+`.filter(e => !e.name.includes("/api/")).reduce((n, e) => n + e.transferSize, 0)`), 150<<10)
	require.LessOrEqual(t, value[int](alice, sizes+`.filter(e => e.name.includes("/assets/")).length`), 20)
	alice.do("again", navigate(at.HTTP+"/?again"))
	alice.sees("#live", "Live")
	require.Zero(t, value[int](alice, `performance.getEntriesByType("resource").filter(e => e.name.includes("/assets/")).reduce((n, e) => n + e.transferSize, 0)`),
		"assets are kept for ever")
}

func quote(text string) string {
	b, _ := json.Marshal(text) // a string is always JSON
	return string(b)
}

// npmFile is a file of a package that the pages are tested with.
func npmFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("node_modules/" + name) //nolint:gosec // a test's own
	if err != nil && os.Getenv(needBrowser) == "" {
		t.Skipf("run npm ci in web: %v", err)
	}
	require.NoError(t, err)
	return strings.ToValidUTF8(string(text), "")
}
