package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/outbox"
	"fdc/internal/workspace"
)

func (c *cli) workspaces() *cobra.Command {
	return group("workspaces", "Mend workspaces", c.workspacesOwner())
}

func (c *cli) workspacesOwner() *cobra.Command {
	cmd, flags := c.userCommand("owner WORKSPACE", true)
	cmd.Short = "Make a user OWNER of a workspace"
	cmd.Long = "owner makes a user OWNER of a workspace, for when none of its OWNERs can sign in. The user need not be a member: nobody is\n" +
		"asked, so the reason is on record in the workspace's audit log. The user has to have signed in once and must not be disabled.\n" +
		"Without --yes it prints whom it would appoint. It needs PostgreSQL only, and works while NATS is away."
	wantsUser := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage("workspaces owner wants the id of one workspace")
		}
		return wantsUser(cmd, nil)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.withWorkspaces(cmd.Context(), func(ctx context.Context, users *identity.Service, workspaces *workspace.Service) error {
			return c.appointOwner(ctx, users, workspaces, args[0], flags)
		})
	}
	return cmd
}

// appointment is what the command shows of a workspace and the user in question.
type appointment struct {
	WorkspaceID string `json:"workspaceId"`
	Name        string `json:"name"`
	Members     int    `json:"members"`
	Owners      int    `json:"owners"` // who can sign in
	UserID      string `json:"userId"`
	Email       string `json:"email"`
	Role        string `json:"role"` // empty: no member
}

func (c *cli) appointOwner(ctx context.Context, users *identity.Service, workspaces *workspace.Service, workspaceID string, flags *userFlags) error {
	user, err := users.AccountByEmail(ctx, flags.email)
	if err != nil {
		return err
	}
	show := func(title string, done bool) error {
		st, err := workspaces.Standing(ctx, workspaceID, user.ID)
		if err != nil {
			return err
		}
		return c.printAppointment(title, appointment{st.ID, st.Name, st.Members, st.Owners, user.ID, user.Email, st.Role}, done)
	}
	if !flags.yes {
		if err := show("TO BE MADE OWNER", false); err != nil {
			return err
		}
		return c.planned()
	}
	if err := workspaces.AppointOwner(ctx, c.operatorMeta(), workspaceID, user.ID, flags.reason); err != nil {
		return asUsage(err)
	}
	return show("MADE OWNER", true)
}

func (c *cli) printAppointment(title string, a appointment, done bool) error {
	if c.json {
		return c.printJSON(map[string]any{"done": done, "items": []appointment{a}})
	}
	role := a.Role
	if role == "" {
		role = "no member"
	}
	return c.table(title, []any{"workspace", "name", "members", "owners who can sign in", "user", "role"},
		[][]any{{a.WorkspaceID, a.Name, a.Members, a.Owners, a.Email, role}})
}

// warnOwnerless names the workspaces that have no OWNER who can sign in while the user is disabled.
func (c *cli) warnOwnerless(ctx context.Context, email string) error {
	return c.withWorkspaces(ctx, func(ctx context.Context, users *identity.Service, workspaces *workspace.Service) error {
		user, err := users.AccountByEmail(ctx, email)
		if err != nil {
			return err
		}
		list, err := workspaces.OwnedAlone(ctx, user.ID)
		if err != nil {
			return err
		}
		for _, id := range list {
			if _, err := fmt.Fprintf(c.stderr, "workspace %s has no other OWNER who can sign in; to appoint one: "+
				"fdc workspaces owner %s --user EMAIL --reason TEXT --yes\n", id, id); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		return nil
	})
}

// withWorkspaces runs fn with the services of users and workspaces. They have no NATS: the relay finds by itself what fn emits.
func (c *cli) withWorkspaces(ctx context.Context, fn func(context.Context, *identity.Service, *workspace.Service) error) error {
	ctx, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	config, err := c.operator()
	if err != nil {
		return err
	}
	pool, err := openDatabase(ctx, config, "fdc-users")
	if err != nil {
		return err
	}
	defer pool.Close()
	ob := outbox.New(pool, nil)
	workspaces := workspace.New(ob)
	return fn(ctx, identity.New(ob, workspaces, gsync.Access{}), workspaces)
}
