package service_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/internal/audit/archive"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/programs"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/seal"
)

// operator is the environment of a shell that may do everything.
func (s *system) operator(t *testing.T) []string {
	t.Helper()
	return []string{
		"PATH=" + programs.Dir(t) + ":" + os.Getenv("PATH"), "DATABASE_URL=" + s.database, "NATS_URL=nats://" + s.broker.Addr(),
		"NATS_PASSWORD=" + s.broker.Password("ops"), "NATS_PASSWORD_PROVISION=" + s.broker.Password("provision"),
	}
}

// runbook gives the shell blocks of docs/runbooks/NAME.md.
func runbook(t *testing.T, name string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbooks", name+".md")) //nolint:gosec // a test names it
	require.NoError(t, err)
	for _, block := range strings.Split(string(text), "```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		blocks = append(blocks, block)
	}
	require.NotEmpty(t, blocks)
	return blocks
}

// shell carries out scripts, one after the other in one shell, and returns what they print.
func (s *system) shell(t *testing.T, scripts []string, environ ...string) string {
	t.Helper()
	script := strings.Join(scripts, "\n")
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script) //nolint:gosec // a test's own
	cmd.Env = append(s.operator(t), environ...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", script, out)
	return string(out)
}

func (s *system) startAll(t *testing.T) {
	t.Helper()
	services := []string{"api", bus.Syncer, bus.CacheInvalidator, bus.AuditArchiver}
	for _, name := range services {
		s.launch(t, name)
	}
	for _, name := range services {
		s.awaitReady(t, name)
	}
}

// drained waits until every committed event has been published and handled.
func (s *system) drained(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return s.isDrained(t.Context()) }, 2*patience, 50*time.Millisecond, "outbox or consumers do not drain")
}

func (s *system) isDrained(ctx context.Context) bool {
	stats, err := outbox.ReadStats(ctx, s.pool)
	if err != nil || stats.Pending > 0 {
		return false
	}
	for _, declared := range bus.Consumers() {
		consumer, err := s.js.Consumer(ctx, bus.Events, declared.Name)
		if err != nil {
			return false
		}
		if info := consumer.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
			return false
		}
	}
	return true
}

