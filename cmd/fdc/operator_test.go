package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/seal"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

// The commands of operators, against one stack: those of people beside those that only read, then those that no other event must
// disturb.
func TestOperatorCommands(t *testing.T) {
	t.Parallel()
	d := startDev(t, append([]string{"--data", filepath.Join(t.TempDir(), "data")}, anyPorts...)...)
	t.Run("beside", func(t *testing.T) { //nolint:paralleltest // the stack is shared
		for name, test := range map[string]func(*testing.T){
			"people": d.testPeople, "hosts": d.testHosts, "events": d.testEvents, "watch": d.testWatch, "comfort": d.testComfort,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
	t.Run("keys", d.testKeys)
	t.Run("doctor", d.testDoctor)
	t.Run("audit", d.testAudit)
	d.interrupt(t)
}

func (d *dev) testPeople(t *testing.T) {
	t.Helper()
	t.Run("sessions", d.testSessions)
	t.Run("users", d.testUsers)
	t.Run("workspaces", d.testWorkspaces)
	t.Run("flags", d.testFlags)
	t.Run("explain", d.testExplain)
}

// testHosts is a page that has rebound its name to a loopback address, or one of another origin.
func (d *dev) testHosts(t *testing.T) {
	t.Helper()
	status := func(address string, change func(*http.Request)) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
		require.NoError(t, err)
		change(r)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer.StatusCode
	}
	for _, address := range []string{d.HTTP + "/api/health", d.Google + "/_emulator/requests", d.Metrics} {
		require.Equal(t, http.StatusMisdirectedRequest, status(address, func(r *http.Request) { r.Host = "evil.example:8080" }), address)
		require.Equal(t, http.StatusOK, status(address, func(r *http.Request) { r.Host = "localhost:" + r.URL.Port() }), address)
		require.Equal(t, http.StatusOK, status(address, func(*http.Request) {}), address)
	}
	require.Equal(t, http.StatusForbidden, status(d.Google+"/_emulator/requests", func(r *http.Request) { r.Header.Set("Origin", d.HTTP) }))
}

// run runs a command against the stack, wants its exit code, and returns what it printed.
func (d *dev) run(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := command(t, append(args, "--data", d.Data)...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	_ = cmd.Run() // the exit code tells
	require.Equal(t, code, cmd.ProcessState.ExitCode(), "%v: %s", args, &problems)
	return out.String(), problems.String()
}

// json runs a command with --json that must succeed, and decodes what it printed.
func (d *dev) json(t *testing.T, into any, args ...string) {
	t.Helper()
	out, _ := d.run(t, daemon.ExitOK, append(args, "--json")...)
	decoder := json.NewDecoder(bytes.NewReader([]byte(out)))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(into), "%s", out)
}

// audited waits until the audit log holds so many facts of operators about a target.
func (d *dev) audited(t *testing.T, action, target string, count int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.Postgres)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	var found int
	require.Eventually(t, func() bool {
		err := conn.QueryRow(t.Context(), `
			SELECT count(*) FROM audit_logs WHERE action = $1 AND target_id = $2 AND actor_id = $3 AND request_id <> ''`,
			action, target, events.NamedOperator(systemName())).Scan(&found)
		return err == nil && found == count
	}, patience, 20*time.Millisecond, "audited %s of %s", action, target)
}

// signIn returns a browser with a session of its own.
func (d *dev) signIn(t *testing.T, email string) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	require.Equal(t, http.StatusOK, d.get(t, browser, "/api/auth/login?redirect=/api/auth/session&login_hint="+email))
	return browser
}

func (d *dev) get(t *testing.T, browser *http.Client, path string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.HTTP+path, nil)
	require.NoError(t, err)
	response, err := browser.Do(request)
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // read only
	return response.StatusCode
}

// refused waits until the browser's session is over: the nodes hear of it by the event.
func (d *dev) refused(t *testing.T, browser *http.Client) {
	t.Helper()
	require.Eventually(t, func() bool { return d.get(t, browser, "/api/auth/session") == http.StatusUnauthorized }, patience, 10*time.Millisecond)
}

type sessionList struct {
	Revoked bool          `json:"revoked"`
	Items   []sessionItem `json:"items"`
}

