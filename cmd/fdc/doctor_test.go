package main

import (
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
