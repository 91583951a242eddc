package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/flags"
	"fdc/internal/service"
)

// examples are those of commands that don't bring their own, by their path.
var examples = map[string]string{
	"fdc":                       "  fdc dev\n  fdc status --watch\n  fdc doctor",
	"fdc migrate":               "  DATABASE_URL=postgres://… NATS_URL=nats://… NATS_PASSWORD=… fdc migrate",
	"fdc google-emulator":       "  fdc google-emulator --addr 127.0.0.1:8085 --data google.json --seed demo",
	"fdc version":               "  fdc version --json",
	"fdc health":                "  fdc health http://127.0.0.1:9090/readyz",
	"fdc demo-seed":             "  DATABASE_URL=postgres://… GOOGLE_ENDPOINT=http://… fdc demo-seed",
	"fdc events":                "  fdc events tail --type 'task.*'\n  fdc events get 4711",
	"fdc events get":            "  fdc events get 4711 --json",
	"fdc events import":         "  fdc events import events.ndjson --yes",
	"fdc dlq":                   "  fdc dlq list\n  fdc dlq requeue --all --yes",
	"fdc dlq list":              "  fdc dlq list --consumer syncer --since 24h --json",
	"fdc dlq show":              "  fdc dlq show 17",
	"fdc dlq requeue":           "  fdc dlq requeue 17 18\n  fdc dlq requeue --consumer syncer --yes",
	"fdc dlq discard":           "  fdc dlq discard 17 --reason 'a test event' --yes",
	"fdc sessions":              "  fdc sessions list --user alice@example.com",
	"fdc sessions list":         "  fdc sessions list --user alice@example.com --json",
	"fdc sessions revoke":       "  fdc sessions revoke 01979a3c-8f0e-7c3b-9a51-0d6f0f1f2a3b --yes\n  fdc sessions revoke --user alice@example.com",
	"fdc users":                 "  fdc users role SA --user alice@example.com --yes",
	"fdc users disable":         "  fdc users disable --user bob@example.com --reason 'left the company' --yes",
	"fdc users enable":          "  fdc users enable --user bob@example.com --reason 'came back' --yes",
	"fdc users erase":           "  fdc users erase --user bob@example.com --reason 'asked for it' --yes",
	"fdc users role":            "  fdc users role SA --user alice@example.com --yes\n  fdc users role USER --user alice@example.com",
	"fdc workspaces":            "  fdc workspaces owner 01979a3c-8f0e-7c3b-9a51-0d6f0f1f2a3b --user bob@example.com --reason 'Alice has left'",
	"fdc workspaces owner":      "  fdc workspaces owner 01979a3c-8f0e-7c3b-9a51-0d6f0f1f2a3b --user bob@example.com --reason 'Alice has left' --yes",
	"fdc flags":                 "  fdc flags list",
	"fdc flags list":            "  fdc flags list --json | jq '.items[] | select(.value == \"off\")'",
	"fdc flags set":             "  fdc flags set session_cache off --reason 'sign-outs are slow' --for 1h",
	"fdc flags clear":           "  fdc flags clear session_cache",
	"fdc keys":                  "  fdc keys rotate",
	"fdc keys rotate":           "  MASTER_ENCRYPTION_KEYS=v2:…,v1:… fdc keys rotate --yes",
	"fdc keys rotate-signing":   "  fdc keys rotate-signing --new-key audit-signing-key.new --yes",
	"fdc audit":                 "  fdc audit partitions\n  fdc audit verify",
	"fdc audit partitions":      "  fdc audit partitions --json | jq '.items[] | select(.state == \"archived\")'",
	"fdc audit archive":         "  fdc audit archive 2024-01\n  fdc audit archive 2024-01 --yes",
	"fdc audit restore":         "  fdc audit restore 2024-01 --yes",
	"fdc audit rebuild":         "  fdc audit rebuild 2026-11\n  fdc audit rebuild 2026-11 --yes",
	"fdc audit prove":           "  fdc audit prove 01979a3c-8f0e-7c3b-9a51-0d6f0f1f2a3b > proof.json",
	"fdc completion":            "  source <(fdc completion bash)",
	"fdc completion bash":       "  fdc completion bash > /etc/bash_completion.d/fdc",
	"fdc completion zsh":        "  fdc completion zsh > \"${fpath[1]}/_fdc\"",
	"fdc completion fish":       "  fdc completion fish > ~/.config/fish/completions/fdc.fish",
	"fdc completion powershell": "  fdc completion powershell | Out-String | Invoke-Expression",
	"fdc help":                  "  fdc help audit verify",
}

