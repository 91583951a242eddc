package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// child is this program started again, with a request on its standard input and a result on its standard output.
type child struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	output bytes.Buffer
	errors bytes.Buffer
}

// startChild starts the named command. It ends when its input does, and so never outlives us.
func startChild(ctx context.Context, name string, request any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: exec.CommandContext(ctx, self, name)} //nolint:gosec // ourselves
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.errors
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := json.NewEncoder(c.stdin).Encode(request); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// end closes the command's input and reads its result.
func (c *child) end(result any) error {
	_ = c.stdin.Close() // it is closed already when the child has ended
	return c.wait(result)
}

// wait waits for a command that ends by itself and reads its result.
func (c *child) wait(result any) error {
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", c.name, err, bytes.TrimSpace(c.errors.Bytes()))
	}
	if err := json.Unmarshal(c.output.Bytes(), result); err != nil {
		return fmt.Errorf("read the result of %s: %w", c.name, err)
	}
	return nil
}

// untilEOF is a context that ends with r: with the parent's wish, or with the parent.
func untilEOF(ctx context.Context, r io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, r) // any end of it is the end
	}()
	return ctx, cancel
}
