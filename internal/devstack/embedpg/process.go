package embedpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// errClash marks a start that may succeed when tried again: the port or the last server's memory is still held.
var errClash = errors.New("still held by another process")

// process is a server we started.
type process struct {
	cmd      *exec.Cmd
	done     chan struct{} // closed when it has ended
	expected atomic.Bool   // we ended it
}

// spawn starts a command and keeps the thread that did so: Linux sends the signal of [syscall.SysProcAttr.Pdeathsig] when
// that thread ends, which Go may let happen at any time otherwise.
func spawn(cmd *exec.Cmd, ended func(error)) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		if !p.expected.Load() {
			ended(err)
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// stop ends the server, ever less politely when it doesn't go.
func (p *process) stop(ctx context.Context) error {
	p.expected.Store(true)
	return terminate(ctx, p.cmd.Process, p.done)
}

// kill ends the server and all its sessions, which would otherwise finish what they are at and could still commit. It
// is halted first, so that no new one appears meanwhile.
func (p *process) kill() error {
	p.expected.Store(true)
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	sessions, err := children(p.cmd.Process.Pid)
	err = errors.Join(err, p.cmd.Process.Kill())
	for _, pid := range sessions {
		if killErr := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(killErr, syscall.ESRCH) {
			err = errors.Join(err, killErr)
		}
	}
	<-p.done
	return err
}

func numbers(text string) ([]int, error) {
	var all []int
	for field := range strings.FieldsSeq(text) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// terminate sends the signals of fast shutdown, immediate shutdown and sudden death until the process is gone.
func terminate(ctx context.Context, proc *os.Process, gone <-chan struct{}) error {
	hurry := ctx.Done()
	for _, step := range []struct {
		signal   syscall.Signal
		patience time.Duration
	}{{syscall.SIGINT, 30 * time.Second}, {syscall.SIGQUIT, 10 * time.Second}, {syscall.SIGKILL, 10 * time.Second}} {
		if err := proc.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal process %d: %w", proc.Pid, err)
		}
		select {
		case <-gone:
			return nil
		case <-hurry:
			hurry = nil // shortens the first step only
		case <-time.After(step.patience):
		}
	}
	return fmt.Errorf("process %d did not end", proc.Pid)
}

// launch starts the server on a port and waits until it is ready.
func (c *cluster) launch(ctx context.Context, port int, detached bool) (*process, error) {
	logPath := filepath.Join(c.dir, "postgres.log")
	if err := os.Rename(logPath, logPath+".old"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // in the directory we were given
	if err != nil {
		return nil, err
	}
	defer logFile.Close() //nolint:errcheck // the server has its own descriptor, and we wrote nothing
	cmd := c.account.command(context.WithoutCancel(ctx), "/", c.bin.path("postgres"), c.arguments(port)...)
	cmd.Cancel = nil
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if detached {
		cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Setsid = false, true
	} else {
		dieWithParent(cmd.SysProcAttr)
	}
	ready := make(chan struct{})
	var proc *process
	proc, err = spawn(cmd, func(err error) {
		select {
		case <-ready:
			c.log.Error().Err(err).Str("component", "postgres").Str("log", tail(logPath)).Msg("PostgreSQL ended by itself")
		default: // launch reports it
		}
	})
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-proc.done:
			last := tail(logPath)
			if strings.Contains(last, "Address already in use") || strings.Contains(last, "pre-existing shared memory block") {
				return nil, fmt.Errorf("PostgreSQL in %s on port %d: %w: %s", c.home, port, errClash, last)
			}
			return nil, fmt.Errorf("PostgreSQL in %s did not start; its log ends: %s", c.home, last)
		case <-ctx.Done():
			err := fmt.Errorf("PostgreSQL in %s is not ready (%w); its log ends: %s", c.home, ctx.Err(), tail(logPath))
			return nil, errors.Join(err, proc.stop(ctx))
		case <-poll.C:
			if pid := readPidFile(c.home); pid.pid == cmd.Process.Pid && pid.ready {
				close(ready)
				return proc, nil
			}
		}
	}
}

func (c *cluster) arguments(port int) []string {
	settings := []string{
		"port=" + strconv.Itoa(port), "listen_addresses=127.0.0.1", "unix_socket_directories=",
		"max_connections=" + strconv.Itoa(c.maxConnections), "shared_buffers=128MB", "jit=off",
		"timezone=UTC", "log_timezone=UTC", "log_destination=stderr", "logging_collector=off",
	}
	if !c.durable {
		// Commits still reach the system's memory one by one: what was acknowledged outlives a kill of the server.
		settings = append(settings, "fsync=off", "full_page_writes=off", "max_wal_size=256MB")
	}
	args := []string{"-D", dataDir(c.home)}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

// pidFile is what a server writes into its data directory about itself.
type pidFile struct {
	pid, port           int
	memoryKey, memoryID int
	ready               bool
}

// readPidFile gives zeros for what isn't there (yet).
func readPidFile(home string) pidFile {
	text, err := readFile(filepath.Join(dataDir(home), "postmaster.pid"))
	if err != nil {
		return pidFile{}
	}
	lines := append(strings.Split(text, "\n"), make([]string, 8)...)
	at := func(line string) int {
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return 0
		}
		return n
	}
	memory := append(strings.Fields(lines[6]), "", "")
	return pidFile{
		pid: at(lines[0]), port: at(lines[3]), memoryKey: at(memory[0]), memoryID: at(memory[1]),
		ready: strings.TrimSpace(lines[7]) == "ready",
	}
}

// live tells whether the server that the file speaks of still runs on this data. The number alone doesn't say: it may
// have gone to another program since.
func (f pidFile) live(ctx context.Context, home string) bool {
	if f.pid == 0 {
		return false
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", f.pid))
	if err != nil {
		command, err = exec.CommandContext(ctx, "ps", "-p", strconv.Itoa(f.pid), "-o", "command=").Output() //nolint:gosec // a number
	}
	return err == nil && strings.Contains(string(command), "postgres") && strings.Contains(string(command), dataDir(home))
}

// stopLeftOver ends a server that a killed process has left on the data. The caller holds the lock, so it is nobody's.
func stopLeftOver(ctx context.Context, home string, progress func(string)) error {
	file := readPidFile(home)
	if !file.live(ctx, home) {
		return nil
	}
	progress(fmt.Sprintf("stopping the PostgreSQL (process %d) that was left on %s", file.pid, home))
	proc, err := os.FindProcess(file.pid)
	if err != nil {
		return err
	}
	gone, finished := make(chan struct{}), make(chan struct{})
	defer close(finished)
	go func() {
		poll := time.NewTicker(20 * time.Millisecond)
		defer poll.Stop()
		for file.live(context.WithoutCancel(ctx), home) {
			select {
			case <-poll.C:
			case <-finished:
				return
			}
		}
		close(gone)
	}()
	return terminate(ctx, proc, gone)
}

// tail is the end of a server's log as one line.
func tail(path string) string {
	const most = 2000
	text, err := readFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return oneLine(text)
}
