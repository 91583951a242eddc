package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/readme"
	"fdc/internal/devstack/testenv"
)

// composition runs a composeFile without containers: each service is a process here, its container's addresses are free ports
// of loopback, and its container's paths are files of the test.
type composition struct {
	t        *testing.T
	file     composeFile
	dir      string              // for volumes and secrets
	made     string              // by secrets.sh
	ports    map[string]int      // by SERVICE:PORT
	names    map[string]string   // of services, by name and alias
	paths    map[string][]string // by service: what is replaced by what
	started  map[string]bool
	owner    *url.URL // of the database
	shutdown []func()
}

func newComposition(t *testing.T, variables map[string]string, profiles ...string) *composition {
	t.Helper()
	c := &composition{
		t: t, dir: t.TempDir(), made: secrets(t), ports: map[string]int{}, names: map[string]string{}, paths: map[string][]string{}, started: map[string]bool{},
	}
	t.Cleanup(c.stop)
	c.database()
	variables["PUBLIC_URL"] = fmt.Sprintf("http://127.0.0.1:%d", c.port("api", "8080"))
	c.file = load(t, variables, profiles...)
	for name, s := range load(t, variables, everyProfile...).Services { // one that doesn't run is spoken of, too
		c.names[name] = name
		for _, aliases := range s.Networks {
			for _, alias := range aliases {
				c.names[alias] = name
			}
		}
	}
	for name, s := range c.file.Services {
		c.place(name, s)
	}
	return c
}

// place makes the files that a service's container would see.
func (c *composition) place(name string, s composeService) {
	c.t.Helper()
	replace := func(container, host string) { c.paths[name] = append(c.paths[name], container, host) }
	for _, secret := range s.Secrets {
		content, err := os.ReadFile(filepath.Join(c.made, filepath.Base(c.file.Secrets[secret.Source].File)))
		require.NoError(c.t, err)
		host := filepath.Join(c.dir, name, secret.Path)
		require.NoError(c.t, os.MkdirAll(filepath.Dir(host), 0o700))
		require.NoError(c.t, os.WriteFile(host, []byte(c.addresses(name, string(content))), 0o600)) //nolint:gosec // in the test's folder
		replace(filepath.Dir(secret.Path), filepath.Dir(host))
	}
	for _, volume := range s.Volumes {
		source, target, _ := strings.Cut(strings.TrimSuffix(volume, ":ro"), ":")
		host := filepath.Join(readme.Root(c.t), source)
		if !strings.HasPrefix(source, ".") {
			host = filepath.Join(c.dir, "volumes", source)
			require.NoError(c.t, os.MkdirAll(host, 0o700))
		}
		replace(target, host)
	}
	if name == "nats" {
		replace("/etc/fdc/", readme.Root(c.t)+"/") // the rest of the path is a variable of the shell
	}
}

func (c *composition) port(service, port string) int {
	key := service + ":" + port
	if c.ports[key] == 0 {
		c.ports[key] = testenv.FreePort(c.t)
	}
	return c.ports[key]
}

var address = regexp.MustCompile(`\b([a-z0-9][a-z0-9.-]*):(\d{4,5})\b`)

// addresses replaces HOST:PORT by a port of this machine. 0.0.0.0 and 127.0.0.1 are the service itself.
func (c *composition) addresses(service, text string) string {
	return address.ReplaceAllStringFunc(text, func(found string) string {
		match := address.FindStringSubmatch(found)
		host, port := match[1], match[2]
		if host == "0.0.0.0" || host == "127.0.0.1" {
			host = service
		} else if host = c.names[host]; host == "" {
			c.t.Errorf("%s reaches for %s, which isn't there", service, found)
		}
		return fmt.Sprintf("127.0.0.1:%d", c.port(host, port))
	})
}

// here is a text of the file as it has to be for a process of this machine.
func (c *composition) here(service, text string) string {
	if text == c.public() {
		return text // an address of this machine already
	}
	if strings.HasPrefix(text, "file://") || strings.HasPrefix(text, "/") || strings.Contains(text, " /") {
		return strings.NewReplacer(c.paths[service]...).Replace(text)
	}
	return c.addresses(service, text)
}

