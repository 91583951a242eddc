//go:build unix && !linux

package embedpg

import "syscall"

// dieWithParent does nothing where the kernel has no such wish: the next start stops what was left.
func dieWithParent(*syscall.SysProcAttr) {}

// removeSharedMemory leaves a crashed server's block to the system, which tells too little to be sure whose it is.
func removeSharedMemory(string) error { return nil }
