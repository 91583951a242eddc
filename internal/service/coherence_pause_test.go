package service_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/programs"
)

// A process that was stopped and goes on knows nothing of the time between, and what comes first when it wakes is the requests
// that wait for it. The bus stays silent to it, so only its own clock can tell that what it holds is not proven any more.
func TestAResumedNodeRefusesARevokedToken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	told, resumed := c.nodes[0], c.newNode()
	child := c.startProcess(t, resumed)
	user := c.newUser(told, "user")
	warm, err := c.signIn(told, user.email)
	require.NoError(t, err)
	c.near(resumed, warm, warm.home)
	// Opens a connection for each of the requests that will wait, and leaves the session in the memory of the node.
	sideBySide(func() {
		if r := c.getSession(resumed, user); r.status != http.StatusOK {
			t.Errorf("%s", r)
		}
	})

	require.NoError(t, child.Process.Signal(syscall.SIGSTOP))
	resumed.nats.Pause()
	require.Equal(t, http.StatusNoContent, c.logout(told, user).status)
	pass(t, faultBound)
	var waiting sync.WaitGroup
	waiting.Add(many)
	go func() {
		waiting.Wait()
		if err := child.Process.Signal(syscall.SIGCONT); err != nil {
			t.Errorf("go on: %v", err)
		}
	}()
	sideBySide(func() {
		r := c.do(resumed, request{what: getSession, session: user},
			call{url: "/api/auth/session", written: sync.OnceFunc(waiting.Done)})
		if r.status != http.StatusUnauthorized {
			t.Errorf("accepted: %s", r)
		}
	})
	resumed.nats.Heal()
}

// many is how many clients are too many for luck.
const many = 50

// sideBySide makes many requests at one time and waits for their answers.
func sideBySide(send func()) {
	var running sync.WaitGroup
	for range many {
		running.Go(send)
	}
	running.Wait()
}

// startProcess runs cmd/api as a node of the cluster, in a process of its own.
func (c *cluster) startProcess(t *testing.T, n *node) *exec.Cmd {
	t.Helper()
	addr, metrics := free(t), free(t)
	n.url = "http://" + addr
	cmd := exec.Command(filepath.Join(programs.Dir(t), "api")) //nolint:gosec,noctx // built by this package; it outlives no test
	cmd.Env = append(environment(as("api", n.postgres.URL), c.broker, "api", c.google, metrics),
		"NATS_URL="+n.nats.URL, "HTTP_ADDR="+addr, "PUBLIC_URL="+n.url, "RATE_LIMIT_FACTOR=10000")
	cmd.Stderr = &output{t: t, name: "api"}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	})
	(&system{metrics: map[string]string{"api": "http://" + metrics}}).awaitReady(t, "api")
	return cmd
}
