package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The demo's people: its tests are TestFirstVisit, which reads, and TestTwoPeopleSeeEachOther, which needs more tasks than a page of the API.
const (
	demoFounder = "alice@example.com" // OWNER, operator, connected to Google
	demoMember  = "bob@example.com"   // MEMBER
)

// enterDemo opens the board of the workspace Demo.
func (p *person) enterDemo(email string) {
	p.t.Helper()
	p.signIn(email, "tasks")
	p.choose("Demo")
}

// choose goes to a workspace.
func (p *person) choose(name string) {
	p.t.Helper()
	option := `[...document.querySelectorAll("#workspace option")].find(o => o.textContent === ` + quote(name) + `)`
	p.holds(option+` !== undefined`, "the workspace "+name)
	if !value[bool](p, option+`.selected`) {
		p.fill("#workspace", value[string](p, option+`.value`))
	}
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
	alice, bob := visit(t, at.HTTP), visit(t, at.HTTP)
	alice.enterDemo(demoFounder)
	bob.enterDemo(demoMember)
	bob.holds(`document.querySelectorAll("#board .card").length > 100`, "the demo's tasks")

	// A board follows what others do at its own pace, so each step changes two cards.
	alice.add("Seen by both")
	alice.add("Edited by both")
	bob.holds(inColumn("unclassified", "Seen by both")+"&&"+inColumn("unclassified", "Edited by both"), "bob sees what alice adds")

	// Alice drags one card. The other she edits, to what HTML would be if the page took text for it.
	value[bool](alice, `(() => {
		const card = [...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("Seen by both"));
		const to = document.querySelector("#board [data-suit=heart]");
		const dataTransfer = new DataTransfer();
		card.dispatchEvent(new DragEvent("dragstart", { bubbles: true, dataTransfer }));
		to.dispatchEvent(new DragEvent("dragover", { bubbles: true, cancelable: true, dataTransfer }));
		to.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
		return true;
	})()`)
	const html = `<img src=x onerror="alert(1)"> & "you"`
	alice.holds(inColumn("unclassified", "Edited by both"), "alice's own task")
	value[bool](alice, `([...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("Edited by both")).querySelector(".title").click(), true)`)
	alice.fill("dialog input", html)
	alice.press("Save")
	bob.holds(inColumn("heart", "Seen by both"), "bob sees where alice drags it")
	bob.holds(inColumn("unclassified", html), "bob reads the text as it is")

	// Bob moves the one from the keyboard, and the other ends.
	value[bool](bob, `(() => {
		const select = [...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("Seen by both")).querySelector("select");
		select.value = "joker";
		select.dispatchEvent(new Event("change"));
		return true;
	})()`)
	value[bool](bob, `([...document.querySelectorAll("#board .card")].find(c => c.innerText.includes("onerror")).querySelector(".title").click(), true)`)
	bob.press("Delete")
	alice.holds(inColumn("joker", "Seen by both"), "alice sees where bob moves it")
	alice.holds("!"+inColumn("unclassified", html), "alice no longer sees what bob deletes")

	bob.goTo("audit")
	bob.sees("#content", "Only owners and admins")
	require.Empty(t, append(alice.complaints(), bob.complaints()...))
}

// Bob is invited while he looks, and declines; invited again, he accepts. Alice withdraws what she sends to others.
func TestInvitations(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice, _ := founder(t, at, "members")
	email := account(t, at.Google, "Bob")
	bob := visit(t, at.HTTP)
	bob.signIn(email, "tasks")
	bob.sees("#live", "Live")
	invite := func(email string) {
		t.Helper()
		alice.fill(`#invite [name="email"]`, email)
		alice.click("#invite button")
		alice.sees("#members", email)
	}
	const rows = `document.querySelectorAll("#members tbody tr").length`
	invite(email)
	bob.sees("#invitations", "invites you to “Alice of TestInvitations's workspace” as MEMBER.")
	bob.press("Decline")
	bob.holds(`document.querySelector("#invitations").hidden`, "the invitation is gone")
	require.Equal(t, 1, value[int](bob, `document.querySelectorAll("#workspace option:not([value=new])").length`), "and Bob is in no other workspace")
	alice.goTo("devices")
	alice.goTo("members")
	alice.holds(rows+" === 1", "Alice sees that it is gone")

	invite("nobody." + email)
	alice.press("Send again")
	alice.sees("#toasts", "Sent again to nobody."+email)
	alice.press("Withdraw")
	alice.holds(rows+" === 1", "Alice withdraws what she sent to another address")

	invite(email)
	bob.sees("#invitations", "as MEMBER.")
	bob.press("Accept")
	bob.holds(`document.querySelector("#workspace").selectedOptions[0].textContent === "Alice of TestInvitations's workspace"`, "Bob is in Alice's workspace")
	alice.sees("#members", "Bob of TestInvitations")
	bob.goTo("members")
	bob.holds(rows+" === 2", "Bob sees the members")
	require.False(t, value[bool](bob, `document.querySelector("#invite") !== null`), "a MEMBER invites nobody")
	require.Empty(t, append(alice.complaints(), bob.complaints()...))
}