func (d *dev) testSessions(t *testing.T) {
	phone, laptop := d.signIn(t, "bob@example.com"), d.signIn(t, "bob@example.com")
	var list struct {
		Items []sessionItem `json:"items"`
	}
	d.json(t, &list, "sessions", "list", "--user", "BOB@example.com")
	require.GreaterOrEqual(t, len(list.Items), 2)
	require.Equal(t, "bob@example.com", list.Items[0].Email)
	laptops := list.Items[0].ID
	out, _ := d.run(t, daemon.ExitOK, "sessions", "list", "--user", "bob@example.com")
	require.Contains(t, out, laptops)

	var plan, done sessionList
	d.json(t, &plan, "sessions", "revoke", laptops)
	require.Equal(t, sessionList{Items: list.Items[:1]}, plan)
	_, hint := d.run(t, daemon.ExitOK, "sessions", "revoke", "--user", "bob@example.com")
	require.Contains(t, hint, "--yes")
	require.Equal(t, http.StatusOK, d.get(t, laptop, "/api/auth/session"), "a plan changes nothing")

	d.json(t, &done, "sessions", "revoke", laptops, "--yes")
	require.Equal(t, sessionList{Revoked: true, Items: list.Items[:1]}, done)
	d.refused(t, laptop)
	require.Equal(t, http.StatusOK, d.get(t, phone, "/api/auth/session"))
	d.audited(t, "session.revoked", laptops, 1)

	d.json(t, &done, "sessions", "revoke", "--user", "bob@example.com", "--yes")
	require.Len(t, done.Items, len(list.Items)-1)
	d.refused(t, phone)
	d.json(t, &list, "sessions", "list", "--user", "bob@example.com")
	require.Empty(t, list.Items)
	for _, item := range done.Items {
		d.audited(t, "session.revoked", item.ID, 1)
	}

	for _, args := range [][]string{
		{"revoke", laptops, "--yes"}, {"revoke", events.NewID()}, {"revoke", "--user", "nobody@example.com"}, {"list", "--user", "nobody@example.com"},
	} {
		d.run(t, daemon.ExitFailed, append([]string{"sessions"}, args...)...)
	}
	for _, args := range [][]string{
		{},
		{"frobnicate"},
		{"list"},
		{"list", "bob@example.com"},
		{"revoke"},
		{"revoke", "x"},
		{"revoke", laptops, laptops},
		{"revoke", laptops, "--user", "bob@example.com"},
	} {
		d.run(t, daemon.ExitUsage, append([]string{"sessions"}, args...)...)
	}
}

type userList struct {
	Done  bool       `json:"done"`
	Items []userItem `json:"items"`
}

