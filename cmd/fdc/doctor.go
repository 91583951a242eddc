package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"fdc/internal/audit/archive"
	"fdc/internal/devstack"
	"fdc/internal/doctor"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/seal"
)

func (c *cli) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Examine the whole system and say what is wrong and what to do", Args: cobra.NoArgs,
		Long: "doctor looks at versions, rights, clocks, disk, streams, consumers, buckets, the outbox, audit partitions, sync jobs, keys, the\n" +
			"replica, the archive, dead letters and Google, side by side, and changes nothing. It takes some 5 seconds when something\n" +
			"does not answer. Exit code 1 when it has found an error; warnings alone are 0.\n\n" +
			"What it knows of in the environment it tries too: NATS_PASSWORD_API and the other users' (as in nats.conf), DATABASE_REPLICA_URL,\n" +
			"MASTER_ENCRYPTION_KEYS, ARCHIVE_URL, GOOGLE_ENDPOINT. Passwords and keys may be files: NATS_PASSWORD_API_FILE.",
		Example: "  fdc doctor\n  fdc doctor --json | jq '.items[] | select(.status != \"ok\")'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := c.doctorConfig()
			if err != nil {
				return err
			}
			findings := doctor.Examine(cmd.Context(), config)
			if c.json {
				err = c.printJSON(map[string]any{"items": findings})
			} else {
				err = c.printFindings(findings)
			}
			return errors.Join(err, verdict(findings))
		},
	}
}

// verdict is an error when one of the findings is.
func verdict(findings []doctor.Finding) error {
	count := 0
	for _, f := range findings {
		if f.Status == doctor.Error {
			count++
		}
	}
	switch count {
	case 0:
		return nil
	case 1:
		return errors.New("there is 1 error to look at")
	}
	return fmt.Errorf("there are %d errors to look at", count)
}

func (c *cli) printFindings(findings []doctor.Finding) error {
	colours := map[string]string{doctor.OK: green, doctor.Warning: yellow, doctor.Error: red}
	for _, f := range findings {
		status := c.paint(colours[f.Status], fmt.Sprintf("%-7s", f.Status))
		if err := c.printf("%s  %-15s  %s\n", status, f.Check, f.Message); err != nil {
			return err
		}
		if f.Fix == "" {
			continue
		}
		if err := c.printf("%26s%s %s\n", "", c.paint(dim, "what to do:"), f.Fix); err != nil {
			return err
		}
	}
	return nil
}

// doctorConfig is what the environment, or a running fdc dev, tells of the system.
func (c *cli) doctorConfig() (doctor.Config, error) {
	operator, err := c.operator()
	if err != nil {
		return doctor.Config{}, err
	}
	keys, err := daemon.FromFile(c.environ, masterKeys)
	if err != nil {
		return doctor.Config{}, &daemon.UsageError{Err: err}
	}
	d := doctor.Config{
		Database: operator.Database, Bus: operator.Bus,
		Google: c.environ["GOOGLE_ENDPOINT"], Keys: seal.Secret(keys), ArchiveURL: c.environ["ARCHIVE_URL"],
	}
	if d.Users, err = c.natsUsers(); err != nil {
		return doctor.Config{}, &daemon.UsageError{Err: err}
	}
	if c.onDev() {
		if err := c.examineDev(&d); err != nil {
			return doctor.Config{}, err
		}
	}
	location := archive.Location{URL: d.ArchiveURL}
	if err := location.Validate(); err != nil {
		return doctor.Config{}, &daemon.UsageError{Err: err}
	}
	d.OpenArchive = func(ctx context.Context, js jetstream.JetStream) (archive.Storage, error) {
		return location.Open(ctx, js)
	}
	return d, nil
}

// natsUsers are the passwords of NATS that the environment knows, by user: NATS_PASSWORD_API, or NATS_PASSWORD_API_FILE.
// NATS_PASSWORD_FILE is no user's, but the operator's own.
func (c *cli) natsUsers() (map[string]seal.Secret, error) {
	users := map[string]seal.Secret{}
	for name := range c.environ {
		name = strings.TrimSuffix(name, "_FILE")
		user, ok := strings.CutPrefix(name, "NATS_PASSWORD_")
		if !ok {
			continue
		}
		password, err := daemon.FromFile(c.environ, name)
		if err != nil {
			return nil, err
		}
		if password != "" {
			users[strings.ToLower(strings.ReplaceAll(user, "_", "-"))] = seal.Secret(password)
		}
	}
	return users, nil
}

// examineDev completes the configuration with what a running fdc dev has left in its data directory.
func (c *cli) examineDev(d *doctor.Config) error {
	data, err := filepath.Abs(c.data)
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	found, err := devstack.ReadAddresses(data)
	if err != nil {
		return err
	}
	if d.Users, err = devstack.ReadPasswords(data); err != nil {
		return err
	}
	if d.Keys == "" {
		if d.Keys, err = devstack.ReadMasterKeys(data); err != nil {
			return err
		}
	}
	if d.ArchiveURL == "" {
		d.ArchiveURL = devstack.ArchiveURL(data)
	}
	if d.Google == "" {
		d.Google = found.Google
	}
	return nil
}
