package embedpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is the user that runs the server: ourselves, unless we are root.
type account struct {
	drop     bool // run as uid and gid instead of as ourselves
	uid, gid int
}

// accountFor picks who runs a server on data, which need not exist yet.
func accountFor(data string) (account, error) {
	self := os.Geteuid()
	info, err := os.Stat(data)
	if err == nil {
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return account{}, fmt.Errorf("owner of %s is unknown on this system", data)
		}
		owner := account{drop: true, uid: int(stat.Uid), gid: int(stat.Gid)}
		switch {
		case owner.uid == self && self != 0:
			return account{}, nil
		case self == 0 && owner.uid != 0:
			return owner, nil
		}
		return account{}, fmt.Errorf("%s belongs to user %d, which this process (user %d) can't run PostgreSQL as", data, owner.uid, self)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return account{}, err
	}
	if self != 0 {
		return account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(found.Uid)
		gid, gidErr := strconv.Atoi(found.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return account{}, fmt.Errorf("user %s: %w", name, err)
		}
		return account{drop: true, uid: uid, gid: gid}, nil
	}
	return account{}, errors.New("PostgreSQL can't run as root, and there is no user postgres or nobody to run it as")
}

// id is the user's number.
func (a account) id() int {
	if a.drop {
		return a.uid
	}
	return os.Geteuid()
}

// own gives a file or directory to the account.
func (a account) own(path string) error {
	if !a.drop {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// command prepares a program to run as the account, in a process group of its own and with no variables that could
// change what it does. Its end follows the context's, with all it started.
func (a account) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // PostgreSQL's own programs, found or configured
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} //nolint:gosec // ids of the system
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}
