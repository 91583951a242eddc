package web_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack"
	"fdc/internal/devstack/testenv"
)

func TestMain(m *testing.M) {
	testenv.Parallel(8)
	code := m.Run()
	closeBrowser()
	if err := stopStack(); err != nil {
		fmt.Fprintln(os.Stderr, "the stack ended:", err)
		code = 1
	}
	os.Exit(code) //nolint:forbidigo // this is main
}

var stopStack = func() error { return nil }

// startStack starts all of FDC with the demo's data. All tests share it: those that write have people and workspaces of their own.
var startStack = sync.OnceValues(func() (devstack.Addresses, error) {
	ready := make(chan devstack.Addresses, 1)
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		ended <- devstack.Run(ctx, devstack.Options{
			HTTP: "127.0.0.1:0", NATS: "127.0.0.1:0", Google: "127.0.0.1:0", Metrics: "127.0.0.1:0", Ephemeral: true, RateLimitFactor: 100,
			Logger:   func(string) zerolog.Logger { return zerolog.New(os.Stderr).Level(zerolog.ErrorLevel) },
			Progress: func(string) {},
			Ready: func(a devstack.Addresses) error {
				ready <- a
				return nil
			},
		})
	}()
	select {
	case a := <-ready:
		stopStack = func() error {
			stop()
			return <-ended
		}
		return a, nil
	case err := <-ended:
		stop()
		return devstack.Addresses{}, fmt.Errorf("start the stack: %w", err)
	}
})

// stack is where all of FDC is found.
func stack(tb testing.TB) devstack.Addresses {
	tb.Helper()
	at, err := startStack()
	require.NoError(tb, err)
	return at
}

// account makes one of Google's for somebody of the test's own and returns its address.
func account(t *testing.T, google, name string) string {
	t.Helper()
	email := strings.ToLower(name + "." + rand.Text() + "@example.com") // other runs of the test have others (-count)
	emulator(t, google, http.MethodPost, "/_emulator/users", "", map[string]any{"email": email, "name": name + " of " + t.Name()})
	return email
}

// founder is somebody new at a view of the console, in a workspace of their own.
func founder(t *testing.T, at devstack.Addresses, view string) (alice *person, email string) {
	t.Helper()
	email = account(t, at.Google, "Alice")
	alice = visit(t, at.HTTP)
	alice.signIn(email, view)
	return alice, email
}

// connected is a founder with tasks of all kinds and a document, who has synced with a Google account that has events of this week.
func connected(t *testing.T, at devstack.Addresses, view string) (alice *person, email string) {
	t.Helper()
	alice, email = founder(t, at, "tasks")
	now := time.Now().UTC()
	token, _ := emulator(t, at.Google, http.MethodPost, "/_emulator/token", "", map[string]any{"email": email})["access_token"].(string)
	for _, event := range []map[string]any{
		{"summary": "All week", "start": map[string]any{"date": now.AddDate(0, 0, -7).Format(time.DateOnly)}, "end": map[string]any{"date": now.AddDate(0, 0, 7).Format(time.DateOnly)}},
		{"summary": "Now", "start": map[string]any{"dateTime": now.Format(time.RFC3339)}, "end": map[string]any{"dateTime": now.Add(time.Hour).Format(time.RFC3339)}},
	} {
		emulator(t, at.Google, http.MethodPost, "/calendar/v3/calendars/primary/events", token, event)
	}
	alice.send(http.MethodPut, "/data", `{ data: { runway: { months: 14 } } }`)
	for i := range 10 {
		task := fmt.Sprintf(`{ title: "Task %d", suit: %q, status: %q }`, i, []string{"spade", "heart", "diamond", "club", "joker"}[i%5], []string{"todo", "done"}[i/5])
		switch i {
		case 1:
			task = `{ title: "顧客に電話する", suit: "spade", notes: "Notes", dueDate: "` + now.Format(time.DateOnly) + `" }`
		case 2:
			task = `{ title: "Meeting", suit: "heart", startAt: "` + now.Format(time.RFC3339) + `", endAt: "` + now.Add(time.Hour).Format(time.RFC3339) + `", timeZone: "Asia/Tokyo" }`
		}
		alice.send(http.MethodPost, "/tasks", task)
	}
	alice.do("connect", navigate(at.HTTP+"/api/google/connect?redirect=/%23"+view))
	alice.sees("#live", "Live")
	value[bool](alice, `(async () => {
		for (;;) {
			const now = await fetch("/api/google/sync").then(r => r.json());
			if (now.lastSyncedAt && !now.activeJobId) return true;
			await new Promise(done => setTimeout(done, 50));
		}
	})()`)
	return alice, email
}

// send has the page ask the API something about the workspace that it shows.
func (p *person) send(method, path, body string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`fetch("/api/workspaces/" + document.querySelector("#workspace").value + %q, {
		method: %q, headers: { "Content-Type": "application/json" }, body: JSON.stringify(%s),
	}).then(async (r) => { if (!r.ok) throw new Error(await r.text()); return true; })`, path, method, body))
}

// both are a founder and a member of the same workspace, each at a browser of their own, at a view of the console.
func both(t *testing.T, at devstack.Addresses, view string) (alice, bob *person) {
	t.Helper()
	alice, _ = founder(t, at, view)
	email := account(t, at.Google, "Bob")
	alice.send(http.MethodPost, "/members", `{ email: `+quote(email)+`, role: "MEMBER" }`)
	bob = visit(t, at.HTTP)
	bob.signIn(email, view)
	bob.sees("#invitations", "Alice of "+t.Name()+"'s workspace")
	bob.press("Accept")
	bob.choose("Alice of " + t.Name() + "'s workspace")
	return alice, bob
}

// slowed are the people that Google takes its time for.
var slowed struct {
	mu     sync.Mutex
	emails []string
}

// slow makes Google take its time for each answer to somebody, until the test calls what it returns.
func slow(t *testing.T, google, email string) (quick func()) {
	t.Helper()
	set := func(change func([]string) []string) {
		t.Helper()
		slowed.mu.Lock()
		defer slowed.mu.Unlock()
		slowed.emails = change(slowed.emails)
		faults := []any{}
		for _, email := range slowed.emails {
			faults = append(faults, map[string]any{
				"match": map[string]any{"user": email}, "count": 0, "fault": map[string]any{"latencyMs": 500},
			})
		}
		emulator(t, google, http.MethodPut, "/_emulator/faults", "", faults)
	}
	set(func(emails []string) []string { return append(emails, email) })
	return func() {
		t.Helper()
		set(func(emails []string) []string {
			return slices.DeleteFunc(emails, func(e string) bool { return e == email })
		})
	}
}

// emulator asks Google's emulator: its control API, or with an access token Google's own.
func emulator(t *testing.T, google, method, path, token string, body any) map[string]any {
	t.Helper()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(t.Context(), method, google+path, bytes.NewReader(text))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // a test's own
	said, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Less(t, answer.StatusCode, 300, string(said))
	var got map[string]any
	if len(said) > 0 {
		require.NoError(t, json.Unmarshal(said, &got))
	}
	return got
}
