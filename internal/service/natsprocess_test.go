package service_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/testenv"
)

const natsServerName = "nats-server"

// ownNATS puts a process of its own in the place of the embedded server: same nats.conf, address, passwords and store. It returns how
// to kill it, with all that it has not written, and how to start it.
func (s *system) ownNATS(t *testing.T) (kill, start func()) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), natsServerName)
	require.NoError(t, os.Symlink(self, program))
	host, port, err := net.SplitHostPort(s.broker.Addr())
	require.NoError(t, err)
	var cmd *exec.Cmd
	start = func() {
		t.Helper()
		monitor := strconv.Itoa(testenv.FreePort(t))
		cmd = exec.Command(program, "-c", filepath.Join("..", "..", "nats.conf"), "-a", host, "-p", port, "-m", monitor) //nolint:gosec,noctx // it outlives no test
		cmd.Env = []string{"NATS_STORE_DIR=" + s.store}
		for _, user := range []string{"provision", "api", "syncer", "cache-invalidator", "audit-archiver", "ops", "sys"} {
			cmd.Env = append(cmd.Env, "NATS_PASSWORD_"+strings.ToUpper(strings.ReplaceAll(user, "-", "_"))+"="+s.broker.Password(user))
		}
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool {
			conn, err := net.DialTimeout("tcp", s.broker.Addr(), time.Second) //nolint:noctx // bounded
			return err == nil && conn.Close() == nil
		}, patience, 20*time.Millisecond, "nats-server does not listen")
	}
	kill = func() {
		t.Helper()
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		require.Error(t, cmd.Wait(), "nats-server was not running")
		cmd = nil
	}
	t.Cleanup(func() {
		if cmd != nil {
			kill()
		}
	})
	s.broker.Stop()
	start()
	return kill, start
}