// decorate gives every command its example and what it completes, so that the commands themselves say what they do and no more.
func (c *cli) decorate(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	arguments := map[string]cobra.CompletionFunc{
		"fdc flags set":     inTurn(flags.Names(), []string{events.FlagOn, events.FlagOff}),
		"fdc flags clear":   inTurn(flags.Names()),
		"fdc users role":    inTurn([]string{events.SystemRoleAdmin, events.SystemRoleUser}),
		"fdc audit archive": c.months(audit.StateAttached),
		"fdc audit restore": c.months(audit.StateArchived),
		"fdc audit verify":  c.months(""),
		"fdc audit rebuild": c.months(audit.StateAttached),
	}
	var consumers []string
	for _, consumer := range bus.Consumers() {
		consumers = append(consumers, consumer.Name)
	}
	options := map[string]cobra.CompletionFunc{
		"consumer":   one(consumers...),
		"format":     one(service.ExportFormats...),
		"log-format": one("console", "json"),
		"seed":       one("demo", "none"),
	}
	walk(root, func(cmd *cobra.Command) {
		if cmd.Example == "" {
			cmd.Example = examples[cmd.CommandPath()]
		}
		if complete, ok := arguments[cmd.CommandPath()]; ok && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = complete
		}
		for name, complete := range options {
			if cmd.LocalNonPersistentFlags().Lookup(name) != nil {
				_ = cmd.RegisterFlagCompletionFunc(name, complete) // the command may bring its own
			}
		}
		if cmd.CommandPath() == "fdc replay" && cmd.Flags().Lookup("to") != nil {
			_ = cmd.RegisterFlagCompletionFunc("to", options["consumer"]) // likewise
		}
		for _, name := range []string{"out", "public-key", "new-key", "proof", "file"} {
			if cmd.LocalNonPersistentFlags().Lookup(name) != nil {
				_ = cmd.MarkFlagFilename(name) // the flag is there
			}
		}
		if cmd.LocalNonPersistentFlags().Lookup("dir") != nil {
			_ = cmd.MarkFlagDirname("dir") // the flag is there
		}
	})
	_ = root.MarkPersistentFlagDirname("data") // the flag is there
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, visit)
	}
}

func one(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// inTurn completes the first argument from the first list, the second from the second, and nothing behind.
func inTurn(lists ...[]string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return lists[len(args)], cobra.ShellCompDirectiveNoFileComp
	}
}

// completionPatience is how long somebody who has pressed Tab waits for a database.
const completionPatience = 2 * time.Second

// months completes one argument with the months of the audit log that are in a state, any when it is empty. Where no database answers
// there is nothing to complete.
func (c *cli) months(state string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		config, err := c.operator()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		pool, err := openDatabase(ctx, config, "fdc-completion")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer pool.Close()
		list, err := audit.Partitions(ctx, pool)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var months []cobra.Completion
		for _, p := range list {
			fits := state == "" || p.State == state || state == audit.StateAttached && p.State == audit.StateRestored
			if fits && strings.HasPrefix(p.Month, toComplete) {
				months = append(months, cobra.CompletionWithDesc(p.Month, p.State))
			}
		}
		return months, cobra.ShellCompDirectiveNoFileComp
	}
}