// The disk of NATS is lost while people work, and docs/runbooks/nats-lost.md is followed: every change that was acknowledged has its
// row in the audit log, the caches are right, syncs work, and a socket is told to start anew. The flag that was set, the dead letter and
// the checkpoints, which only NATS had, are there again.
func TestRunbookNATSLost(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	kill, restart := s.ownNATS(t)
	s.environ[bus.AuditArchiver] = append(s.environ[bus.AuditArchiver], "AUDIT_RETENTION_MONTHS=1200") // the month below stays
	s.oldMonth(t)
	s.startAll(t)
	alice := s.signUp(t, "alice@example.net")
	s.shell(t, []string{`fdc flags set ai_cache off --reason "the model is being changed"`})
	mend := s.refuseTasks(t)
	require.EqualValues(t, 3, alice.work(t.Context(), 1))
	require.Eventually(t, func() bool { return s.deadLetters(t) == 1 }, patience, 20*time.Millisecond, "a dead letter")
	mend()
	s.drained(t)
	before := s.checkpoints(t)
	require.NotEmpty(t, before.Hours)
	require.Eventually(t, func() bool { return s.backedUp(t) }, patience, 20*time.Millisecond, "a flag, a dead letter and a checkpoint are copied")

	// Of one round the events are published, and in no audit log; of the next ones not even that.
	s.kill(t, bus.AuditArchiver)
	require.EqualValues(t, 3, alice.work(t.Context(), 2))
	require.Eventually(t, func() bool {
		stats, err := outbox.ReadStats(t.Context(), s.pool)
		return err == nil && stats.Pending == 0
	}, patience, 20*time.Millisecond, "not published")
	kill()
	var acknowledged int64
	for round := 3; round < 5; round++ {
		acknowledged += alice.work(t.Context(), round)
	}
	require.EqualValues(t, 6, acknowledged, "requests without NATS")
	require.NoError(t, os.RemoveAll(s.store))
	s.launch(t, bus.AuditArchiver) // it waits for the streams, and must not begin a chain of its own
	restart()
	var load sync.WaitGroup
	load.Go(func() { acknowledged += alice.work(t.Context(), 5) }) // the recovery is under load

	printed := s.shell(t, runbook(t, "nats-lost"))
	load.Wait()
	require.EqualValues(t, 6+4, acknowledged, "requests during the recovery, of which one asks for a sync")
	require.Contains(t, printed, "the model is being changed")
	require.Regexp(t, `\b1\b.*audit-archiver.*evt\.task\.created`, printed, "the dead letter")
	s.awaitReady(t, bus.AuditArchiver)
	s.drained(t)

	// The chain holds across the loss, and goes on.
	require.Equal(t, before, s.checkpoints(t))
	_, err := s.pool.Exec(t.Context(), `
		INSERT INTO audit_logs (event_id, occurred_at, actor_id, action, target_type, target_id, result, changes)
		VALUES (gen_random_uuid(), '2024-01-20 00:00:00+00', 'system', 'task.deleted', 'task', '', 'ok', '{}')`)
	require.NoError(t, err)
	s.stop(t, bus.AuditArchiver)
	s.start(t, bus.AuditArchiver)
	require.Eventually(t, func() bool { return len(s.checkpoints(t).Hours) > len(before.Hours) }, patience, 20*time.Millisecond, "no further checkpoint")
	key := "AUDIT_SIGNING_KEY=" + strings.Repeat("A", 43) + "="
	require.Contains(t, s.shell(t, []string{`fdc audit verify 2024-01`}, key, "ARCHIVE_URL=file://"+t.TempDir()), "1001 rows are as they were signed for")

	// The letter is what it was, and is handled once.
	require.Contains(t, s.shell(t, []string{`fdc dlq show 1`}), "violates check constraint")
	s.shell(t, []string{`fdc dlq requeue 1 --yes`})
	s.auditedTasks(t)
	require.Zero(t, s.deadLetters(t))
	require.Equal(t, map[string]int{"KV_flags": 1, bus.Checkpoints: 2}, s.backups(t), "the letter has left the backup")

	// Data, tasks and the sign-up itself: what the tables say, the audit log says.
	for what, query := range map[string]string{
		"workspace.data_updated": `SELECT sum(version) FROM workspace_data`,
		"task.created":           `SELECT count(*) FROM tasks WHERE version = 1`,
		"sync.requested":         `SELECT count(*) FROM sync_jobs`,
	} {
		var want, got int64
		require.NoError(t, s.pool.QueryRow(t.Context(), query).Scan(&want))
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM audit_logs WHERE action = $1`, what).Scan(&got))
		require.Positive(t, want, what)
		require.Equal(t, want, got, what)
	}
	body, err := alice.call(t.Context(), http.MethodGet, s.api+"/api/workspaces/"+alice.workspace+"/data", "")
	require.NoError(t, err)
	require.Contains(t, string(body), `"patched": 5`)

	alice.sync(t, s, "completed")
	s.consistent(t)
}

// oldMonth makes a month of the past with 1000 rows in it, a minute apart.
func (s *system) oldMonth(t *testing.T) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), `
		CREATE TABLE audit_logs_2024_01 (LIKE audit_logs INCLUDING ALL);
		ALTER TABLE audit_logs ATTACH PARTITION audit_logs_2024_01 FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00');
		INSERT INTO audit_logs (event_id, occurred_at, actor_id, action, target_type, target_id, result, changes)
		SELECT gen_random_uuid(), '2024-01-01 00:00:00+00'::timestamptz + n * interval '1 minute', 'system', 'task.deleted', 'task', n::text, 'ok', '{}'
		FROM generate_series(1, 1000) AS n`)
	require.NoError(t, err)
}

// checkpoints reads them, which fails when their chain doesn't hold.
func (s *system) checkpoints(t *testing.T) *archive.History {
	t.Helper()
	key, err := archive.ParseSigningKey(strings.Repeat("A", 43) + "=")
	require.NoError(t, err)
	public, ok := key.Public().(ed25519.PublicKey)
	require.True(t, ok)
	history, err := archive.ReadCheckpoints(t.Context(), s.js, archive.Trust(public))
	require.NoError(t, err)
	return history
}

// backups counts the rows of each stream.
func (s *system) backups(t *testing.T) map[string]int {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `SELECT stream, count(*) FROM stream_backup GROUP BY stream`)
	require.NoError(t, err)
	counts := map[string]int{}
	var stream string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&stream, &n}, func() error { counts[stream] = n; return nil })
	require.NoError(t, err)
	return counts
}

func (s *system) backedUp(t *testing.T) bool {
	t.Helper()
	n := s.backups(t)
	return n["KV_flags"] == 1 && n[bus.Dead] == 1 && n[bus.Checkpoints] == 1
}

// sync asks for one and waits until it has that status.
func (u *user) sync(t *testing.T, s *system, want string) {
	t.Helper()
	body, err := u.call(t.Context(), http.MethodPost, s.api+"/api/google/sync", `{"type":"full"}`)
	require.NoError(t, err)
	var job struct{ JobID string }
	require.NoError(t, json.Unmarshal(body, &job))
	require.Eventually(t, func() bool {
		var status string
		err := s.pool.QueryRow(t.Context(), `SELECT status FROM sync_jobs WHERE id = $1`, job.JobID).Scan(&status)
		return err == nil && status == want
	}, patience, 20*time.Millisecond, "a sync that has %s", want)
}

// docs/runbooks/key-leaked.md: the master key is replaced while the services run, and what they have sealed stays readable without the
// old one.
func TestRunbookKeyLeaked(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	next := seal.NewKey("v2")
	give := func(list string) {
		for _, name := range []string{"api", bus.Syncer} {
			s.stop(t, name)
			s.environ[name] = append(s.environ[name], "MASTER_ENCRYPTION_KEYS="+list)
			s.start(t, name)
		}
	}
	s.startAll(t)
	alice := s.signUp(t, "alice@example.net")
	alice.sync(t, s, "completed")
	give(masterKey.Reveal() + "," + next.Reveal())
	both := next.Reveal() + "," + masterKey.Reveal()
	give(both)
	blocks := runbook(t, "key-leaked")
	printed := s.shell(t, blocks[:1], "MASTER_ENCRYPTION_KEYS="+both)
	require.Contains(t, printed, "nothing stored needs v1")
	give(next.Reveal())
	alice.sync(t, s, "completed")

	file, archiveURL := filepath.Join(t.TempDir(), "seed"), "ARCHIVE_URL=file://"+t.TempDir()
	printed = s.shell(t, blocks[1:], archiveURL, "AUDIT_SIGNING_KEY="+strings.Repeat("A", 43)+"=", "NEW_KEY="+file)
	require.Contains(t, printed, "key number 2 signs from now on")
	seed, err := os.ReadFile(file) //nolint:gosec // the test's own
	require.NoError(t, err)
	require.Contains(t, s.shell(t, []string{"fdc audit verify"}, archiveURL, "AUDIT_SIGNING_KEY="+string(seed)), "rows are as they were signed for")
}

// docs/runbooks/google-outage.md: requests don't wait for Google, the operator sees why syncs fail, and what was changed meanwhile
// arrives when it is back.
func TestRunbookGoogleOutage(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.startAll(t)
	alice := s.signUp(t, "alice@example.net")
	alice.sync(t, s, "completed")
	faults := func(list string) {
		_, err := alice.call(t.Context(), http.MethodPut, s.google+"/_emulator/faults", list)
		require.NoError(t, err)
	}
	faults(`[{"match":{"path":"/*"},"count":0,"fault":{"status":403,"reason":"forbidden"}}]`)
	require.EqualValues(t, 3, alice.work(t.Context(), 1))
	alice.sync(t, s, "failed")
	s.shell(t, []string{`fdc flags set sync_async off --reason "a test"`})
	printed := s.shell(t, runbook(t, "google-outage"))
	require.Contains(t, printed, "Google is down")
	require.Regexp(t, `\w+ +\| +\d+ \|`, printed, "a reason, and how often")
	faults(`[]`)
	alice.sync(t, s, "completed")
	var there int
	require.NoError(t, s.pool.QueryRow(t.Context(), `
		SELECT count(*) FROM tasks t JOIN google_task_links l ON l.task_id = t.id
		WHERE t.title = 'task 1' AND l.google_task_id IS NOT NULL`).Scan(&there))
	require.Equal(t, 1, there, "what was made meanwhile is at Google")
}

// docs/runbooks/archive-unreachable.md: nothing is dropped while the archive is away, and the month arrives when it is back.
func TestRunbookArchiveUnreachable(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	dir := filepath.Join(t.TempDir(), "archive")
	require.NoError(t, os.WriteFile(dir, nil, 0o600), "no directory")
	s.oldMonth(t)
	s.environ[bus.AuditArchiver] = append(s.environ[bus.AuditArchiver], "ARCHIVE_URL=file://"+dir, "AUDIT_RETENTION_MONTHS=1")
	s.start(t, bus.AuditArchiver)
	failed := regexp.MustCompile(`(?m)^audit_archive_failures_total.* [1-9]`)
	require.Eventually(t, func() bool {
		page, err := new(user{client: http.DefaultClient}).call(t.Context(), http.MethodGet, s.metrics[bus.AuditArchiver]+"/metrics", "")
		return err == nil && failed.Match(page)
	}, patience, 20*time.Millisecond, "a failure is counted")
	rows := func() (n int) {
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM audit_logs_2024_01`).Scan(&n))
		return n
	}
	require.Equal(t, 1000, rows())
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Mkdir(dir, 0o700))
	printed := s.shell(t, runbook(t, "archive-unreachable"), "MONTH=2024-01", "ARCHIVE_URL=file://"+dir, "AUDIT_SIGNING_KEY="+strings.Repeat("A", 43)+"=")
	require.Contains(t, printed, "1000 rows are as they were signed for")
}