func (c *composition) public() string {
	return fmt.Sprintf("http://127.0.0.1:%d", c.port("api", "8080"))
}

func (c *composition) environment(service string) []string {
	environ := []string{"PATH=" + bin(c.t) + ":" + os.Getenv("PATH"), fmt.Sprintf("%s=-a 127.0.0.1 -p %d -m %d", natsFlags, c.port(service, "4222"), c.port(service, "8222"))}
	for name, value := range c.file.Services[service].Environment {
		environ = append(environ, name+"="+c.here(service, value))
	}
	return environ
}

func (c *composition) command(service string, args []string) *exec.Cmd {
	c.t.Helper()
	require.NotEmpty(c.t, args, "%s has no command", service)
	var local []string
	for _, arg := range args {
		local = append(local, c.here(service, arg))
	}
	if own := filepath.Join(bin(c.t), local[0]); !strings.Contains(local[0], "/") {
		if _, err := os.Stat(own); err == nil {
			local[0] = own
		}
	}
	cmd := exec.Command(local[0], local[1:]...) //nolint:gosec,noctx // from our own file; the test waits for its end
	cmd.Env = c.environment(service)
	cmd.Dir = c.dir
	return cmd
}

// up starts a service after those that it depends on, and returns when it has ended or is healthy, whichever is its way.
func (c *composition) up(name string) {
	c.t.Helper()
	s, ok := c.file.Services[name]
	require.True(c.t, ok, "there is no %s", name)
	if c.started[name] {
		return
	}
	c.started[name] = true
	for other, dependency := range s.DependsOn {
		if _, there := c.file.Services[other]; there || !dependency.optional() {
			c.up(other)
		}
	}
	switch {
	case name == "postgres":
		c.prepare(s)
	case s.Healthcheck == nil:
		out, err := c.command(name, slices.Concat(s.Entrypoint, s.Command)).CombinedOutput()
		require.NoError(c.t, err, "%s: %s", name, out)
	default:
		c.process(name, s)
	}
}

// process starts what goes on, and waits for its health check.
func (c *composition) process(name string, s composeService) {
	c.t.Helper()
	cmd := c.command(name, slices.Concat(s.Entrypoint, s.Command))
	log, err := os.Create(filepath.Join(c.dir, name+".log")) //nolint:gosec // in the test's folder
	require.NoError(c.t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(c.t, cmd.Start(), name)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	c.shutdown = append(c.shutdown, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // one that has ended is noticed below
		select {
		case err := <-ended:
			if err != nil && name != "nats" { // which ends with 1 on a signal
				c.t.Errorf("%s ended: %v", name, err)
			}
		case <-time.After(patience):
			c.t.Errorf("%s does not end", name)
			_ = cmd.Process.Kill() // it is over anyway
		}
		if content, err := os.ReadFile(log.Name()); err == nil && c.t.Failed() {
			c.t.Logf("%s said:\n%s", name, content)
		}
		_ = log.Close() // only read from here
	})
	require.Equal(c.t, "CMD", s.Healthcheck.Test[0], name)
	var last []byte
	require.Eventually(c.t, func() bool {
		var err error
		last, err = c.command(name, s.Healthcheck.Test[1:]).CombinedOutput()
		return err == nil
	}, patience, 20*time.Millisecond, "%s does not become healthy: %s", name, &last)
}

// database runs a new cluster in the place of the image of PostgreSQL.
func (c *composition) database() {
	c.t.Helper()
	dir := filepath.Join(c.dir, "postgres")
	server, err := embedpg.Start(c.t.Context(), embedpg.Config{Dir: dir, BinDir: os.Getenv("FDC_PG_BIN"), Owner: os.Getpid(), Log: zerolog.Nop()})
	require.NoError(c.t, err)
	c.shutdown = append(c.shutdown, func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(server.Stop(ctx), embedpg.Remove(ctx, dir)); err != nil {
			c.t.Error(err)
		}
	})
	c.owner, err = url.Parse(server.URL(embedpg.Database))
	require.NoError(c.t, err)
	c.ports["postgres:5432"], err = strconv.Atoi(c.owner.Port())
	require.NoError(c.t, err)
}

