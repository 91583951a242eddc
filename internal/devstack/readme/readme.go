// Package readme lets tests run what the documents tell a reader to type, so that it stays true.
package readme

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Root is the folder of the repository: the one with go.mod at or above the working directory.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			tb.Fatal("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// Shell is the shell blocks of the README under a heading of the second level.
func Shell(tb testing.TB, heading string) string {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(Root(tb), "README.md"))
	if err != nil {
		tb.Fatal(err)
	}
	_, section, ok := strings.Cut(string(content), "\n## "+heading+"\n")
	if !ok {
		tb.Fatalf("the README has no %s", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, block := range strings.Split(section, "```sh\n")[1:] {
		block, _, ok = strings.Cut(block, "```")
		if !ok {
			tb.Fatalf("a block under %s does not end", heading)
		}
		blocks = append(blocks, block)
	}
	if len(blocks) == 0 {
		tb.Fatalf("there is no shell under %s", heading)
	}
	return strings.Join(blocks, "\n")
}
