package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/identity"
	"fdc/internal/workspace"
)

func (c *cli) sessions() *cobra.Command {
	return group("sessions", "List and revoke the sessions of a user", c.sessionsList(), c.sessionsRevoke())
}

// sessionItem is a session as operators see it.
type sessionItem struct {
	ID         string    `json:"id"`
	UserID     string    `json:"userId"`
	Email      string    `json:"email"`
	CreatedAt  time.Time `json:"createdAt"`
	LastSeenAt time.Time `json:"lastSeenAt"`
	ExpiresAt  time.Time `json:"expiresAt"`
	IP         string    `json:"ip"`
	UserAgent  string    `json:"userAgent"`
}

func (c *cli) sessionsList() *cobra.Command {
	var email string
	cmd := &cobra.Command{
		Use: "list --user EMAIL", Short: "List the live sessions of a user, newest first",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 || email == "" {
				return usage("sessions list wants --user EMAIL, and nothing else")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withUsers(cmd.Context(), func(ctx context.Context, users *identity.Service) error {
				account, err := users.AccountByEmail(ctx, email)
				if err != nil {
					return err
				}
				items, err := sessionsOf(ctx, users, account.User)
				switch {
				case err != nil:
					return err
				case c.json:
					return c.printJSON(map[string]any{"items": items})
				}
				return c.printSessions("SESSIONS OF "+account.Email, items)
			})
		},
	}
	cmd.Flags().StringVar(&email, "user", "", "the user's email address")
	return cmd
}

func (c *cli) sessionsRevoke() *cobra.Command {
	var (
		email string
		yes   bool
	)
	cmd := &cobra.Command{
		Use: "revoke ID|--user EMAIL", Short: "End a session, or all sessions of a user",
		Long: "revoke ends a session, or all sessions of a user; their sockets are closed and the audit log tells of it. Without\n" +
			"--yes it prints what it would end. It needs PostgreSQL only, and works while NATS is away.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || (len(args) == 1) == (email != "") {
				return usage("sessions revoke wants either the ID of a session or --user EMAIL")
			}
			if len(args) == 1 && !events.ValidID(args[0]) {
				return usage("%.64q is no id of a session", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withUsers(cmd.Context(), func(ctx context.Context, users *identity.Service) error {
				if email != "" {
					return c.revokeAll(ctx, users, email, yes)
				}
				return c.revokeOne(ctx, users, args[0], yes)
			})
		},
	}
	cmd.Flags().StringVar(&email, "user", "", "the user's email address: all their sessions")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (c *cli) revokeOne(ctx context.Context, users *identity.Service, id string, yes bool) error {
	user, err := users.SessionUser(ctx, id)
	if err != nil {
		return err
	}
	items, err := sessionsOf(ctx, users, user)
	if err != nil {
		return err
	}
	if yes {
		if err := users.Revoke(ctx, c.operatorMeta(), user.ID, id); err != nil {
			return err
		}
	}
	return c.printRevocation(user, items, []string{id}, yes)
}

func (c *cli) revokeAll(ctx context.Context, users *identity.Service, email string, yes bool) error {
	account, err := users.AccountByEmail(ctx, email)
	if err != nil {
		return err
	}
	user := account.User
	items, err := sessionsOf(ctx, users, user)
	if err != nil {
		return err
	}
	if !yes {
		return c.printRevocation(user, items, nil, false)
	}
	ids, err := users.RevokeAll(ctx, c.operatorMeta(), user.ID)
	if err != nil {
		return err
	}
	return c.printRevocation(user, items, ids, true)
}

// printRevocation shows the plan, or what was done. ids are the sessions it is about, known ones in full; nil for all
// that are known.
func (c *cli) printRevocation(user identity.User, known []sessionItem, ids []string, done bool) error {
	items := known
	if ids != nil {
		byID := map[string]sessionItem{}
		for _, item := range known {
			byID[item.ID] = item
		}
		items = []sessionItem{}
		for _, id := range ids {
			item, ok := byID[id]
			if !ok { // idle for too long, or begun since the list was made
				item = sessionItem{ID: id, UserID: user.ID, Email: user.Email}
			}
			items = append(items, item)
		}
	}
	title := "TO BE REVOKED"
	if done {
		title = "REVOKED"
	}
	var err error
	if c.json {
		err = c.printJSON(map[string]any{"revoked": done, "items": items})
	} else {
		err = c.printSessions(title, items)
	}
	if err != nil || done {
		return err
	}
	return c.planned()
}

// withUsers is withWorkspaces for what concerns users only.
func (c *cli) withUsers(ctx context.Context, fn func(context.Context, *identity.Service) error) error {
	return c.withWorkspaces(ctx, func(ctx context.Context, users *identity.Service, _ *workspace.Service) error { return fn(ctx, users) })
}

func sessionsOf(ctx context.Context, users *identity.Service, user identity.User) ([]sessionItem, error) {
	devices, err := users.Sessions(ctx, user.ID)
	if err != nil {
		return nil, err
	}
	items := []sessionItem{}
	for _, d := range devices {
		items = append(items, sessionItem{
			ID: d.ID, UserID: user.ID, Email: user.Email, CreatedAt: d.CreatedAt.UTC(), LastSeenAt: d.LastSeenAt.UTC(),
			ExpiresAt: d.ExpiresAt.UTC(), IP: d.IP, UserAgent: d.UserAgent,
		})
	}
	return items, nil
}

func (c *cli) printSessions(title string, items []sessionItem) error {
	var rows [][]any
	for _, s := range items {
		rows = append(rows, []any{s.ID, shortTime(s.CreatedAt), shortTime(s.LastSeenAt), shortTime(s.ExpiresAt), s.IP, s.UserAgent})
	}
	return c.table(title, []any{"id", "since", "last seen", "until", "ip", "client"}, rows)
}

func shortTime(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
