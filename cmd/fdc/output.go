package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
)

func (c *cli) printf(format string, args ...any) error {
	if _, err := fmt.Fprintf(c.stdout, format, args...); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func (c *cli) printJSON(v any) error {
	encoder := json.NewEncoder(c.stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// table prints rows in columns, under a title.
func (c *cli) table(title string, header []any, rows [][]any) error {
	if err := c.printf("%s\n", title); err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]any{header}, rows...) {
		for _, cell := range row {
			fmt.Fprintf(w, "  %v\t", cell) //nolint:errcheck // Flush reports it
		}
		fmt.Fprintln(w) //nolint:errcheck // Flush reports it
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return c.printf("\n")
}
