package main

import (
	"io"
	"os"

	"golang.org/x/term"
)

// terminal is the file behind w when a person looks at it; nil for a pipe, a file or a test's buffer.
func terminal(w io.Writer) *os.File {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// The colours that mean something.
const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	dim    = "\x1b[2m"
	plain  = "\x1b[0m"
)

// paint colours text on a terminal, unless the user wants none (https://no-color.org).
func (c *cli) paint(colour, text string) string {
	if terminal(c.stdout) == nil || c.environ["NO_COLOR"] != "" || c.environ["TERM"] == "dumb" {
		return text
	}
	return colour + text + plain
}
