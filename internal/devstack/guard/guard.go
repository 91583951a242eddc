// Package guard removes what a process has left in a directory after that process has ended, however it ended.
package guard

import (
	_ "embed"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

//go:embed guard.sh
var wait string

// Start runs a shell script after process owner has ended or directory dir was removed. The script finds the directory in
// $dir, and the function alive PID. It runs as a session of its own, without variables, input or output of this process:
// Ctrl-C does not end it, and nobody waits for its output.
func Start(dir string, owner int, script string) (*exec.Cmd, error) {
	cmd := exec.Command("/bin/sh", "-c", wait, "fdc-guard", dir, strconv.Itoa(owner), script) //nolint:gosec,noctx // our own scripts; it outlives us
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("guard %s: %w", dir, err)
	}
	return cmd, nil
}
