package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"fdc/internal/identity"
)

func (c *cli) usersErase() *cobra.Command {
	cmd, flags := c.userCommand("erase", true)
	cmd.Short = "Erase a user for good"
	cmd.Long = "erase ends the sessions and memberships of a user and erases settings, name, address and all that came from Google, where a syncer\n" +
		"revokes the access. Workspaces without another member are deleted with their data. The audit log keeps ids and masked values; see\n" +
		"docs/privacy.md. It can't be undone. The last SA who can sign in can't be erased, nor the last OWNER of a workspace with other\n" +
		"members. Without --yes it prints whom it would erase. It needs PostgreSQL only."
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.withUsers(cmd.Context(), func(ctx context.Context, users *identity.Service) error {
			item, err := findUser(ctx, users, flags.email)
			if err != nil {
				return err
			}
			if !flags.yes {
				return errors.Join(c.printUser("TO BE ERASED", item, false), c.planned())
			}
			if err := users.Erase(ctx, c.operatorMeta(), item.ID, flags.reason); err != nil {
				return asUsage(err)
			}
			item.Sessions, item.Disabled = 0, true
			return c.printUser("ERASED", item, true)
		})
	}
	return cmd
}
