package deploy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/readme"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
)

// broker is one nats-server process, from one of the project's files.
type broker struct {
	t       *testing.T
	conf    string // relative to the root
	dir     string // its store
	environ map[string]string
	client  int // ports
	monitor int
	route   int
	cmd     *exec.Cmd
	ended   chan error
	log     *bytes.Buffer
}

// newBroker gives a server what secrets.sh has made. It doesn't start it.
func newBroker(t *testing.T, made, conf, name string) *broker {
	t.Helper()
	b := &broker{t: t, conf: conf, dir: t.TempDir(), client: testenv.FreePort(t), monitor: testenv.FreePort(t), route: testenv.FreePort(t)}
	b.environ = settings(t, filepath.Join(made, "nats.env"))
	for key, value := range b.environ {
		delete(b.environ, key)
		b.environ[strings.TrimPrefix(key, "export ")] = value
	}
	b.environ["NATS_STORE_DIR"], b.environ["NATS_SERVER_NAME"] = b.dir, name
	for variable, file := range map[string]string{"NATS_TLS_CERT": "nats_cert.pem", "NATS_TLS_KEY": "nats_key.pem", "NATS_TLS_CA": "nats_ca.pem"} {
		b.environ[variable] = filepath.Join(made, file)
	}
	return b
}

// newCluster starts three nodes and waits until each says that it is well.
func newCluster(t *testing.T, made string) []*broker {
	t.Helper()
	var nodes []*broker
	var routes []string
	for n := range 3 {
		b := newBroker(t, made, "deploy/nats/cluster.conf", fmt.Sprintf("n%d", n))
		nodes = append(nodes, b)
		routes = append(routes, fmt.Sprintf(`"nats://127.0.0.1:%d"`, b.route))
	}
	for _, b := range nodes {
		b.environ["NATS_ROUTES"] = "[" + strings.Join(routes, ", ") + "]"
		b.start()
	}
	for _, b := range nodes {
		b.healthy()
	}
	return nodes
}

func (b *broker) command(flags ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin(b.t), "nats-server"), append([]string{"-c", filepath.Join(readme.Root(b.t), b.conf)}, flags...)...) //nolint:gosec,noctx // started and ended by the test
	for name, value := range b.environ {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

func (b *broker) start() {
	b.t.Helper()
	flags := []string{"-a", "127.0.0.1", "-p", fmt.Sprint(b.client), "-m", fmt.Sprint(b.monitor)}
	if strings.HasSuffix(b.conf, "cluster.conf") {
		flags = append(flags, "--cluster", fmt.Sprintf("nats://127.0.0.1:%d", b.route))
	}
	b.cmd, b.log, b.ended = b.command(flags...), new(bytes.Buffer), make(chan error, 1)
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	require.NoError(b.t, b.cmd.Start())
	cmd, ended, log := b.cmd, b.ended, b.log
	go func() { ended <- cmd.Wait(); close(ended) }()
	b.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been killed before
		<-ended                //nolint:errcheck // killed
		if b.t.Failed() {
			b.t.Logf("%s:\n%s", b.environ["NATS_SERVER_NAME"], log)
		}
	})
}

// kill is a crash: nothing is written any more.
func (b *broker) kill() {
	b.t.Helper()
	require.NoError(b.t, b.cmd.Process.Kill())
	<-b.ended //nolint:errcheck // killed
}

func (b *broker) get(path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", b.monitor, path), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return body, err
}

// healthy waits for what the composition's health check asks.
func (b *broker) healthy() {
	b.t.Helper()
	require.Eventually(b.t, func() bool { _, err := b.get("/healthz"); return err == nil }, patience, 20*time.Millisecond, "%s", b.environ["NATS_SERVER_NAME"])
}

// connect is a client of all nodes that trusts the authority of secrets.sh.
func connect(t *testing.T, user string, nodes ...*broker) jetstream.JetStream {
	t.Helper()
	var urls []string
	opts := []nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.CustomInboxPrefix(bus.InboxPrefix(user)),
		nats.UserInfo(user, nodes[0].environ["NATS_PASSWORD_"+strings.ToUpper(strings.ReplaceAll(user, "-", "_"))]),
	}
	for _, b := range nodes {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", b.client))
		if strings.HasSuffix(b.conf, "cluster.conf") {
			opts = append(opts, nats.RootCAs(b.environ["NATS_TLS_CA"]))
		}
	}
	nc, err := nats.Connect(strings.Join(urls, ","), opts...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	return js
}