// docs/runbooks/postgres-restored.md: the database goes back to a backup. Nobody is signed in who should not be, nothing of the lost
// time is shown as if it were there, and the audit log knows of it.
func TestRunbookPostgresRestored(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.startAll(t)
	alice := s.signUp(t, "alice@example.net")
	alice.work(t.Context(), 1)
	s.drained(t)
	backup := filepath.Join(t.TempDir(), "backup")
	at := time.Now().UTC().Add(-time.Minute)
	s.shell(t, []string{`pg_dump --format custom --file "$BACKUP" "$DATABASE_URL"`}, "BACKUP="+backup)
	alice.work(t.Context(), 2)
	s.drained(t)
	audited := func() []string {
		rows, err := s.pool.Query(t.Context(), `SELECT event_id::text FROM audit_logs`)
		require.NoError(t, err)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return ids
	}
	all := audited()
	for name := range s.running {
		s.stop(t, name)
	}
	blocks := runbook(t, "postgres-restored")
	s.shell(t, blocks[:1], "BACKUP="+backup)
	s.pool.Reset()
	require.NotSubset(t, audited(), all)
	s.startAll(t)
	_, err := alice.call(t.Context(), http.MethodGet, s.api+"/api/auth/session", "")
	require.ErrorContains(t, err, "401")
	s.shell(t, blocks[1:], "BACKUP_TIME="+at.Format(time.RFC3339Nano))
	require.Subset(t, audited(), all, "and what has happened since")

	_, err = alice.call(t.Context(), http.MethodGet, s.api+"/api/auth/login?redirect=/api/auth/session&login_hint=alice@example.net", "")
	require.NoError(t, err)
	body, err := alice.call(t.Context(), http.MethodGet, s.api+"/api/workspaces/"+alice.workspace+"/data", "")
	require.NoError(t, err)
	require.Contains(t, string(body), `"patched": 1`)
	require.EqualValues(t, 3, alice.work(t.Context(), 3))
	s.drained(t)
	s.consistent(t)
}