func (d *dev) testUsers(t *testing.T) {
	const email = "bob@example.com"
	browser := d.signIn(t, email)
	disable := []string{"users", "disable", "--user", "BOB@example.com", "--reason", "has left"}
	enable := []string{"users", "enable", "--user", email, "--reason", "is back"}

	var plan, done userList
	d.json(t, &plan, disable...)
	require.Len(t, plan.Items, 1)
	bob := plan.Items[0]
	require.Equal(t, userList{Items: []userItem{{ID: bob.ID, Email: email, SystemRole: "USER", Sessions: 1}}}, plan)
	out, hint := d.run(t, daemon.ExitOK, disable...)
	require.Contains(t, out, "TO BE DISABLED")
	require.Contains(t, hint, "--yes")
	require.Equal(t, http.StatusOK, d.get(t, browser, "/api/auth/session"), "a plan changes nothing")

	d.json(t, &done, append(disable, "--yes")...)
	require.Equal(t, userList{Done: true, Items: []userItem{{ID: bob.ID, Email: email, SystemRole: "USER", Disabled: true}}}, done)
	d.refused(t, browser)
	login := "/api/auth/login?redirect=/api/auth/session&login_hint=" + email
	require.Equal(t, http.StatusForbidden, d.get(t, browser, login))
	d.audited(t, "user.disabled", bob.ID, 1)

	d.run(t, daemon.ExitOK, append(enable, "--yes")...)
	require.Equal(t, http.StatusOK, d.get(t, browser, login))
	d.audited(t, "user.enabled", bob.ID, 1)

	// Who says so goes on record by their name, and the run as one that explain finds.
	d.run(t, daemon.ExitUsage, append(disable, "--yes", "--as", "two words")...)
	d.run(t, daemon.ExitOK, append(disable, "--yes", "--as", "carol@ops")...)
	var by string
	var entry struct{ ActorID, Action, RequestID string }
	require.Eventually(t, func() bool {
		by, _ = d.run(t, daemon.ExitOK, "audit", "export", "--actor", "operator:carol@ops", "--action", "user.disabled")
		return by != ""
	}, patience, 20*time.Millisecond)
	require.NoError(t, json.Unmarshal([]byte(by), &entry))
	require.Equal(t, "operator:carol@ops", entry.ActorID)
	explained, _ := d.run(t, daemon.ExitOK, "explain", entry.RequestID)
	require.Regexp(t, `user\.disabled .*by operator:carol@ops`, explained)
	all, _ := d.run(t, daemon.ExitOK, "audit", "export", "--actor", "operator", "--action", "user.disabled")
	require.Contains(t, all, "operator:carol@ops")
	require.Contains(t, all, events.NamedOperator(systemName()))
	d.run(t, daemon.ExitOK, append(enable, "--yes")...)
	require.Equal(t, http.StatusOK, d.get(t, browser, login))

	d.json(t, &plan, "users", "role", "SA", "--user", email)
	require.Equal(t, userList{Items: []userItem{{ID: bob.ID, Email: email, SystemRole: "USER", Sessions: 1}}}, plan)
	d.json(t, &done, "users", "role", "SA", "--user", email, "--yes")
	require.Equal(t, userList{Done: true, Items: []userItem{{ID: bob.ID, Email: email, SystemRole: "SA", Sessions: 1}}}, done)
	d.audited(t, "user.role_changed", bob.ID, 1)
	conn, err := pgx.Connect(t.Context(), d.Postgres)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.Eventually(t, func() bool { // the nodes hear of the role by the event
		require.Equal(t, http.StatusOK, d.get(t, browser, "/api/auth/session"))
		var rotations int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM audit_logs WHERE action = 'session.rotated' AND actor_id = $1`, bob.ID).Scan(&rotations)
		return err == nil && rotations == 1
	}, patience, 20*time.Millisecond)
	d.run(t, daemon.ExitOK, "users", "role", "USER", "--user", email, "--yes")

	for _, args := range [][]string{
		{"disable", "--user", "alice@example.com", "--reason", "the last SA", "--yes"},
		{"role", "USER", "--user", "alice@example.com", "--yes"},
		{"disable", "--user", "nobody@example.com", "--reason", "x"},
	} {
		d.run(t, daemon.ExitFailed, append([]string{"users"}, args...)...)
	}
	for _, args := range [][]string{
		{},
		{"disable", "--user", email},
		{"disable", "--reason", "x"},
		{"disable", email, "--reason", "x"},
		{"disable", "--user", email, "--reason", "two\nlines", "--yes"},
		{"enable", "--user", email},
		{"role", "--user", email},
		{"role", "SA"},
		{"role", "ADMIN", "--user", email},
		{"role", "SA", "--user", email, "--reason", "x"},
	} {
		d.run(t, daemon.ExitUsage, append([]string{"users"}, args...)...)
	}
}

type appointments struct {
	Done  bool          `json:"done"`
	Items []appointment `json:"items"`
}

// Alice is the only OWNER of Demo, and no member of Bob's own workspace.
func (d *dev) testWorkspaces(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), d.Postgres)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	ids := func(name string) (workspaceID, ownerID string) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT id, created_by FROM workspaces WHERE name = $1`, name).Scan(&workspaceID, &ownerID))
		return workspaceID, ownerID
	}
	demo, alice := ids("Demo")
	bobs, _ := ids("Bob Member's workspace")
	_, hint := d.run(t, daemon.ExitOK, "users", "disable", "--user", "alice@example.com", "--reason", "a plan")
	require.Contains(t, hint, "fdc workspaces owner "+demo)

	owner := []string{"workspaces", "owner", bobs, "--user", "Alice@example.com", "--reason", "Bob is on leave"}
	var plan, done appointments
	d.json(t, &plan, owner...)
	want := appointment{WorkspaceID: bobs, Name: "Bob Member's workspace", Members: 1, Owners: 1, UserID: alice, Email: "alice@example.com"}
	require.Equal(t, appointments{Items: []appointment{want}}, plan)
	out, hint := d.run(t, daemon.ExitOK, owner...)
	require.Contains(t, out, "TO BE MADE OWNER")
	require.Contains(t, hint, "--yes")
	d.json(t, &done, append(owner, "--yes")...)
	want.Members, want.Owners, want.Role = 2, 2, "OWNER"
	require.Equal(t, appointments{Done: true, Items: []appointment{want}}, done)
	d.audited(t, "workspace.owner_appointed", bobs, 1)

	for _, args := range [][]string{
		{"owner", bobs, "--user", "nobody@example.com", "--reason", "x"},
		{"owner", alice, "--user", "alice@example.com", "--reason", "no such workspace", "--yes"},
	} {
		d.run(t, daemon.ExitFailed, append([]string{"workspaces"}, args...)...)
	}
	for _, args := range [][]string{
		{},
		{"owner", "--user", "alice@example.com", "--reason", "x"},
		{"owner", demo, "--user", "alice@example.com"},
		{"owner", demo, "--reason", "x"},
		{"owner", demo, "--user", "bob@example.com", "--reason", "two\nlines", "--yes"},
	} {
		d.run(t, daemon.ExitUsage, append([]string{"workspaces"}, args...)...)
	}
}

type flagList struct {
	Items []flagItem `json:"items"`
}