// stored counts the files under a folder that hold a text. The server that writes there goes on: a file may be gone by now.
func stored(t *testing.T, dir, text string) (files int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // of a server of the test
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if bytes.Contains(content, []byte(text)) {
			files++
		}
		return err
	}))
	return files
}

// Three nodes as deploy/nats/cluster.conf makes them: TLS everywhere, encryption at rest, and one that dies loses nothing.
func TestTheCluster(t *testing.T) {
	t.Parallel()
	made := secrets(t)
	nodes := newCluster(t, made)
	migrate(t, made, nodes)

	ops := connect(t, "ops", nodes...)
	for _, config := range append(bus.Streams(3), bus.Buckets(3)...) {
		var replicas int
		require.Eventually(t, func() bool {
			stream, err := ops.Stream(t.Context(), config.Name)
			if err == nil {
				replicas = stream.CachedInfo().Config.Replicas
			}
			return err == nil
		}, patience, 50*time.Millisecond, config.Name)
		require.Equal(t, 3, replicas, config.Name)
	}
	t.Run("clients need TLS", func(t *testing.T) { refusesPlain(t, nodes[0]) })
	t.Run("routes need a certificate", func(t *testing.T) { refusesStrangers(t, nodes[0]) })

	const secret = "hunter2 in the clear"
	api := connect(t, "api", nodes...)
	publish := func(n int) {
		require.Eventually(t, func() bool {
			_, err := api.Publish(t.Context(), "evt.probe.v1.x", fmt.Appendf(nil, "%s %d", secret, n), jetstream.WithMsgID(fmt.Sprint(n)))
			return err == nil
		}, patience, 10*time.Millisecond, "message %d", n)
	}
	const half = 100
	for n := range half {
		publish(n)
	}
	leader := func() (found *broker) {
		require.Eventually(t, func() bool {
			stream, err := ops.Stream(t.Context(), bus.Events)
			if err != nil || stream.CachedInfo().Cluster == nil {
				return false
			}
			for _, b := range nodes {
				if stream.CachedInfo().Cluster.Leader == b.environ["NATS_SERVER_NAME"] {
					found = b
				}
			}
			return found != nil
		}, patience, 50*time.Millisecond, "no leader of EVENTS")
		return found
	}
	dead := leader()
	dead.kill()
	for n := half; n < 2*half; n++ {
		publish(n)
	}
	complete(t, ops, secret, 2*half)

	// What it missed it has when it is back, under its key, and the next one can go.
	dead.start()
	dead.healthy()
	leader().kill()
	complete(t, ops, secret, 2*half)

	for _, b := range nodes {
		require.Zero(t, stored(t, b.dir, secret), "%s keeps it in the clear", b.environ["NATS_SERVER_NAME"])
	}
}

// migrate is `fdc migrate`, which trusts the authority by SSL_CERT_DIR as in docker-compose.yml.
func migrate(t *testing.T, made string, nodes []*broker) {
	t.Helper()
	authorities := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(made, "nats_ca.pem"), filepath.Join(authorities, "nats.pem")))
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin(t), "fdc"), "migrate") //nolint:gosec // built above
	cmd.Env = []string{
		"DATABASE_URL=" + pgtest.Empty(t).URL, "NATS_REPLICAS=3", "NATS_PASSWORD_FILE=" + filepath.Join(made, "nats_password_provision"),
		fmt.Sprintf("NATS_URL=tls://127.0.0.1:%d,tls://127.0.0.1:%d,tls://127.0.0.1:%d", nodes[0].client, nodes[1].client, nodes[2].client),
	}
	out, err := cmd.CombinedOutput()
	require.Error(t, err, "it trusts whom it doesn't know")
	require.Contains(t, string(out), "certificate signed by unknown authority")

	again := exec.CommandContext(t.Context(), cmd.Path, "migrate") //nolint:gosec // built above
	again.Env = append(cmd.Env, "SSL_CERT_DIR="+authorities)
	out, err = again.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// complete reads the whole stream and wants each message once.
func complete(t *testing.T, js jetstream.JetStream, secret string, want int) {
	t.Helper()
	var missing map[string]bool
	require.Eventually(t, func() bool {
		missing = map[string]bool{}
		for n := range want {
			missing[fmt.Sprintf("%s %d", secret, n)] = true
		}
		stream, err := js.Stream(t.Context(), bus.Events)
		if err != nil || stream.CachedInfo().State.Msgs != uint64(want) { //nolint:gosec // a few hundred
			return false
		}
		for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
			message, err := stream.GetMsg(t.Context(), seq)
			if err != nil {
				return false
			}
			delete(missing, string(message.Data))
		}
		return len(missing) == 0
	}, patience, 50*time.Millisecond, "missing: %d", len(missing))
}

