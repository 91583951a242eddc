package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"fdc/internal/audit/archive"
	"fdc/internal/devstack"
	"fdc/internal/platform/seal"
)

func (c *cli) keysRotateSigning() *cobra.Command {
	var yes bool
	var file string
	cmd := &cobra.Command{
		Use: "rotate-signing", Short: "Replace the key that signs for the audit log and its archive", Args: cobra.NoArgs,
		Long: "rotate-signing adds a link to the archive's chain of keys: the new key signs over the last manifest of the old one, which is in\n" +
			signingKey + " and signs the link, too. fdc audit verify then follows the chain from whichever of the keys it is given; the newest\n" +
			"is the one to give. Without --yes it prints what it would do. It makes FILE, with a fresh seed, when there is none.\n\n" +
			"Afterwards give the audit-archiver the new seed and restart it: with the old one it archives nothing any more. On fdc dev the\n" +
			"key in the data directory is replaced, and the next start uses it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withAudit(cmd.Context(), func(ctx context.Context, t *auditTools) error {
				if err := t.signer(); err != nil {
					return err
				}
				kept := file == "" && c.onDev()
				if kept {
					file = filepath.Join(c.data, "audit-signing-key.new")
				}
				if file == "" {
					return usage("--new-key is required: the file with the new seed, which is made when there is none")
				}
				return c.rotateSigning(ctx, t.archiver(c), file, kept, yes)
			})
		},
	}
	cmd.Flags().StringVar(&file, "new-key", "", "a `file` with the new Ed25519 seed in base64; made when there is none")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// rotateSigning prints the plan, or carries it out. The new key is on disk before the archive names it; kept says that the
// data directory keeps it.
func (c *cli) rotateSigning(ctx context.Context, archiver *archive.Archiver, file string, kept, yes bool) error {
	seed, key, err := readSeed(file)
	fresh := errors.Is(err, os.ErrNotExist)
	if fresh {
		seed = newSeed()
		key, err = archive.ParseSigningKey(seed)
	}
	if err != nil {
		return fmt.Errorf("--new-key: %w", err)
	}
	if !yes {
		r, err := archiver.PlanRotation(ctx, key)
		if err != nil {
			return err
		}
		if fresh {
			r.Key = "" // this one is not kept
		}
		if err := c.printRotation(r, file); err != nil || r.Done {
			return err
		}
		return c.planned()
	}
	if fresh {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator's own
		if err != nil {
			return fmt.Errorf("--new-key: %w", err)
		}
		_, err = f.WriteString(seed + "\n")
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("--new-key: %w", err)
		}
	}
	r, err := archiver.Rotate(ctx, key)
	if err != nil {
		return err
	}
	if kept {
		if err := devstack.ReplaceAuditKey(c.data, seal.Secret(seed)); err != nil {
			return fmt.Errorf("the archive has the new key, which is in %s, but the data directory has not: %w", file, err)
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("--new-key: %w", err)
		}
		file = c.data
	}
	return c.printRotation(r, file)
}

func readSeed(file string) (string, ed25519.PrivateKey, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator's own
	if err != nil {
		return "", nil, err
	}
	key, err := archive.ParseSigningKey(string(text))
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", file, err)
	}
	return base64.StdEncoding.EncodeToString(key.Seed()), key, nil
}

func newSeed() string {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // it never fails
	return base64.StdEncoding.EncodeToString(seed)
}

func (c *cli) printRotation(r archive.Rotation, file string) error {
	if c.json {
		return c.printJSON(r)
	}
	over := "nothing, because nothing was archived yet"
	if r.Manifest.Sequence > 0 {
		over = fmt.Sprintf("the old key's last manifest, number %d", r.Manifest.Sequence)
	}
	if !r.Done {
		return c.printf("the new key (%s) becomes number %d of the archive's chain of keys and signs over %s\n", file, r.Sequence+1, over)
	}
	return c.printf("key number %d signs from now on, and has signed over %s\npublic key %s\n"+
		"Next: give the audit-archiver the new key (%s) and restart it; give auditors the new public key.\n", r.Sequence+1, over, r.Key, file)
}
