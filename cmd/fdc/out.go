package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// outFile is the file that a command was given with --out.
type outFile struct {
	name   string
	keep   bool // what is written when fn fails stays, as NAME.part
	resume bool // fn goes on behind what NAME.part has
}

const outHelp = "a `file`, instead of standard output; replaced when all is written. A device, a pipe or a symbolic link is written into"

// write calls fn with a file for the output. A regular file, or one that doesn't exist, appears when all is written: name never
// holds a part. Anything else is opened and written into, because a rename would replace the device or link itself.
func (o outFile) write(fn func(*os.File) error) error {
	info, err := os.Lstat(o.name)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return o.into(fn)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("--out: %w", err)
	}
	f, err := o.temporary()
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if !o.keep {
		defer os.Remove(f.Name()) //nolint:errcheck // it is there only when something failed
	}
	if err := fn(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := os.Rename(f.Name(), o.name); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

// into writes into what name is, or leads to.
func (o outFile) into(fn func(*os.File) error) error {
	if o.resume {
		return usage("--resume goes on with a regular file; %s is none", o.name)
	}
	f, err := os.OpenFile(o.name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := errors.Join(fn(f), f.Close()); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

// temporary opens the file that becomes name.
func (o outFile) temporary() (*os.File, error) {
	if !o.keep {
		return os.CreateTemp(filepath.Dir(o.name), ".fdc-*")
	}
	mode := os.O_RDWR | os.O_CREATE
	if !o.resume {
		mode |= os.O_TRUNC
	}
	return os.OpenFile(o.part(), mode, 0o600)
}

// part is where an interrupted export stays.
func (o outFile) part() string { return o.name + ".part" }