func (d *dev) testFlags(t *testing.T) {
	alice := d.signIn(t, "alice@example.com")
	sync := func() int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.HTTP+"/api/google/sync", strings.NewReader(`{"type":"tasks"}`))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		response, err := alice.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	turns := func(status int) {
		require.Eventually(t, func() bool { return sync() == status }, patience, 20*time.Millisecond)
	}
	require.Equal(t, http.StatusAccepted, sync())

	var item flagItem
	d.json(t, &item, "flags", "set", "sync_async", "off", "--reason", "the syncers are stuck", "--for", "1h")
	require.Equal(t, "off", item.Value)
	require.Equal(t, time.Hour, item.ExpiresAt.Sub(*item.SetAt))
	turns(http.StatusOK)
	d.audited(t, "flag.changed", "sync_async", 1)

	var list flagList
	d.json(t, &list, "flags", "list")
	require.Len(t, list.Items, 4)
	require.Contains(t, list.Items, item)
	require.Contains(t, list.Items, flagItem{Name: "ai_cache", Value: "on", Default: true})
	out, _ := d.run(t, daemon.ExitOK, "flags", "list")
	require.Contains(t, out, "the syncers are stuck")

	d.run(t, daemon.ExitOK, "flags", "clear", "sync_async")
	turns(http.StatusAccepted)
	d.run(t, daemon.ExitOK, "flags", "clear", "sync_async")
	d.audited(t, "flag.changed", "sync_async", 2)
	d.json(t, &list, "flags", "list")
	require.Contains(t, list.Items, flagItem{Name: "sync_async", Value: "on", Default: true})

	for _, args := range [][]string{
		{},
		{"list", "x"},
		{"set", "sync_async", "off"},
		{"set", "sync_async", "--reason", "x"},
		{"set", "sync_async", "maybe", "--reason", "x"},
		{"set", "frobnicate", "off", "--reason", "x"},
		{"set", "sync_async", "off", "--reason", "two\nlines"},
		{"set", "sync_async", "off", "--reason", "x", "--for", "-1h"},
		{"set", "sync_async", "off", "--reason", "x", "--for", "soon"},
		{"clear"},
		{"clear", "frobnicate"},
	} {
		d.run(t, daemon.ExitUsage, append([]string{"flags"}, args...)...)
	}
	d.audited(t, "flag.changed", "sync_async", 2)
}

func (d *dev) testKeys(t *testing.T) {
	type report struct {
		Current  string
		Rotated  bool
		Resealed int64
		Items    []struct {
			Key    string
			Values int64
			Known  bool
		}
		Removable []string
	}
	var plan report
	d.json(t, &plan, "keys", "rotate")
	require.Equal(t, "v1", plan.Current)
	require.False(t, plan.Rotated)
	require.Len(t, plan.Items, 1)
	tokens := plan.Items[0].Values
	require.NotZero(t, tokens, "the demo's founder is connected")
	require.True(t, plan.Items[0].Known)

	kept, err := devstack.ReadMasterKeys(d.Data)
	require.NoError(t, err)
	fresh := seal.NewKey("v2")
	rotate := func(args ...string) (out report) {
		t.Helper()
		cmd := command(t, append([]string{"keys", "rotate", "--json", "--data", d.Data}, args...)...)
		cmd.Env = append(cmd.Env, "MASTER_ENCRYPTION_KEYS="+fresh.Reveal()+","+kept.Reveal())
		printed, err := cmd.Output()
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(printed, &out))
		return out
	}
	require.Zero(t, rotate().Resealed)
	done := rotate("--yes")
	require.True(t, done.Rotated)
	require.Equal(t, tokens, done.Resealed)
	require.Equal(t, "v2", done.Items[0].Key)
	require.Equal(t, []string{"v1"}, done.Removable)
	d.audited(t, "ops.keys_rotated", "v2", 1)

	d.json(t, &plan, "keys", "rotate")
	require.False(t, plan.Items[0].Known, "the running stack has no such key")
	out, problems := d.run(t, daemon.ExitFailed, "keys", "rotate", "--yes")
	require.Contains(t, problems, "not in MASTER_ENCRYPTION_KEYS")
	require.Contains(t, out, "v2")
	for _, wrong := range [][]string{{"keys"}, {"keys", "turn"}, {"keys", "rotate", "now"}} {
		d.run(t, daemon.ExitUsage, wrong...)
	}
	// Back, so that the stack finds its tokens again.
	cmd := command(t, "keys", "rotate", "--yes", "--data", d.Data)
	cmd.Env = append(cmd.Env, "MASTER_ENCRYPTION_KEYS="+kept.Reveal()+","+fresh.Reveal())
	require.NoError(t, cmd.Run())
}
