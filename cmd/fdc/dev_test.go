package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack"
	"fdc/internal/devstack/programs"
	"fdc/internal/devstack/readme"
	"fdc/internal/devstack/testenv"
	"fdc/internal/service"
)

func TestMain(m *testing.M) {
	testenv.Parallel(8) // they wait for replays to begin and for events that fail
	os.Exit(m.Run())    //nolint:forbidigo // this is main
}

// dev is a running `fdc dev`.
type dev struct {
	devstack.Addresses
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	ended  chan error
}

var anyPorts = []string{"--http", "127.0.0.1:0", "--nats", "127.0.0.1:0", "--google", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-format", "json"}

// command prepares the binary with an empty environment but for PATH and a home that is empty too.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs.Dir(t), "fdc"), args...) //nolint:gosec,noctx // built above
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return cmd
}

func startDev(t *testing.T, args ...string) *dev {
	t.Helper()
	d := &dev{cmd: command(t, append([]string{"dev"}, args...)...), stderr: new(bytes.Buffer), ended: make(chan error, 1)}
	d.cmd.Stderr = d.stderr
	stdout, err := d.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, d.cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() { d.ended <- d.cmd.Wait() }()
	require.NoError(t, err, "no ready line; stderr: %s", d.stderr)
	found := strings.TrimPrefix(line, "ready ")
	require.NotEqual(t, line, found, "first line of stdout: %s", line)
	require.NoError(t, json.Unmarshal([]byte(found), &d.Addresses))
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill() // it has usually ended
		if t.Failed() {
			t.Logf("stderr of fdc dev:\n%s", d.stderr)
		}
	})
	return d
}

// interrupt is Ctrl-C. It wants exit code 0 and no process left that knows the data directory.
func (d *dev) interrupt(t *testing.T) {
	t.Helper()
	require.NoError(t, d.cmd.Process.Signal(os.Interrupt))
	select {
	case err := <-d.ended:
		require.NoError(t, err, "stderr: %s", d.stderr)
	case <-time.After(patience):
		t.Fatalf("does not end; stderr: %s", d.stderr)
	}
	require.Empty(t, processesWith(t, d.Data), "processes left")
}