// The document's text, as a value.
func (p *person) document() string {
	p.t.Helper()
	return value[string](p, `JSON.stringify(JSON.parse(document.querySelector("#document").value))`)
}

func TestTwoPeopleEditTheDocument(t *testing.T) {
	t.Parallel()
	alice, bob := both(t, stack(t), "document")
	alice.sees("#document-of", "Version")
	alice.fill("#document", `{"a":1,"b":{"x":1,"y":1},"c":[1]}`)
	alice.click("#save")
	bob.sees("#document", `"c": [`)

	// Different parts are merged without a question.
	alice.fill("#document", `{"a":2,"b":{"x":1,"y":1},"c":[1]}`)
	bob.fill("#document", `{"a":1,"b":{"x":1,"y":2},"c":[1]}`)
	bob.click("#save")
	alice.sees("#document-notice", "Somebody saved version 2")
	alice.click("#save")
	bob.sees("#document", `"a": 2`)
	require.JSONEq(t, `{"a":2,"b":{"x":1,"y":2},"c":[1]}`, bob.document())

	// What both have changed is asked; what only one has is in.
	alice.fill("#document", `{"a":3,"b":{"x":1,"y":2},"c":[1],"alice":true}`)
	bob.fill("#document", `{"a":4,"b":{"x":1},"c":[1,2]}`)
	bob.click("#save")
	alice.sees("#document-notice", "Somebody saved version 4")
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

	// What is typed while the answer is under way stays.
	value[bool](alice, `(() => {
		const field = document.querySelector("#document");
		field.value = '{"a":5}';
		document.querySelector("#save").click();
		field.value = '{"a":6}';
		return true;
	})()`)
	alice.sees("#document-of", "Version 6")
	require.JSONEq(t, `{"a":6}`, alice.document())

	alice.fill("#document", `{"a":`)
	alice.click("#save")
	alice.sees("#toasts", "This is not JSON")
	require.Empty(t, append(alice.complaints(), bob.complaints()...))
}

func TestASyncIsWatched(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice, email := connected(t, at, "sync")
	alice.sees("#google", "in step")

	// Google takes its time, so that there is something to see.
	quick := slow(t, at.Google, email)
	alice.click("#anew")
	alice.click("#sync .primary")
	alice.holds(`!document.querySelector("#progress").hidden && /Reading|Writing/.test(document.querySelector("#job").textContent)`, "progress")
	quick()
	alice.sees("#job", "Completed")
	alice.holds(`document.querySelectorAll("#history tbody tr").length > 0`, "the history")
	alice.sees("#history", "Completed")

	// The event from Google is in the calendar.
	alice.goTo("calendar")
	alice.holds(`document.querySelectorAll("#week .entry.google").length > 0`, "events from Google")
	alice.shot("calendar")

	// A grant that Google's side has withdrawn is said as such.
	emulator(t, at.Google, http.MethodPost, "/_emulator/revoke", "", map[string]any{"email": email})
	alice.goTo("sync")
	alice.click("#sync .primary")
	alice.sees("#google", "wants your consent again")
	alice.sees("#google a", "Connect Google again")
	require.Empty(t, alice.complaints())
}