// prepare does what the image of PostgreSQL does on a new volume.
func (c *composition) prepare(s composeService) {
	c.t.Helper()
	require.Equal(c.t, c.owner.User.Username(), s.Environment["POSTGRES_USER"])
	require.Equal(c.t, embedpg.Database, s.Environment["POSTGRES_DB"])
	password, err := os.ReadFile(c.here("postgres", s.Environment["POSTGRES_PASSWORD_FILE"]))
	require.NoError(c.t, err)
	conn, err := pgx.Connect(c.t.Context(), c.owner.String())
	require.NoError(c.t, err)
	_, err = conn.Exec(c.t.Context(), "ALTER ROLE fdc PASSWORD '"+string(password)+"'")
	require.NoError(c.t, errors.Join(err, conn.Close(c.t.Context())))

	script := c.command("postgres", []string{"sh", "/docker-entrypoint-initdb.d/services.sh"})
	script.Env = append(script.Env, "PGHOST="+c.owner.Hostname(), "PGPORT="+c.owner.Port(), "PGPASSWORD="+string(password))
	out, err := script.CombinedOutput()
	require.NoError(c.t, err, "%s", out)
}

func (c *composition) stop() {
	for _, stop := range slices.Backward(c.shutdown) {
		stop()
	}
}

// The README's tour, against what docker-compose.yml starts with the profile demo.
func TestTheTourOfTheComposition(t *testing.T) {
	t.Parallel()
	c := newComposition(t, settings(t, "demo.env"), "demo")
	for name := range c.file.Services {
		c.up(name)
	}
	tour := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", readme.Shell(t, "A tour")) //nolint:gosec // from the README
	tour.Dir = readme.Root(t)
	tour.Env = append(os.Environ(), "FDC="+c.public()) //nolint:forbidigo // the shell of the tour is a user's
	out, err := tour.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{`"email":"alice@example.com"`, "fdc.task.created.v1", "fdc.sync.completed.v1", `"calendarId"`} {
		require.True(t, strings.Contains(string(out), want), "%s is not in what the tour printed", want)
	}
	c.operator()
}

// operator asks as an operator does, and looks at the rights of the services' login.
func (c *composition) operator() {
	c.t.Helper()
	c.file.Services["operator"] = load(c.t, settings(c.t, "demo.env"), "operator").Services["operator"]
	c.place("operator", c.file.Services["operator"])
	out, err := c.command("operator", []string{"fdc", "status", "--json"}).CombinedOutput()
	require.NoError(c.t, err, "%s", out)
	require.Contains(c.t, string(out), `"EVENTS"`)
	// Nothing is an error to the doctor, which is told of secrets by files.
	out, err = c.command("operator", []string{"fdc", "doctor"}).CombinedOutput()
	require.NoError(c.t, err, "%s", out)
	require.NotContains(c.t, string(out), "MASTER_ENCRYPTION_KEYS is not set")
	require.NotContains(c.t, string(out), "Google does not answer")

	service, err := os.ReadFile(filepath.Join(c.dir, "api", "run/secrets/database_service_url"))
	require.NoError(c.t, err)
	conn, err := pgx.Connect(c.t.Context(), string(service))
	require.NoError(c.t, err)
	defer conn.Close(context.WithoutCancel(c.t.Context()))
	var written int
	require.NoError(c.t, conn.QueryRow(c.t.Context(), `SELECT count(*) FROM audit_logs`).Scan(&written))
	require.Greater(c.t, written, 200)
	_, err = conn.Exec(c.t.Context(), `DELETE FROM audit_logs`)
	require.ErrorContains(c.t, err, "permission denied")
}