// processesWith lists the command lines of running processes that mention a path.
func processesWith(t *testing.T, path string) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []string
	for _, file := range lines {
		content, err := os.ReadFile(file) //nolint:gosec // from /proc
		if err == nil && bytes.Contains(content, []byte(path)) && !strings.HasPrefix(file, "/proc/"+strconv.Itoa(os.Getpid())+"/") {
			found = append(found, string(bytes.ReplaceAll(content, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// A second start finds the data of the first, and replays work on it. The README's tour is in package deploy, against the same
// services.
func TestASecondStart(t *testing.T) {
	t.Parallel()
	args := append([]string{"--data", filepath.Join(t.TempDir(), "data")}, anyPorts...)
	d := startDev(t, args...)
	status := d.status(t)
	require.NotEmpty(t, status.Partitions)
	d.interrupt(t)

	again := startDev(t, args...)
	after := again.status(t)
	require.GreaterOrEqual(t, stream(t, after, "EVENTS").LastSeq, stream(t, status, "EVENTS").LastSeq, "the events are gone")
	again.seeded(t)
	again.testReplay(t)
	again.interrupt(t)
}

// What the README says of the emulator, run by the shell, against one that keeps its state in a file.
func TestTheEmulatorAlone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "google.json")
	start := func(t *testing.T) (url string, interrupt func()) {
		t.Helper()
		cmd := command(t, "google-emulator", "--addr", "127.0.0.1:0", "--data", file)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		var ready struct{ Google string }
		require.NoError(t, json.Unmarshal([]byte(strings.TrimPrefix(line, "ready ")), &ready))
		return ready.Google, func() {
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			require.NoError(t, cmd.Wait())
		}
	}
	for _, when := range []string{"new", "again"} {
		url, interrupt := start(t)
		_, example, ok := strings.Cut(readme.Shell(t, "Google without Google"), "GOOGLE=")
		require.True(t, ok)
		shell := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", "GOOGLE="+example) //nolint:gosec // from the README
		shell.Env = append(os.Environ(), "GOOGLE="+url)                                                //nolint:forbidigo // the shell is a user's
		out, err := shell.CombinedOutput()
		require.NoError(t, err, "%s: %s", when, out)
		for _, want := range []string{"503\n", `"kind":"tasks#taskLists"`, `"path":"/tasks/v1/users/@me/lists"`} {
			require.Contains(t, string(out), want, when)
		}
		interrupt()
	}
}

func (d *dev) status(t *testing.T) service.Status {
	t.Helper()
	cmd := command(t, "status", "--json", "--data", d.Data)
	out, err := cmd.Output()
	require.NoError(t, err)
	var s service.Status
	require.NoError(t, json.Unmarshal(out, &s))
	return s
}

// seeded waits until the 200 tasks of the demo are published.
func (d *dev) seeded(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return stream(t, d.status(t), "EVENTS").LastSeq >= 200 }, patience, 50*time.Millisecond, "the seed made no events")
}

func stream(t *testing.T, s service.Status, name string) service.StreamStatus {
	t.Helper()
	for _, stream := range s.Streams {
		if stream.Name == name {
			return stream
		}
	}
	t.Fatalf("no stream %s in %+v", name, s)
	return service.StreamStatus{}
}

func TestAnEphemeralStackLeavesNothing(t *testing.T) {
	t.Parallel()
	d := startDev(t, append([]string{"--ephemeral", "--no-seed"}, anyPorts...)...)
	require.DirExists(t, d.Data)
	require.Equal(t, http.StatusOK, fetch(t, d.HTTP+"/api/health/deep"))
	require.Equal(t, http.StatusOK, fetch(t, strings.TrimSuffix(d.Metrics, "/metrics")+"/readyz"))
	require.Equal(t, http.StatusOK, fetch(t, d.Metrics))
	d.interrupt(t)
	require.NoDirExists(t, d.Data)
}

func fetch(t *testing.T, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

// A second stack on the same data is refused, and the first one goes on: with its dead letters, for one.
func TestADataDirectoryIsForOneStack(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	args := append([]string{"--no-seed", "--data", data}, anyPorts...)
	d := startDev(t, args...)
	line := refused(t, 1, append([]string{"dev"}, args...)...)
	require.Contains(t, line, data)
	require.Contains(t, line, "already in use by process "+strconv.Itoa(d.cmd.Process.Pid))
	require.Equal(t, http.StatusOK, fetch(t, d.HTTP+"/api/health/deep"), "the first goes on")
	d.testDLQ(t)
	d.interrupt(t)
}

// refused runs the command, wants an exit code and returns the last line of stderr.
func refused(t *testing.T, code int, args ...string) string {
	t.Helper()
	return refusedWith(t, code, nil, args...)
}

func refusedWith(t *testing.T, code int, environ []string, args ...string) string {
	t.Helper()
	cmd := command(t, args...) // before the clock starts: the first one builds
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd.Env = append(cmd.Env, environ...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	_ = cmd.Wait() // the exit code tells
	require.Equal(t, code, cmd.ProcessState.ExitCode(), "stderr: %s", &stderr)
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	return lines[len(lines)-1]
}

func TestATakenPort(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) })
	for _, flag := range []string{"--http", "--nats", "--google", "--metrics"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			line := refused(t, 1, append(append([]string{"dev", "--data", data}, anyPorts...), flag, taken.Addr().String())...)
			require.Contains(t, line, flag)
			require.Contains(t, line, taken.Addr().String())
			require.Empty(t, processesWith(t, data), "processes left")
		})
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"unknown command": {"frobnicate"},
		"unknown flag":    {"dev", "--frobnicate"},
		"extra argument":  {"status", "now"},
		"bad log format":  {"dev", "--log-format", "xml"},
		"bad rate factor": {"dev", "--rate-limit-factor", "0"},
		"bad seed":        {"google-emulator", "--seed", "everything"},
		"no environment":  {"migrate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NotEmpty(t, refused(t, 2, args...))
		})
	}
	line := refused(t, 1, "status", "--data", "nowhere")
	require.Contains(t, line, "start fdc dev")
}

func TestMissingPostgres(t *testing.T) {
	t.Parallel()
	line := refusedWith(t, 1, []string{"FDC_PG_BIN=" + t.TempDir()}, append([]string{"dev"}, anyPorts...)...)
	require.Contains(t, line, "FDC_PG_BIN")
}
