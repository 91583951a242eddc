package main

import (
	"bytes"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"fdc/internal/doctor"
)

// contract are the commands that operators rely on; those of a group are looked for once the group is there.
var contract = []string{
	"dev", "migrate", "version", "google-emulator", "status", "sessions list", "sessions revoke", "flags list", "flags set", "flags clear",
	"keys rotate", "keys rotate-signing", "doctor", "explain", "audit partitions", "audit archive", "audit verify", "audit restore", "audit rebuild", "audit prove", "audit export",
	"events tail", "events get", "events export", "replay", "dlq list", "dlq show", "dlq requeue", "dlq discard",
	"completion bash", "completion zsh", "completion fish",
}

func TestEveryCommandSaysWhatItDoes(t *testing.T) {
	t.Parallel()
	c := &cli{stdout: io.Discard, stderr: io.Discard}
	root := c.root()
	walk(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		require.NotEmpty(t, cmd.Short, path)
		require.NotEmpty(t, cmd.Example, "%s: write an Example, or one in help.go", path)
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			require.True(t, strings.HasPrefix(line, "  "), "%s: examples are indented: %q", path, line)
		}
		require.Contains(t, cmd.Example, strings.TrimPrefix(path, "fdc "), "%s: the example is of another command", path)
		require.NotNil(t, cmd.Flag("json"), path)
		require.NotNil(t, cmd.Flag("data"), path)
		if cmd.HasSubCommands() {
			return
		}
		// What changes something asks first.
		if slices.Contains([]string{"revoke", "rotate", "rotate-signing", "archive", "restore", "rebuild", "requeue", "discard", "replay", "disable", "enable", "role"}, cmd.Name()) {
			require.NotNil(t, cmd.Flag("yes"), path)
		}
	})
	for _, path := range contract {
		words := strings.Fields(path)
		cmd, _, err := root.Find(words)
		require.NoError(t, err)
		require.Equal(t, "fdc "+path, cmd.CommandPath())
	}
	for path := range examples {
		cmd, _, err := root.Find(strings.Fields(path)[1:])
		require.NoError(t, err)
		require.Equal(t, path, cmd.CommandPath(), "an example of no command")
	}
}

// completed are the words that the shell would offer.
func completed(t *testing.T, args ...string) []string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, execute(t.Context(), nil, append([]string{"__complete"}, args...), &out, io.Discard))
	return offered(out.String())
}

func offered(printed string) []string {
	var words []string
	for line := range strings.Lines(printed) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if word != "" && !strings.HasPrefix(word, ":") {
			words = append(words, word)
		}
	}
	return words
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	require.Subset(t, completed(t, ""), []string{"doctor", "status", "audit", "completion"})
	require.Equal(t, []string{"session_cache", "workspace_cache", "ai_cache", "sync_async"}, completed(t, "flags", "set", ""))
	require.Equal(t, []string{"on", "off"}, completed(t, "flags", "set", "ai_cache", ""))
	require.Empty(t, completed(t, "flags", "set", "ai_cache", "on", ""))
	require.Equal(t, []string{"SA", "USER"}, completed(t, "users", "role", ""))
	require.ElementsMatch(t, []string{"ndjson", "csv"}, completed(t, "audit", "export", "--format", ""))
	require.Empty(t, completed(t, "audit", "restore", "--data", t.TempDir(), ""), "no database, no months")

	// The scripts are what the shells take.
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var script bytes.Buffer
		require.NoError(t, execute(t.Context(), nil, []string{"completion", shell}, &script, io.Discard))
		require.Contains(t, script.String(), "__complete")
		if path, err := exec.LookPath(shell); err == nil {
			check := exec.CommandContext(t.Context(), path, "-n") //nolint:gosec // a shell
			check.Stdin = &script
			out, err := check.CombinedOutput()
			require.NoError(t, err, "%s: %s", shell, out)
		}
	}
}

// Months are completed from the database of the running stack; colours are for terminals, and for those who want them.
func (d *dev) testComfort(t *testing.T) {
	t.Helper()
	now := time.Now().UTC().Format("2006-01")
	out, err := command(t, "__complete", "audit", "rebuild", "--data", d.Data, "").Output()
	require.NoError(t, err)
	require.Contains(t, offered(string(out)), now)
	out, err = command(t, "__complete", "audit", "verify", "--data", d.Data, now[:4]).Output()
	require.NoError(t, err)
	require.Contains(t, offered(string(out)), now)

	coloured := func(environ ...string) bool {
		cmd := command(t, "doctor", "--data", d.Data)
		cmd.Env = append(cmd.Env, environ...)
		terminal, err := pty.Start(cmd)
		require.NoError(t, err)
		defer terminal.Close() //nolint:errcheck // the other end is gone by then
		var shown printed
		_, _ = io.Copy(&shown, terminal) // it ends with an error on Linux, when the other end is closed
		require.NoError(t, cmd.Wait())
		require.Contains(t, shown.String(), doctor.OK)
		return strings.Contains(shown.String(), "\x1b[")
	}
	require.True(t, coloured("TERM=xterm"))
	require.False(t, coloured("TERM=xterm", "NO_COLOR=1"))
	require.False(t, coloured("TERM=dumb"))
}
