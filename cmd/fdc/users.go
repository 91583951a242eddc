package main

import (
	"context"

	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/identity"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/fault"
)

func (c *cli) users() *cobra.Command {
	return group("users", "Disable, enable and erase users, and make them operators", c.usersDisable(), c.usersEnable(), c.usersRole(), c.usersErase())
}

// userItem is a user as operators see one.
type userItem struct {
	ID         string `json:"id"`
	Email      string `json:"email"`
	SystemRole string `json:"systemRole"`
	Disabled   bool   `json:"disabled"`
	Sessions   int    `json:"sessions"` // live ones
}

func (c *cli) usersDisable() *cobra.Command {
	cmd, flags := c.userCommand("disable", true)
	cmd.Short = "Shut a user out"
	cmd.Long = "disable ends all sessions of a user, whose sockets are closed, and refuses new sign-ins until enable. It ends the user's syncs and\n" +
		"access to Google; a syncer revokes it there. The last SA who can sign in can't be disabled. It names the workspaces that have no\n" +
		"other OWNER who can sign in. Without --yes it prints whom it would disable. It needs PostgreSQL only, and works while NATS is away."
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		err := c.changeUser(cmd.Context(), flags, "DISABLED", func(ctx context.Context, users *identity.Service, id string) error {
			_, err := users.Disable(ctx, c.operatorMeta(), id, flags.reason)
			return err
		})
		if err != nil {
			return err
		}
		return c.warnOwnerless(cmd.Context(), flags.email)
	}
	return cmd
}

func (c *cli) usersEnable() *cobra.Command {
	cmd, flags := c.userCommand("enable", true)
	cmd.Short = "Let a disabled user sign in again"
	cmd.Long = "enable lets a disabled user sign in again. The sessions from before stay ended, and Google has to be connected again. Without --yes it prints whom it would enable."
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.changeUser(cmd.Context(), flags, "ENABLED", func(ctx context.Context, users *identity.Service, id string) error {
			return users.Enable(ctx, c.operatorMeta(), id, flags.reason)
		})
	}
	return cmd
}

func (c *cli) usersRole() *cobra.Command {
	cmd, flags := c.userCommand("role SA|USER", false)
	cmd.Short = "Make a user an operator (SA), or an ordinary user again (USER)"
	cmd.Long = "role sets a user's system role; their sessions go on with it, under new tokens. The last SA who can sign in stays SA. Without\n" +
		"--yes it prints whose role it would set."
	wantsUser := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] != events.SystemRoleAdmin && args[0] != events.SystemRoleUser {
			return usage("users role wants SA or USER")
		}
		return wantsUser(cmd, nil)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.changeUser(cmd.Context(), flags, "MADE "+args[0], func(ctx context.Context, users *identity.Service, id string) error {
			return users.SetSystemRole(ctx, c.operatorMeta(), id, args[0])
		})
	}
	return cmd
}

// userFlags are what the commands about a user take.
type userFlags struct {
	email, reason string
	yes           bool
}

// userCommand is a command that changes one user, told why or not.
func (c *cli) userCommand(use string, why bool) (*cobra.Command, *userFlags) {
	flags := &userFlags{}
	usageLine := use + " --user EMAIL"
	if why {
		usageLine += " --reason TEXT"
	}
	cmd := &cobra.Command{
		Use: usageLine,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 || flags.email == "":
				return usage("%s wants --user EMAIL", cmd.CommandPath())
			case why && flags.reason == "":
				return usage("%s wants --reason, for the audit log", cmd.CommandPath())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&flags.email, "user", "", "the user's email address")
	cmd.Flags().BoolVar(&flags.yes, "yes", false, "do it")
	if why {
		cmd.Flags().StringVar(&flags.reason, "reason", "", "why, for the audit log; the user may read it")
	}
	return cmd, flags
}

// changeUser shows whom a change is about, and after it how they are now.
func (c *cli) changeUser(ctx context.Context, flags *userFlags, done string, change func(context.Context, *identity.Service, string) error) error {
	return c.withUsers(ctx, func(ctx context.Context, users *identity.Service) error {
		item, err := findUser(ctx, users, flags.email)
		if err != nil {
			return err
		}
		if !flags.yes {
			if err := c.printUser("TO BE "+done, item, false); err != nil {
				return err
			}
			return c.planned()
		}
		if err := change(ctx, users, item.ID); err != nil {
			return asUsage(err)
		}
		if item, err = findUser(ctx, users, flags.email); err != nil {
			return err
		}
		return c.printUser(done, item, true)
	})
}

// asUsage makes what an argument got wrong a mistake in the command line.
func asUsage(err error) error {
	if fault.KindOf(err) == fault.Invalid {
		return &daemon.UsageError{Err: err}
	}
	return err
}

func findUser(ctx context.Context, users *identity.Service, email string) (userItem, error) {
	account, err := users.AccountByEmail(ctx, email)
	if err != nil {
		return userItem{}, err
	}
	devices, err := users.Sessions(ctx, account.ID)
	if err != nil {
		return userItem{}, err
	}
	return userItem{
		ID: account.ID, Email: account.Email, SystemRole: account.SystemRole, Disabled: account.Disabled, Sessions: len(devices),
	}, nil
}

func (c *cli) printUser(title string, u userItem, done bool) error {
	if c.json {
		return c.printJSON(map[string]any{"done": done, "items": []userItem{u}})
	}
	state := "enabled"
	if u.Disabled {
		state = "disabled"
	}
	return c.table(title, []any{"id", "email", "role", "state", "sessions"}, [][]any{{u.ID, u.Email, u.SystemRole, state, u.Sessions}})
}
