package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/flags"
	"fdc/internal/platform/outbox"
)

func (c *cli) flags() *cobra.Command {
	return group("flags", "List and flip the switches of the live system", c.flagsList(), c.flagsSet(), c.flagsClear())
}

// flagItem is a flag as operators see it.
type flagItem struct {
	Name      string     `json:"name"`
	Value     string     `json:"value"`   // on or off, at this moment
	Default   bool       `json:"default"` // nobody set it, or its time is over
	Reason    string     `json:"reason"`
	Actor     string     `json:"actor"`
	SetAt     *time.Time `json:"setAt"`
	ExpiresAt *time.Time `json:"expiresAt"`
}

func itemOf(name string, v flags.Value, found bool) flagItem {
	if !found || v.Expired(time.Now()) {
		return flagItem{Name: name, Value: events.FlagOn, Default: true}
	}
	item := flagItem{Name: name, Value: v.Value, Reason: v.Reason, Actor: v.Actor, SetAt: &v.SetAt}
	if !v.ExpiresAt.IsZero() {
		item.ExpiresAt = &v.ExpiresAt
	}
	return item
}

func (c *cli) flagsList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the flags",
		Long: "list shows what the flags say. A variable such as SYNC_ASYNC_MODE=false keeps a service from what its flag allows; the\n" +
			"list does not know of it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withFlags(cmd.Context(), func(ctx context.Context, store *flags.Store) error {
				items := []flagItem{}
				for _, name := range flags.Names() {
					v, found, err := store.Get(ctx, name)
					if err != nil {
						return err
					}
					items = append(items, itemOf(name, v, found))
				}
				if c.json {
					return c.printJSON(map[string]any{"items": items})
				}
				return c.printFlags(items)
			})
		},
	}
}

func (c *cli) flagsSet() *cobra.Command {
	var (
		reason  string
		lasting time.Duration
	)
	cmd := &cobra.Command{
		Use: "set NAME on|off --reason TEXT [--for 1h]", Short: "Turn a flag on or off, at once, in every service",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) != 2 || args[1] != events.FlagOn && args[1] != events.FlagOff:
				return usage("flags set wants a NAME and on or off")
			case !flags.Known(args[0]):
				return usage("there is no flag %.64q; there are %v", args[0], flags.Names())
			case reason == "":
				return usage("flags set wants --reason, for the audit log")
			case lasting < 0 || lasting == 0 && cmd.Flags().Changed("for"):
				return usage("--for: want a time such as 1h")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withFlags(cmd.Context(), func(ctx context.Context, store *flags.Store) error {
				v, err := store.Set(ctx, c.operatorMeta(), args[0], args[1] == events.FlagOn, reason, lasting)
				switch {
				case fault.KindOf(err) == fault.Invalid:
					return &daemon.UsageError{Err: err}
				case err != nil:
					return err
				case c.json:
					return c.printJSON(itemOf(args[0], v, true))
				}
				return c.printFlags([]flagItem{itemOf(args[0], v, true)})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	cmd.Flags().DurationVar(&lasting, "for", 0, "go back to the default after this time")
	return cmd
}

func (c *cli) flagsClear() *cobra.Command {
	return &cobra.Command{
		Use: "clear NAME", Short: "Put a flag back to its default",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) != 1:
				return usage("flags clear wants a NAME")
			case !flags.Known(args[0]):
				return usage("there is no flag %.64q; there are %v", args[0], flags.Names())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withFlags(cmd.Context(), func(ctx context.Context, store *flags.Store) error {
				if _, err := store.Clear(ctx, c.operatorMeta(), args[0]); err != nil {
					return err
				}
				item := itemOf(args[0], flags.Value{}, false)
				if c.json {
					return c.printJSON(item)
				}
				return c.printFlags([]flagItem{item})
			})
		},
	}
}

func (c *cli) printFlags(items []flagItem) error {
	var rows [][]any
	for _, f := range items {
		until := "–"
		if f.ExpiresAt != nil {
			until = shortTime(*f.ExpiresAt)
		}
		rows = append(rows, []any{f.Name, f.Value, until, f.Actor, f.Reason})
	}
	return c.table("FLAGS", []any{"name", "value", "until", "by", "reason"}, rows)
}

// withFlags runs fn with the flags of the live system.
func (c *cli) withFlags(ctx context.Context, fn func(context.Context, *flags.Store) error) error {
	ctx, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	config, err := c.operator()
	if err != nil {
		return err
	}
	nc, js, err := connectBus(ctx, config)
	if err != nil {
		return err
	}
	defer nc.Close()
	bucket, err := js.KeyValue(ctx, bus.Flags)
	if err != nil {
		return fmt.Errorf("open the bucket %s (has fdc migrate run?): %w", bus.Flags, err)
	}
	pool, err := openDatabase(ctx, config, "fdc-flags")
	if err != nil {
		return err
	}
	defer pool.Close()
	return fn(ctx, flags.NewStore(bucket, outbox.New(pool, nil)))
}
