//go:build unix && !linux

package embedpg

import (
	"context"
	"os/exec"
	"strconv"
	"syscall"
)

// dieWithParent does nothing where the kernel has no such wish: the next start stops what was left.
func dieWithParent(*syscall.SysProcAttr) {}

// children are the processes that another has started.
func children(pid int) ([]int, error) {
	out, err := exec.CommandContext(context.Background(), "pgrep", "-P", strconv.Itoa(pid)).Output() //nolint:gosec // a number
	if err != nil {
		return nil, err
	}
	return numbers(string(out))
}

// removeSharedMemory leaves a crashed server's block to the system, which tells too little to be sure whose it is.
func removeSharedMemory(string) error { return nil }
