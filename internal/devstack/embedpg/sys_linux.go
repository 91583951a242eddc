package embedpg

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel ask the server for a fast shutdown when the thread that started it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }

// children are the processes that a single-threaded one has started.
func children(pid int) ([]int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	return numbers(string(text))
}

// removeSharedMemory gives back the block that a crashed server has left: the next start would, but there will be none.
func removeSharedMemory(home string) error {
	file := readPidFile(home)
	if file.memoryID == 0 && file.memoryKey == 0 {
		return nil
	}
	var block unix.SysvShmDesc
	_, err := unix.SysvShmCtl(file.memoryID, unix.IPC_STAT, &block)
	if err == nil && int(block.Perm.Key) == file.memoryKey { // else the number has gone to another program
		_, err = unix.SysvShmCtl(file.memoryID, unix.IPC_RMID, nil)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIDRM) {
		return fmt.Errorf("remove shared memory block %d: %w", file.memoryID, err)
	}
	return nil
}
