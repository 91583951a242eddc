package embednats

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"fdc"
)

// restartPatience is how long Restart waits for its port when another socket has taken it meanwhile: a client's dial to
// the closed port can be given that very port as its own.
const restartPatience = 10 * time.Second

// Config says where a server keeps its streams and where it listens.
type Config struct {
	StoreDir  string            // JetStream's directory, made when missing
	Addr      string            // "127.0.0.1:4222"; port 0 picks a free one; "" serves this process only
	Name      string            // server name; "" keeps the one of nats.conf
	Passwords map[string]string // by user of nats.conf; missing ones are generated
	Monitor   bool              // open the HTTP monitoring of nats.conf (on a free port when Addr asks for one)
	FastSync  bool              // leave fsync to the operating system: tests whose machine may lose what it wrote
	Log       zerolog.Logger
}

// Server is an embedded nats-server. Its methods may be called from several goroutines.
type Server struct {
	cfg       Config
	passwords map[string]string

	mu      sync.RWMutex
	addr    string // where it listens, fixed by the first start; "" when in process only
	running *server.Server
	log     *logger
}

// Start runs a server and returns when it takes connections. The context bounds only the start.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, addr: cfg.Addr, passwords: NewPasswords()}
	for user, password := range cfg.Passwords {
		if _, ok := s.passwords[user]; !ok {
			return nil, fmt.Errorf("start NATS: nats.conf has no user %q", user)
		}
		if password != "" {
			s.passwords[user] = password
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Restart stops the server if it runs and starts it again: same port, same store, same passwords.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	ctx, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		err := s.start(ctx)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-retry.C:
		}
	}
}

// Stop shuts the server down and waits until its port and store are free. It may be called again.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// Addr is the HOST:PORT the server listens on, also while it is stopped; "" when it serves this process only.
func (s *Server) Addr() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.addr
}

// Password is that of a user of nats.conf, "" for any other name.
func (s *Server) Password(user string) string { return s.passwords[user] }

// URL is the nats:// address with the user's name and password; "" when the server does not listen.
func (s *Server) URL(user string) string {
	addr := s.Addr()
	if addr == "" {
		return ""
	}
	return (&url.URL{Scheme: "nats", User: url.UserPassword(user, s.passwords[user]), Host: addr}).String()
}

// MonitorURL is the base of the HTTP monitoring pages, "" unless Config.Monitor asked for them.
func (s *Server) MonitorURL() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.running == nil || s.running.MonitorAddr() == nil {
		return ""
	}
	return "http://" + s.running.MonitorAddr().String()
}

// Connect opens a connection as a user of nats.conf: over TCP when the server listens, else in process.
// Given reconnect options, the connection survives Restart either way.
func (s *Server) Connect(user string, opts ...nats.Option) (*nats.Conn, error) {
	if _, ok := s.passwords[user]; !ok {
		return nil, fmt.Errorf("connect to NATS: nats.conf has no user %q", user)
	}
	address := s.URL(user)
	if address == "" {
		opts = append([]nats.Option{nats.UserInfo(user, s.passwords[user]), nats.InProcessServer(s)}, opts...)
	}
	conn, err := nats.Connect(address, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS as %s: %w", user, err)
	}
	return conn, nil
}

// InProcessConn makes a Server usable with [nats.InProcessServer]: it leads to whichever server runs now.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.running == nil {
		return nil, nats.ErrNoServers
	}
	return s.running.InProcessConn()
}

func (s *Server) stop() {
	if s.running == nil {
		return
	}
	s.running.Shutdown()
	s.running.WaitForShutdown()
	s.log.mute()
	s.running = nil
}

func (s *Server) start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	opts, err := s.options()
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	s.log = &logger{log: s.cfg.Log}
	ns.SetLoggerV2(s.log, false, false, false)
	ns.Start() // returns when it listens, or after a call of Fatalf
	if err := s.log.fatal(); err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		s.log.mute()
		return s.explain(ctx, err)
	}
	if s.addr != "" {
		s.addr = ns.Addr().String()
	}
	s.running = ns
	return nil
}

// explain gives the reason of a failed start as an error one can test: nats-server only logs its text.
func (s *Server) explain(ctx context.Context, logged error) error {
	if s.addr != "" {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.addr)
		if err != nil {
			return fmt.Errorf("start NATS on %s: %w", s.addr, err)
		}
		if err := ln.Close(); err != nil {
			return fmt.Errorf("start NATS on %s: %w", s.addr, err)
		}
	}
	return fmt.Errorf("start NATS with store %s: %w", s.cfg.StoreDir, logged)
}

func (s *Server) options() (*server.Options, error) {
	if s.cfg.StoreDir == "" {
		return nil, errors.New("no store directory given")
	}
	if err := os.MkdirAll(s.cfg.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the store directory: %w", err)
	}
	var text strings.Builder
	define := func(name, value string) { fmt.Fprintf(&text, "%s: %s\n", name, quote(value)) }
	define("NATS_STORE_DIR", s.cfg.StoreDir)
	for user, password := range s.passwords {
		define(variable(user), password)
	}
	text.WriteString(fdc.NATSConf)

	opts := &server.Options{NoSigs: true}
	if err := opts.ProcessConfigString(text.String()); err != nil {
		return nil, fmt.Errorf("read nats.conf: %w", err)
	}
	if s.cfg.Name != "" {
		opts.ServerName = s.cfg.Name
	}
	if s.cfg.FastSync {
		opts.SyncAlways = false
	}
	if !s.cfg.Monitor {
		opts.HTTPHost, opts.HTTPPort = "", 0
	}
	if s.addr == "" {
		opts.DontListen = true
		return opts, nil
	}
	host, portText, err := net.SplitHostPort(s.addr)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w", s.addr, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w", s.addr, err)
	}
	opts.Host, opts.Port = host, int(port)
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if s.cfg.Monitor && strings.HasSuffix(s.cfg.Addr, ":0") {
		opts.HTTPPort = server.RANDOM_PORT
	}
	return opts, nil
}

var passwordVariable = regexp.MustCompile(`\$NATS_PASSWORD_([A-Z_]+)`)

// NewPasswords makes a password for every user of nats.conf, which are those with a variable there.
func NewPasswords() map[string]string {
	passwords := make(map[string]string)
	for _, match := range passwordVariable.FindAllStringSubmatch(fdc.NATSConf, -1) {
		user := strings.ReplaceAll(strings.ToLower(match[1]), "_", "-")
		passwords[user] = rand.Text()
	}
	return passwords
}

func variable(user string) string {
	return "NATS_PASSWORD_" + strings.ToUpper(strings.ReplaceAll(user, "-", "_"))
}

// quote writes a string so that the configuration reader gives it back unchanged.
func quote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(value) + `"`
}
