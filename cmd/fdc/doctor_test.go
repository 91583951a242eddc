package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/doctor"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/seal"
)

// A stack that runs has nothing to find, every check was made, and what is wrong makes the exit code 1.
func (d *dev) testDoctor(t *testing.T) {
	var list struct{ Items []doctor.Finding }
	d.json(t, &list, "doctor")
	checks := map[string]bool{}
	for _, f := range list.Items {
		require.Equal(t, doctor.OK, f.Status, "%+v", f)
		require.NotContains(t, f.Message, "Not examined", "%+v", f)
		checks[f.Check] = true
	}
	require.Len(t, checks, 19)
	out, _ := d.run(t, daemon.ExitOK, "doctor")
	require.NotContains(t, out, "\x1b", "colours are for terminals")

	cmd := command(t, "doctor", "--data", d.Data)
	cmd.Env = append(cmd.Env, "MASTER_ENCRYPTION_KEYS="+seal.NewKey("v1").Reveal())
	printed, err := cmd.Output()
	require.Error(t, err)
	require.Equal(t, daemon.ExitFailed, cmd.ProcessState.ExitCode())
	require.Contains(t, string(printed), "error    keys")
	require.Contains(t, string(printed), "what to do: find the key v1")
}

// Containers are handed their secrets as files. The operator's own password is no user's.
func TestDoctorReadsPasswordsFromFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("pfile\n"), 0o600))
	c := &cli{environ: map[string]string{
		"NATS_PASSWORD": "", "NATS_PASSWORD_FILE": file, "NATS_PASSWORD_API": "papi", "NATS_PASSWORD_CACHE_INVALIDATOR_FILE": file, "NATS_PASSWORD_OPS": "",
	}}
	users, err := c.natsUsers()
	require.NoError(t, err)
	require.Equal(t, map[string]seal.Secret{"api": "papi", "cache-invalidator": "pfile"}, users)

	c.environ["NATS_PASSWORD_API_FILE"] = file
	_, err = c.natsUsers()
	require.ErrorContains(t, err, "NATS_PASSWORD_API_FILE", "it isn't clear which of the two counts")
}
