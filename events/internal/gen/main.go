// Command gen writes the documents of package events from its catalogue: README.md for people and asyncapi.json for
// tools. It runs in the package's directory, by go generate; its test fails when the documents are not fresh.
package main

import (
	"fmt"
	"io/fs"
	"os"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	documents, err := render(root.FS())
	for name, content := range documents {
		if err == nil {
			err = root.WriteFile(name, content, 0o644)
		}
	}
	if closeErr := root.Close(); err == nil {
		err = closeErr
	}
	return err
}

// render makes the documents; events is the directory of the package, whose golden files serve as examples.
func render(events fs.FS) (map[string][]byte, error) {
	readme, err := readme(events)
	if err != nil {
		return nil, fmt.Errorf("render README.md: %w", err)
	}
	asyncAPI, err := asyncAPI()
	if err != nil {
		return nil, fmt.Errorf("render asyncapi.json: %w", err)
	}
	return map[string][]byte{"README.md": readme, "asyncapi.json": asyncAPI}, nil
}
