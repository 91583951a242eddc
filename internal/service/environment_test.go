package service_test

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caarlos0/env/v11"
	"github.com/stretchr/testify/require"

	"fdc"
	"fdc/internal/devstack/programs"
	"fdc/internal/platform/daemon"
	"fdc/internal/service"
	"fdc/internal/service/auditarchiver"
)

var configs = []any{
	new(service.APIConfig), new(service.SyncerConfig), new(service.CacheInvalidatorConfig), new(auditarchiver.Config),
	new(service.MigrateConfig),
}

// variables are what the code reads: name to default, "required" for a required one.
func variables(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, config := range configs {
		params, err := env.GetFieldParams(config)
		require.NoError(t, err)
		for _, p := range params {
			if p.Key == "" {
				continue
			}
			found[p.Key] = p.DefaultValue
			if p.Required {
				found[p.Key] = "required"
			}
		}
	}
	return found
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", name)) //nolint:gosec // a file of the repository
	require.NoError(t, err)
	return string(content)
}

// The README's table lists exactly the variables of the code, with their defaults.
func TestTheReadmeListsTheEnvironment(t *testing.T) {
	t.Parallel()
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(read(t, "README.md"), -1) {
		documented[row[1]] = strings.Trim(strings.TrimSpace(row[2]), "`")
	}
	// Defaults that the code derives.
	derived := map[string]string{"DATABASE_DIRECT_URL": "DATABASE_URL", "NATS_USER": "the service's name"}
	for name, value := range variables(t) {
		want := value
		if derived[name] != "" {
			want = derived[name]
		}
		if want == "" {
			want = "–"
		}
		require.Equal(t, want, documented[name], "%s", name)
		delete(documented, name)
	}
	require.Empty(t, documented, "variables that no code reads")
}

// The audit-archiver needs to be told where the archive is, and says all that is wrong at once.
func TestTheAuditArchiverNamesEveryBadVariable(t *testing.T) {
	t.Parallel()
	_, err := daemon.ParseEnv[auditarchiver.Config](map[string]string{})
	for _, name := range []string{"ARCHIVE_URL", "AUDIT_SIGNING_KEY", "DATABASE_URL"} {
		require.ErrorContains(t, err, name+": required, not set")
	}
	_, err = daemon.ParseEnv[auditarchiver.Config](map[string]string{
		"ARCHIVE_URL": "archive", "AUDIT_RETENTION_MONTHS": "0", "AUDIT_SIGNING_KEY": "short", "DATABASE_URL": "postgres://u@h:port/db",
	})
	for _, name := range []string{"ARCHIVE_URL: want file:///FOLDER", "AUDIT_RETENTION_MONTHS: 0", "AUDIT_SIGNING_KEY: want", "DATABASE_URL: "} {
		require.ErrorContains(t, err, name)
		require.Equal(t, 1, strings.Count(err.Error(), name), "said once")
	}
}

// README and .env.example name the variables that may be given as files, no others.
func TestSecretsAreDocumented(t *testing.T) {
	t.Parallel()
	want := map[string]bool{}
	for _, config := range configs {
		for _, name := range daemon.SecretVariables(reflect.TypeOf(config).Elem()) {
			want[name] = true
		}
	}
	for _, document := range []string{"README.md", ".env.example"} {
		got := map[string]bool{}
		for _, found := range regexp.MustCompile(`\b([A-Z_]+)_FILE\b`).FindAllStringSubmatch(read(t, document), -1) {
			got[found[1]] = true
		}
		require.Equal(t, want, got, document)
	}
}

// .env.example holds every variable of the code and of the servers' configurations, and no other.
func TestTheExampleHoldsTheEnvironment(t *testing.T) {
	t.Parallel()
	want := slices.Collect(maps.Keys(variables(t)))
	for _, name := range regexp.MustCompile(`\$(NATS_[A-Z_]+)`).FindAllStringSubmatch(fdc.NATSConf+read(t, "deploy/nats/cluster.conf"), -1) {
		if !slices.Contains(want, name[1]) {
			want = append(want, name[1])
		}
	}
	var got []string
	lines := bufio.NewScanner(strings.NewReader(read(t, ".env.example")))
	for lines.Scan() {
		if name, _, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(name, "#") {
			got = append(got, name)
		}
	}
	require.ElementsMatch(t, want, got)
}

// Every variable that is missing or malformed is named at once, no value is shown, and the exit code is 2.
func TestAServiceNamesEveryBadVariable(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(filepath.Join(programs.Dir(t), "api")) //nolint:gosec,noctx // built above
	cmd.Env = []string{
		"DATABASE_MAX_CONNS=many", "DATABASE_QUERY_TIMEOUT=soon", "NATS_URL=hunter2", "NATS_REPLICAS=2", "PUBLIC_URL=ftp://x",
		"MASTER_ENCRYPTION_KEYS=hunter2", "LOG_LEVEL=loud", "TRUSTED_PROXIES=everyone", "SYNC_ASYNC_MODE=perhaps", "RATE_LIMIT_FACTOR=0", "GOOGLE_CLIENT_ID=",
	}
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, daemon.ExitUsage, cmd.ProcessState.ExitCode(), "%s", out)
	for _, name := range []string{
		"DATABASE_URL", "DATABASE_MAX_CONNS", "DATABASE_QUERY_TIMEOUT", "NATS_URL", "NATS_REPLICAS", "PUBLIC_URL", "MASTER_ENCRYPTION_KEYS",
		"LOG_LEVEL", "TRUSTED_PROXIES", "RATE_LIMIT_FACTOR", "SYNC_ASYNC_MODE", "GOOGLE_CLIENT_ID", "GOOGLE_CLIENT_SECRET",
	} {
		require.Equal(t, 1, strings.Count(string(out), "\n  "+name+":"), "%s in:\n%s", name, out)
	}
	require.NotContains(t, string(out), "hunter2")
}
