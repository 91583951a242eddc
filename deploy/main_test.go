// Package deploy_test starts what deploy/, docker-compose.yml and the Dockerfile describe, as far as a test can without an
// engine for containers: the same programs, commands, environments, secrets and order.
package deploy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
)

// patience bounds what takes a second or two on a machine that has nothing else to do.
const patience = time.Minute

// natsFlags are added to those of the file that starts a server, so that it listens where the test wants it.
const natsFlags = "FDC_TEST_NATS_FLAGS"

// TestMain is several programs, by the name that it is started under: the official nats-server, which is one call of its module,
// and as much of wget as a health check needs. So no test depends on what is installed.
func TestMain(m *testing.M) {
	var err error
	switch filepath.Base(os.Args[0]) {
	case "nats-server":
		err = natstest.Main(append(os.Args[1:], strings.Fields(os.Getenv(natsFlags))...))
	case "wget":
		err = wget(os.Args[len(os.Args)-1])
	default:
		code := m.Run()
		if dir, err := programs(); err == nil {
			_ = os.RemoveAll(dir) // a temporary directory
		}
		os.Exit(code) //nolint:forbidigo // this is main
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func wget(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil) //nolint:gosec // as docker-compose.yml says
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request) //nolint:gosec // likewise
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", url, response.Status, body)
	}
	return err
}

// programs is a folder with the project's binaries, nats-server and wget, made once.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fdc-deploy-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir+"/", "fdc/cmd/...").CombinedOutput() //nolint:gosec // a build of our own
	if err != nil {
		return "", fmt.Errorf("build: %w: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, name := range []string{"nats-server", "wget"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
})

func bin(t *testing.T) string {
	t.Helper()
	dir, err := programs()
	require.NoError(t, err)
	return dir
}

// secrets runs deploy/secrets.sh and returns the folder that it filled.
func secrets(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "secrets")
	out, err := exec.CommandContext(t.Context(), "sh", "secrets.sh", dir).CombinedOutput() //nolint:gosec // our own script
	require.NoError(t, err, "%s", out)
	return dir
}
