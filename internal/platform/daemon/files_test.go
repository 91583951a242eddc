package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/daemon"
	"fdc/internal/platform/seal"
)

type inner struct {
	Key seal.Secret `env:"KEY,required,notEmpty"`
}

type config struct {
	Inner   inner
	Address string `env:"ADDRESS,required,notEmpty" file:"yes"`
	Level   string `env:"LEVEL" envDefault:"info"`
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestSecretsComeFromFiles(t *testing.T) {
	t.Parallel()
	environ := map[string]string{"KEY_FILE": file(t, "hunter2 \n"), "ADDRESS_FILE": file(t, "here"), "LEVEL_FILE": "not looked at"}
	got, err := daemon.ParseEnv[config](environ)
	require.NoError(t, err)
	require.Equal(t, config{Inner: inner{Key: "hunter2 "}, Address: "here", Level: "info"}, got)
	require.NotContains(t, environ, "KEY", "the caller's own map is as it was")
}

// Each problem is told once, under the variable that has it, and no value with it.
func TestBadFilesAreNamed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		environ map[string]string
		want    string
	}{
		"missing": {map[string]string{"KEY_FILE": "/nowhere/key"}, "KEY_FILE: open /nowhere/key"},
		"empty":   {map[string]string{"KEY_FILE": file(t, "\n")}, "is empty"},
		"large":   {map[string]string{"KEY_FILE": file(t, strings.Repeat("x", 1<<20))}, "KEY_FILE: "},
		"folder":  {map[string]string{"KEY_FILE": t.TempDir()}, "KEY_FILE: read"},
		"both":    {map[string]string{"KEY_FILE": file(t, "hunter2"), "KEY": "hunter2"}, "KEY_FILE: set although KEY is, too"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := daemon.ParseEnv[config](tc.environ)
			require.ErrorAs(t, err, new(*daemon.UsageError))
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, "ADDRESS: required, not set")
			require.Len(t, strings.Split(err.Error(), "\n"), 3, "%v", err)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}
