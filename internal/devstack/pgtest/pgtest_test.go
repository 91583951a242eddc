package pgtest_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/postgres"
	"fdc/migrations"
)

const patience = time.Minute

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	for i := range 30 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			require.NoError(t, postgres.CheckSchema(t.Context(), db.URL, migrations.FS))
			_, err := db.Pool.Exec(t.Context(), "CREATE TABLE mine ()")
			require.NoError(t, err)
		})
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	require.ErrorIs(t, postgres.CheckSchema(t.Context(), db.URL, migrations.FS), postgres.ErrSchemaOlder)
	_, err := postgres.Migrate(t.Context(), db.URL, migrations.FS)
	require.NoError(t, err)
}

func TestDatabaseIsDropped(t *testing.T) {
	t.Parallel()
	var address string
	t.Run("uses one", func(t *testing.T) { //nolint:paralleltest // it is to be over
		db := pgtest.New(t)
		address = db.URL
		conn, err := pgx.Connect(t.Context(), address) // one the test forgot
		require.NoError(t, err)
		require.NoError(t, conn.Ping(t.Context()))
	})
	_, err := pgx.Connect(t.Context(), address)
	require.ErrorContains(t, err, "3D000")
}

func TestCluster(t *testing.T) {
	t.Parallel()
	server := pgtest.Cluster(t)
	address := server.URL(embedpg.Database)
	require.NoError(t, postgres.CheckSchema(t.Context(), address, migrations.FS))
	conn, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE kept ()")
	require.NoError(t, err)
	require.NoError(t, server.Crash())
	require.Error(t, conn.Ping(t.Context()))
	require.NoError(t, server.Restart(t.Context()))
	conn, err = pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "INSERT INTO kept DEFAULT VALUES")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

// TestHelper is the body of a process that is a test run of its own.
func TestHelper(t *testing.T) {
	wanted := os.Getenv("FDC_PGTEST_HELPER")
	if wanted == "" {
		return
	}
	db := pgtest.New(t)
	var dir string
	require.NoError(t, db.Pool.QueryRow(t.Context(), "SHOW data_directory").Scan(&dir))
	fmt.Println("data " + dir)
	if wanted == "fail" {
		_, err := db.Pool.Acquire(t.Context()) // a connection that is never given back must not hide the failure
		require.NoError(t, err)
		t.Error("as wanted")
	}
}

func run(t *testing.T, env string, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], append(args, "-test.run=^TestHelper$", "-test.v")...) //nolint:gosec // ourselves
	cmd.Env = append(cmd.Environ(), "FDC_PGTEST_HELPER=pass", env)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func find(t *testing.T, pattern, text string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(text)
	require.NotNil(t, match, "%s in %s", pattern, text)
	return match[1]
}

func requireRemoved(t *testing.T, path string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := os.Stat(path)
		return os.IsNotExist(err)
	}, patience, 50*time.Millisecond)
}

func TestNothingIsLeftOfARun(t *testing.T) {
	t.Parallel()
	out, err := run(t, "")
	require.NoError(t, err, out)
	requireRemoved(t, find(t, `data (/\S+)`, out))
}

func TestFailedTestKeepsItsDatabase(t *testing.T) {
	t.Parallel()
	out, err := run(t, "FDC_PGTEST_HELPER=fail")
	require.Error(t, err)
	require.Contains(t, out, "1 connections were not given back")
	conn, err := pgx.Connect(t.Context(), find(t, `(postgres://\S+)`, out))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "SELECT FROM outbox")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, os.Remove(find(t, `until (/\S+) is removed`, out)))
	requireRemoved(t, find(t, `data (/\S+)`, out))
}

func TestMissingPostgres(t *testing.T) {
	t.Parallel()
	out, err := run(t, "FDC_PG_BIN=/nowhere")
	require.Error(t, err)
	require.Contains(t, out, "FDC_PG_BIN: no program initdb in /nowhere")
	require.NotContains(t, out, "SKIP")

	out, err = run(t, "FDC_PG_BIN=/nowhere", "-test.short")
	require.NoError(t, err)
	require.Contains(t, out, "--- SKIP: TestHelper")
}