// refuseTasks lets Postgres refuse the audit rows of new tasks, as a wrong schema would, until the returned function is called.
func (s *system) refuseTasks(t *testing.T) (mend func()) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), `ALTER TABLE audit_logs ADD CONSTRAINT wrong CHECK (action <> 'task.created') NOT VALID`)
	require.NoError(t, err)
	return func() {
		_, err := s.pool.Exec(t.Context(), `ALTER TABLE audit_logs DROP CONSTRAINT wrong`)
		require.NoError(t, err)
	}
}

// auditedTasks compares tasks with their rows in the audit log.
func (s *system) auditedTasks(t *testing.T) {
	t.Helper()
	s.drained(t)
	require.Eventually(t, func() bool {
		var made, audited int
		err := s.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM audit_logs WHERE action = 'task.created')`).
			Scan(&made, &audited)
		return err == nil && made > 0 && made == audited
	}, patience, 20*time.Millisecond, "each task has its row, once")
}

func (s *system) deadLetters(t *testing.T) uint64 {
	t.Helper()
	dead, err := s.js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	return dead.CachedInfo().State.Msgs
}

// docs/runbooks/wrong-deploy.md: the caches are gone past while people work, and what could not be handled is handled once it can be.
func TestRunbookWrongDeploy(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.startAll(t)
	alice := s.signUp(t, "alice@example.net")
	mend := s.refuseTasks(t)
	require.EqualValues(t, 3, alice.work(t.Context(), 1))
	require.Eventually(t, func() bool { return s.deadLetters(t) > 0 }, patience, 20*time.Millisecond, "a dead letter")
	blocks := runbook(t, "wrong-deploy")
	printed := s.shell(t, blocks[:1])
	require.Contains(t, printed, "wrong deploy")
	require.EqualValues(t, 3, alice.work(t.Context(), 2), "requests past the caches")
	mend()
	require.Eventually(t, func() bool { return s.isDrained(t.Context()) }, patience, 20*time.Millisecond)
	s.shell(t, blocks[1:])
	s.auditedTasks(t)
	require.Zero(t, s.deadLetters(t))
}

// docs/runbooks/stream-full.md: a full DEAD loses nothing; what waits is set aside or handled when there is room.
func TestRunbookStreamFull(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	owner, err := bus.JetStream(natstest.Connect(t, s.broker, "provision"))
	require.NoError(t, err)
	dead, err := owner.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	config := dead.CachedInfo().Config
	config.MaxMsgs = 2
	_, err = owner.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	s.startAll(t)
	alice := s.signUp(t, "alice@example.net")
	mend := s.refuseTasks(t)
	for round := 1; round <= 4; round++ {
		require.EqualValues(t, 3, alice.work(t.Context(), round))
	}
	require.Eventually(t, func() bool { return s.deadLetters(t) == 2 }, patience, 20*time.Millisecond, "DEAD is full")
	mend()
	blocks := runbook(t, "stream-full")
	require.Contains(t, s.shell(t, blocks[:1]), "DEAD")
	for s.deadLetters(t) > 0 { // until the list is empty
		s.shell(t, blocks[1:])
		require.Eventually(t, func() bool { return s.deadLetters(t) > 0 || s.isDrained(t.Context()) }, 2*patience, 20*time.Millisecond)
	}
	s.auditedTasks(t)
	require.Zero(t, s.deadLetters(t))
}
