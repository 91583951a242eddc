package main

import (
	"github.com/spf13/cobra"

	"fdc/internal/service"
)

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version, and the commit it was built from", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			build := service.ReadBuild()
			if c.json {
				return c.printJSON(build)
			}
			commit, date := build.Commit, build.Date
			if commit == "" {
				commit = "unknown"
			}
			if date == "" {
				date = "unknown"
			}
			return c.printf("fdc %s\ncommit %s\ndate %s\n%s\n", build.Version, commit, date, build.Go)
		},
	}
}
