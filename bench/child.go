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
	c, err := newChild(ctx, name)
	if err != nil {
		return nil, err
	}
	c.cmd.Stdout = &c.output
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := json.NewEncoder(c.stdin).Encode(request); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

func newChild(ctx context.Context, name string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: exec.CommandContext(ctx, self, name)} //nolint:gosec // ourselves
	c.cmd.Stderr = &c.errors
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
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

// dialog is a child that answers one question after the other until its input ends.
type dialog struct {
	*child
	questions *json.Encoder
	answers   *json.Decoder
}

// startDialog starts the named command.
func startDialog(ctx context.Context, name string) (*dialog, error) {
	c, err := newChild(ctx, name)
	if err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &dialog{child: c, questions: json.NewEncoder(c.stdin), answers: json.NewDecoder(stdout)}, nil
}

// ask waits for the answer. After an error there are no more answers, and end says why.
func (d *dialog) ask(question, answer any) error {
	if err := d.questions.Encode(question); err != nil {
		return fmt.Errorf("ask %s: %w", d.name, err)
	}
	if err := d.answers.Decode(answer); err != nil {
		return fmt.Errorf("ask %s: %w", d.name, err)
	}
	return nil
}

// end closes the child's input and waits until it has gone.
func (d *dialog) end() error {
	_ = d.stdin.Close() // it is closed already when the child has ended
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", d.name, err, bytes.TrimSpace(d.errors.Bytes()))
	}
	return nil
}

// answerAll is the child's side of a dialog: it ends with the input, whatever it is doing then, or with an error.
func answerAll[Q any](ctx context.Context, stdin io.Reader, stdout io.Writer, answer func(context.Context, Q) (any, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	questions := make(chan Q)
	go func() {
		defer cancel()
		for decoder := json.NewDecoder(stdin); ; {
			var question Q
			if decoder.Decode(&question) != nil {
				return
			}
			select {
			case questions <- question:
			case <-ctx.Done():
				return
			}
		}
	}()
	for encoder := json.NewEncoder(stdout); ; {
		select {
		case <-ctx.Done():
			return nil
		case question := <-questions:
			answered, err := answer(ctx, question)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = encoder.Encode(answered)
			}
			if err != nil {
				return err
			}
		}
	}
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
