package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"fdc/internal/devstack"
	"fdc/internal/gsync"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/seal"
)

const masterKeys = "MASTER_ENCRYPTION_KEYS"

func (c *cli) keys() *cobra.Command {
	return group("keys", "Replace the keys that seal and sign", c.keysRotate(), c.keysRotateSigning())
}

// keyReport says what is sealed with which key.
type keyReport struct {
	Current   string    `json:"current"`   // the version of the key that seals
	Rotated   bool      `json:"rotated"`   // false: a plan
	Resealed  int64     `json:"resealed"`  // values
	Items     []keyItem `json:"items"`     // those in use
	Removable []string  `json:"removable"` // versions of keys in the environment that seal nothing
}

type keyItem struct {
	Key    string `json:"key"`
	Values int64  `json:"values"`
	Known  bool   `json:"known"` // whether the environment has the key
}

func (c *cli) keysRotate() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Seal everything that is stored under the first of " + masterKeys, Args: cobra.NoArgs,
		Long: "rotate seals the stored tokens of Google under the first key of " + masterKeys + ", one account at a time, while the\n" +
			"services go on; broken off, it goes on where it was when it is run again. Without --yes it prints what is sealed with\n" +
			"which key.\n\n" +
			"To replace a key, give every service the new one behind the old (v1:…,v2:…), then before it (v2:…,v1:…), run\n" +
			"fdc keys rotate --yes with the same, and take the old one away when nothing is sealed with it any more.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withSealed(cmd.Context(), func(ctx context.Context, keys *seal.Keys, google *gsync.Service) error {
				report := keyReport{Current: keys.Current(), Rotated: yes}
				var failed error
				if yes {
					report.Resealed, failed = google.Reseal(ctx, c.operatorMeta(), func(n int64) {
						fmt.Fprintf(c.stderr, "%d sealed anew\n", n) //nolint:errcheck // progress is no part of the result
					})
				}
				counts, err := google.TokenKeys(ctx)
				if err != nil {
					return errors.Join(failed, err)
				}
				report.count(keys, counts)
				if err := c.printKeys(report); err != nil || failed != nil {
					return errors.Join(failed, err)
				}
				if !yes {
					return c.planned()
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (r *keyReport) count(keys *seal.Keys, counts map[string]int64) {
	r.Items, r.Removable = []keyItem{}, []string{}
	for _, version := range slices.Sorted(maps.Keys(counts)) {
		r.Items = append(r.Items, keyItem{Key: version, Values: counts[version], Known: slices.Contains(keys.Versions(), version)})
	}
	for _, version := range keys.Versions() {
		if version != keys.Current() && counts[version] == 0 {
			r.Removable = append(r.Removable, version)
		}
	}
}

func (c *cli) printKeys(r keyReport) error {
	if c.json {
		return c.printJSON(r)
	}
	var rows [][]any
	for _, item := range r.Items {
		note := ""
		switch {
		case item.Key == r.Current:
			note = "current"
		case !item.Known:
			note = "not in " + masterKeys
		}
		rows = append(rows, []any{item.Key, item.Values, note})
	}
	title := "SEALED WITH"
	if r.Rotated {
		title = fmt.Sprintf("%d SEALED ANEW; NOW SEALED WITH", r.Resealed)
	}
	if err := c.table(title, []any{"key", "values", ""}, rows); err != nil || len(r.Removable) == 0 {
		return err
	}
	return c.printf("nothing stored needs %s; once no service seals with it, take it out of %s\n", strings.Join(r.Removable, ", "), masterKeys)
}

// withSealed runs fn with the keys and the service that seals with them.
func (c *cli) withSealed(ctx context.Context, fn func(context.Context, *seal.Keys, *gsync.Service) error) error {
	value, err := daemon.FromFile(c.environ, masterKeys)
	if err != nil {
		return &daemon.UsageError{Err: err}
	}
	list := seal.Secret(value)
	if list == "" {
		if list, err = devstack.ReadMasterKeys(c.data); err != nil {
			return errors.Join(err, errors.New("start fdc dev, name its --data, or set "+masterKeys))
		}
	}
	keys, err := seal.ParseKeys(list)
	if err != nil {
		return usage("%s: %w", masterKeys, err)
	}
	config, err := c.operator()
	if err != nil {
		return err
	}
	pool, err := openDatabase(ctx, config, "fdc-keys")
	if err != nil {
		return err
	}
	defer pool.Close()
	return fn(ctx, keys, gsync.New(gsync.Config{Outbox: outbox.New(pool, nil), Keys: keys, Log: zerolog.New(c.stderr)}))
}
