// Command fdc runs the whole system on one machine (fdc dev), prepares databases and streams (fdc migrate) and shows
// operators what is going on.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/platform/daemon"
)

func main() {
	os.Exit(daemon.Main("fdc", os.Environ(), os.Stderr, func(ctx context.Context, environ map[string]string) error {
		return execute(ctx, environ, os.Args[1:], os.Stdout, os.Stderr)
	}))
}

// cli is what every sub-command shares.
type cli struct {
	environ        map[string]string
	stdout, stderr io.Writer

	data string
	json bool
	as   string // who the operator is; empty: as the operating system says
	id   string // of the requests that this run makes
}

// execute runs the command line. A mistake in it is a *daemon.UsageError.
func execute(ctx context.Context, environ map[string]string, args []string, stdout, stderr io.Writer) error {
	c := &cli{environ: environ, stdout: stdout, stderr: stderr, id: events.NewID()}
	root := c.root()
	began := false
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		began = true
		return checkName(c.as)
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !began {
		return &daemon.UsageError{Err: err}
	}
	return err
}

// root is the command with all its sub-commands.
func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "fdc",
		Short: "The backend of a founders' cockpit, event-driven on NATS JetStream",
		Long: "fdc runs the whole system on one machine, prepares databases and streams, and shows operators what is going on.\n" +
			"It finds a running `fdc dev` by its data directory; NATS_* and DATABASE_* in the environment come first.",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.PersistentFlags().StringVar(&c.data, "data", ".fdc", "data directory of fdc dev")
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON")
	root.PersistentFlags().StringVar(&c.as, "as", "", "who changes something, for the audit log; by default the user and host of the operating system, alice@host")
	root.AddCommand(c.dev(), c.migrate(), c.status(), c.googleEmulator(), c.version(), c.health(), c.demoSeed())
	root.AddCommand(c.events(), c.replay(), c.dlq(), c.sessions(), c.users(), c.workspaces(), c.flags(), c.keys(), c.audit())
	root.AddCommand(c.doctor(), c.explain())
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	c.decorate(root)
	return root
}