// refusesPlain speaks the protocol without TLS, with a right password.
func refusesPlain(t *testing.T, b *broker) {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", b.client))
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // the server ends it
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	reader := bufio.NewReader(conn)
	info, err := reader.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, info, `"tls_required":true`)
	_, err = fmt.Fprintf(conn, "CONNECT {\"user\":\"ops\",\"pass\":%q,\"verbose\":false}\r\nPING\r\n", b.environ["NATS_PASSWORD_OPS"])
	require.NoError(t, err)
	answer, _ := io.ReadAll(reader) // it ends with an error, or not: the server has gone
	require.NotContains(t, string(answer), "PONG")
}

// refusesStrangers comes as another node would, without a certificate.
func refusesStrangers(t *testing.T, b *broker) {
	t.Helper()
	plain, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", b.route))
	require.NoError(t, err)
	defer plain.Close() //nolint:errcheck // the server ends it
	require.NoError(t, plain.SetDeadline(time.Now().Add(patience)))
	conn := tls.Client(plain, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // the stranger trusts anybody
	_, err = conn.Write([]byte("PING\r\n"))
	if err == nil {
		_, err = io.ReadAll(conn) // with TLS 1.3 the client hears of it late
	}
	require.ErrorContains(t, err, "certificate required")
}

// A node on its own keeps what the cluster's would encrypt in the clear, so the search above finds what is there; and the blocks
// that the cluster's file repeats are the same in both.
func TestTheClustersFileAddsToNatsConf(t *testing.T) {
	t.Parallel()
	made := secrets(t)
	alone := newBroker(t, made, "nats.conf", "fdc")
	alone.start()
	alone.healthy()
	js := connect(t, "provision", alone)
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	_, err := js.Publish(t.Context(), "evt.probe.v1.x", []byte("hunter2 in the clear"))
	require.NoError(t, err)
	require.NotZero(t, stored(t, alone.dir, "hunter2 in the clear"))

	node := newBroker(t, made, "deploy/nats/cluster.conf", "n0")
	node.environ["NATS_ROUTES"] = fmt.Sprintf(`["nats://127.0.0.1:%d"]`, node.route)
	node.start()
	limits := func(b *broker) (v server.Varz) {
		// Only the first /varz of a server has JetStream's configuration: asked before that is there, it never comes.
		require.Eventually(t, func() bool {
			_, err := b.get("/healthz?js-enabled-only=true")
			return err == nil
		}, patience, 20*time.Millisecond)
		body, err := b.get("/varz")
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(body, &v))
		require.NotNil(t, v.JetStream.Config)
		v.JetStream.Config.StoreDir = ""
		return v
	}
	want, got := limits(alone), limits(node)
	require.Equal(t, want.JetStream.Config, got.JetStream.Config)
	require.True(t, got.JetStream.Config.SyncAlways)
	require.Equal(t, want.MaxConn, got.MaxConn)
	require.Equal(t, want.MaxPayload, got.MaxPayload)
	require.Equal(t, want.MaxPending, got.MaxPending)
	require.Equal(t, want.WriteDeadline, got.WriteDeadline)
	require.Equal(t, "127.0.0.1", got.HTTPHost)
	require.Equal(t, want.SystemAccount, got.SystemAccount)
}

// A node with a variable missing doesn't start, and says which.
func TestANodeNeedsItsVariables(t *testing.T) {
	t.Parallel()
	made := secrets(t)
	for _, conf := range []string{"nats.conf", "deploy/nats/cluster.conf"} {
		b := newBroker(t, made, conf, "n0")
		b.environ["NATS_ROUTES"] = `["nats://127.0.0.1:6222"]`
		out, err := b.command("-t").CombinedOutput()
		require.NoError(t, err, "%s: %s", conf, out)
		content, err := os.ReadFile(filepath.Join(readme.Root(t), conf)) //nolint:gosec // of the repository
		require.NoError(t, err)
		for _, found := range regexp.MustCompile(`\$(NATS_[A-Z_]+)`).FindAllStringSubmatch(string(content), -1) {
			cmd := b.command("-t")
			for i, entry := range cmd.Env {
				if strings.HasPrefix(entry, found[1]+"=") {
					cmd.Env[i] = "X=x"
				}
			}
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "%s starts without %s", conf, found[1])
			require.Contains(t, string(out), found[1])
		}
	}
}