func TestSigningOut(t *testing.T) {
	t.Parallel()
	at := stack(t)
	home, email := founder(t, at, "tasks")
	second := home.tab()
	second.do("open", navigate(at.HTTP+"/#devices"))
	second.sees("#devices", "this device")
	phone := visit(t, at.HTTP)
	phone.signIn(email, "tasks")

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

// A page that was without network for a while goes on where it was: what happened meanwhile comes once and in order. The while is as long
// as bob's tasks take, and FDC_OFFLINE_TIME at least: in CI as long as a lift, or a tunnel.
func TestOffline(t *testing.T) {
	t.Parallel()
	alice, bob := both(t, stack(t), "tasks")
	alice.listen("")
	alice.holds(`heard.status === "live"`, "alice listens")
	const tasks = 20
	away := 2 * time.Second
	if text := os.Getenv("FDC_OFFLINE_TIME"); text != "" {
		var err error
		away, err = time.ParseDuration(text)
		require.NoError(t, err, "FDC_OFFLINE_TIME")
	}
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
	<-time.After(time.Until(began.Add(away)))
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
	alice.do("open", navigate(at.HTTP))
	alice.sees("body", "Sign in with Google")
	alice.accessible(axe, "welcome")
	alice, _ = connected(t, at, "calendar")
	alice.holds(`document.querySelectorAll("#week .entry.google").length > 7`, "events from Google")
	looks := []struct {
		name          string
		width, height int64
		scheme        string
	}{{"desktop-light", 1280, 860, "light"}, {"phone-dark", 390, 844, "dark"}}
	for view, loaded := range map[string]string{
		"tasks": "#board .card", "calendar": "#week .entry.task", "document": "#document", "sync": "#google", "audit": "#log tbody tr", "devices": "#devices .card", "members": "#members tbody tr",
	} {
		alice.goTo(view)
		alice.holds(fmt.Sprintf(`document.querySelectorAll(%q).length > 0`, loaded), view)
		for _, look := range looks {
			alice.look(look.width, look.height, look.scheme)
			alice.accessible(axe, look.name+"-"+view)
			require.LessOrEqual(t, value[int](alice, `document.documentElement.scrollWidth`), int(look.width), "it fits")
		}
	}
	alice.fill(`select[aria-label="Language"]`, "ja")
	alice.sees("nav", "カレンダー")
	require.Equal(t, "ja", value[string](alice, `document.documentElement.lang`))
	alice.accessible(axe, "japanese")
	require.Empty(t, alice.complaints())
}

// Nor are operators.
func TestOperatorsPage(t *testing.T) {
	t.Parallel()
	at := stack(t)
	axe := npmFile(t, "axe-core/axe.min.js")
	alice := visit(t, at.HTTP)
	alice.signIn(demoFounder, "devices")
	alice.do("operators", navigate(at.HTTP+"/ops"))
	alice.sees("#state", "Live")
	alice.holds(`document.querySelectorAll("#partitions rect").length > 0`, "the partitions")
	alice.holds(`document.querySelector("polyline.p50")?.getAttribute("points").split(" ").length > 1`, "the chart")
	for _, scheme := range []string{"light", "dark"} {
		alice.look(1280, 1100, scheme)
		alice.accessible(axe, "ops-"+scheme)
	}
	require.Empty(t, alice.complaints())
}

// accessible has axe look for what is serious, and keeps a picture.
func (p *person) accessible(axe, what string) {
	p.t.Helper()
	if !value[bool](p, `typeof axe === "object"`) {
		value[bool](p, `(0, eval)(`+quote(axe)+`, true)`)
	}
	found := value[[]string](p, `axe.run(document, { resultTypes: ["violations"] }).then(r => r.violations
		.filter(v => ["serious", "critical"].includes(v.impact))
		.flatMap(v => v.nodes.map(n => v.id + ": " + n.target.join(" ") + ": " + n.failureSummary)))`)
	require.Empty(p.t, found, what)
	p.shot(what)
}

// The first visit costs little. How long it takes is BenchmarkFirstVisit's.
func TestFirstVisit(t *testing.T) {
	t.Parallel()
	at := stack(t)
	alice := visit(t, at.HTTP)
	alice.enterDemo(demoFounder)
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
