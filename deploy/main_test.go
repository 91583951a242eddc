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
	"fdc/internal/devstack/programs"
	"fdc/internal/devstack/testenv"
)

// patience bounds what takes a second or two on a machine that has nothing else to do.
const patience = 2 * time.Minute

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
		testenv.Parallel(4) // they wait for elections and health checks
		code := m.Run()
		if dir, err := folder(); err == nil {
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

// folder holds nats-server, wget and links to the project's commands, which are in another folder.
var folder = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "fdc-deploy-") })

var link sync.Once

func bin(t *testing.T) string {
	t.Helper()
	commands := programs.Dir(t)
	dir, err := folder()
	require.NoError(t, err)
	link.Do(func() {
		self, err := os.Executable()
		require.NoError(t, err)
		list, err := os.ReadDir(commands)
		require.NoError(t, err)
		for _, name := range []string{"nats-server", "wget"} {
			require.NoError(t, os.Symlink(self, filepath.Join(dir, name)))
		}
		for _, command := range list {
			require.NoError(t, os.Symlink(filepath.Join(commands, command.Name()), filepath.Join(dir, command.Name())))
		}
	})
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
