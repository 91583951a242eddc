package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/audit/archive"
	"fdc/internal/devstack"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/service"
)

func (c *cli) audit() *cobra.Command {
	return group("audit", "Look after the audit log: its months, its archive, its proofs",
		c.auditPartitions(), c.auditArchive(), c.auditVerify(), c.auditRestore(), c.auditRebuild(), c.auditProve(), c.auditExport())
}

const signingKey = "AUDIT_SIGNING_KEY"

// auditTools are what the audit commands work with.
type auditTools struct {
	pool    *pgxpool.Pool
	js      jetstream.JetStream
	storage archive.Storage
	where   string             // of the storage
	key     ed25519.PrivateKey // nil: there is none here
	config  operatorConfig
}

func (t *auditTools) archiver(c *cli) *archive.Archiver {
	return archive.NewArchiver(archive.Config{Database: t.config.Database, Storage: t.storage, Key: t.key, By: c.operatorMeta(), Log: zerolog.New(c.stderr).Level(zerolog.WarnLevel)})
}

// withAudit runs fn with the database, NATS, the archive and the key of the environment, or of a running fdc dev.
func (c *cli) withAudit(ctx context.Context, fn func(context.Context, *auditTools) error) error {
	location := archive.Location{URL: c.environ["ARCHIVE_URL"]}
	signing, err := daemon.FromFile(c.environ, signingKey)
	if err != nil {
		return &daemon.UsageError{Err: err}
	}
	if c.onDev() {
		data, err := filepath.Abs(c.data)
		if err != nil {
			return fmt.Errorf("--data: %w", err)
		}
		if location.URL == "" {
			location.URL = devstack.ArchiveURL(data)
		}
		if signing == "" {
			kept, err := devstack.ReadAuditKey(data)
			if err != nil {
				return errors.Join(err, errors.New("start fdc dev, name its --data, or set NATS_URL and DATABASE_URL"))
			}
			signing = kept.Reveal()
		}
	}
	if location.URL == "" {
		return usage("ARCHIVE_URL: required, not set; give the audit-archiver's")
	}
	if err := location.Validate(); err != nil {
		return &daemon.UsageError{Err: err}
	}
	t := &auditTools{where: location.URL}
	if signing != "" {
		if t.key, err = archive.ParseSigningKey(signing); err != nil {
			return usage("%s: %w", signingKey, err)
		}
	}
	if t.config, err = c.operator(); err != nil {
		return err
	}
	if t.pool, err = openDatabase(ctx, t.config, "fdc-audit"); err != nil {
		return err
	}
	defer t.pool.Close()
	nc, err := bus.Connect(t.config.Bus, "ops", zerolog.Nop())
	if err != nil {
		return err
	}
	defer nc.Close()
	if t.js, err = bus.JetStream(nc); err != nil {
		return err
	}
	if t.storage, err = location.Open(ctx, t.js); err != nil {
		return err
	}
	return errors.Join(fn(ctx, t), t.storage.Close())
}

// signer is the key, for what can't do without.
func (t *auditTools) signer() error {
	if t.key == nil {
		return usage("%s is not set: the archive can't be signed for", signingKey)
	}
	return nil
}

func (t *auditTools) public(file string) (ed25519.PublicKey, error) {
	if file != "" {
		return readPublicKey(file)
	}
	if t.key == nil {
		return nil, usage("name the key to verify with: --public-key FILE, or %s", signingKey)
	}
	public, ok := t.key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the signing key has no public half")
	}
	return public, nil
}

func readPublicKey(file string) (ed25519.PublicKey, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator's own
	if err != nil {
		return nil, fmt.Errorf("--public-key: %w", err)
	}
	key, err := archive.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("--public-key %s: %w", file, err)
	}
	return key, nil
}

// monthArg takes one argument, a month.
func monthArg(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("want one month, YYYY-MM")
	}
	return checkMonth(args[0])
}

func checkMonth(text string) error {
	if _, err := time.Parse("2006-01", text); err != nil {
		return usage("%.64q is no month; want YYYY-MM", text)
	}
	return nil
}

func (c *cli) auditPartitions() *cobra.Command {
	return &cobra.Command{
		Use: "partitions", Short: "Show the months of the audit log and of its archive", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), operatorPatience)
			defer cancel()
			config, err := c.operator()
			if err != nil {
				return err
			}
			pool, err := openDatabase(ctx, config, "fdc-audit")
			if err != nil {
				return err
			}
			defer pool.Close()
			list, err := audit.Partitions(ctx, pool)
			switch {
			case err != nil:
				return err
			case c.json:
				return c.printJSON(map[string]any{"items": list})
			}
			return c.printMonths(list)
		},
	}
}

// printMonths draws each month's size beside the largest.
func (c *cli) printMonths(list []audit.Partition) error {
	largest := int64(1)
	for _, p := range list {
		largest = max(largest, p.Bytes)
	}
	var rows [][]any
	for _, p := range list {
		full := int((p.Bytes*barWidth + largest - 1) / largest)
		mark := "#"
		if p.State == audit.StateArchived {
			mark = "-"
		}
		rows = append(rows, []any{p.Month, p.State, p.Rows, size(p.Bytes), strings.Repeat(mark, full)})
	}
	return c.table("AUDIT LOG, # IN THE DATABASE, - IN THE ARCHIVE", []any{"month", "state", "rows", "size", ""}, rows)
}

// size is a number of bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func (c *cli) auditArchive() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "archive YYYY-MM", Short: "Move a month out of the log and into the archive", Args: monthArg,
		Long: "archive takes a month that is over out of the audit log, writes it to the archive (ARCHIVE_URL), reads it back, and signs\n" +
			"for it; its table is dropped a day later. Broken off, it goes on where it was when it is run again. The audit-archiver does\n" +
			"the same by itself with months older than AUDIT_RETENTION_MONTHS. Without --yes it prints what it would do.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withAudit(cmd.Context(), func(ctx context.Context, t *auditTools) error {
				if err := t.signer(); err != nil {
					return err
				}
				archiver := t.archiver(c)
				p, err := archiver.Archivable(ctx, t.pool, args[0])
				if err != nil {
					return err
				}
				if !yes {
					if err := c.printPlan(map[string]any{"month": p.Month, "state": p.State, "rows": p.Rows, "bytes": p.Bytes, "to": t.where, "archived": false},
						"%s (%s, about %d rows, %s) would go to %s\n", p.Month, p.State, p.Rows, size(p.Bytes), t.where); err != nil {
						return err
					}
					return c.planned()
				}
				progress := c.bar()
				m, err := archiver.Archive(ctx, args[0], progress.tell)
				progress.end()
				if err != nil {
					return err
				}
				return c.printPlan(map[string]any{"archived": true, "manifest": m},
					"%s is in the archive: %d rows, %s, manifest %d, Merkle root %s\n", m.Month, m.Rows, size(m.Bytes), m.Sequence, m.MerkleRoot)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// printPlan prints an object, or a sentence for people.
func (c *cli) printPlan(object map[string]any, format string, args ...any) error {
	if c.json {
		return c.printJSON(object)
	}
	return c.printf(format, args...)
}

func (c *cli) auditRestore() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "restore YYYY-MM", Short: "Bring a month back from the archive", Args: monthArg,
		Long: "restore verifies a month of the archive while it loads it, and puts it back into the audit log, with the same rows, when all\n" +
			"of it is right. It stays for 30 days, then it goes to the archive again. Without --yes it prints what it would do.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withAudit(cmd.Context(), func(ctx context.Context, t *auditTools) error {
				if err := t.signer(); err != nil {
					return err
				}
				archiver := t.archiver(c)
				m, err := archiver.Restorable(ctx, t.pool, args[0])
				if err != nil {
					return err
				}
				if !yes {
					if err := c.printPlan(map[string]any{"restored": false, "manifest": m, "from": t.where},
						"%s (%d rows, %s) would come back from %s\n", m.Month, m.Rows, size(m.Bytes), t.where); err != nil {
						return err
					}
					return c.planned()
				}
				progress := c.bar()
				m, err = archiver.Restore(ctx, c.operatorMeta(), args[0], progress.tell)
				progress.end()
				if err != nil {
					return err
				}
				return c.printPlan(map[string]any{"restored": true, "manifest": m}, "%s is back in the audit log: %d rows\n", m.Month, m.Rows)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (c *cli) auditVerify() *cobra.Command {
	var dir, keyFile, proofFile string
	cmd := &cobra.Command{
		Use: "verify [YYYY-MM]", Short: "Check that nothing in the archive, or in the log, was changed or cut",
		Long: "verify reads the archive and checks every manifest's signature, that none is missing in their chain, and every row; the first\n" +
			"wrong row of each month is named. With a month it reads that month's rows only; one that is in the database is compared with the\n" +
			"signed checkpoints. With --dir it needs a copy of the archive's files and the public key, and neither database nor NATS. With\n" +
			"--proof it checks what fdc audit prove printed, with the public key alone. It exits with 1 when something is wrong.",
		Example: "  fdc audit verify\n  fdc audit verify 2024-01\n  fdc audit verify --dir /mnt/copy --public-key audit-public-key.pem",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("want one month, YYYY-MM, or none for all")
			}
			if (dir != "" || proofFile != "") && keyFile == "" {
				return usage("--dir and --proof want --public-key FILE")
			}
			if dir != "" && proofFile != "" || proofFile != "" && len(args) > 0 {
				return usage("--proof goes with --public-key only")
			}
			if len(args) == 1 {
				return checkMonth(args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			month := strings.Join(args, "")
			if proofFile != "" {
				return c.verifyProof(proofFile, keyFile)
			}
			if dir != "" {
				return c.verifyDir(cmd.Context(), dir, keyFile, month)
			}
			return c.withAudit(cmd.Context(), func(ctx context.Context, t *auditTools) error {
				key, err := t.public(keyFile)
				if err != nil {
					return err
				}
				return c.verifyAll(ctx, t, key, month)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "a folder with a copy of the archive")
	cmd.Flags().StringVar(&keyFile, "public-key", "", "a file with the Ed25519 public key, PEM or base64")
	cmd.Flags().StringVar(&proofFile, "proof", "", "a file with what fdc audit prove printed")
	return cmd
}

func (c *cli) verifyDir(ctx context.Context, dir, keyFile, month string) error {
	key, err := readPublicKey(keyFile)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	storage, err := archive.OpenDir(dir)
	if err != nil {
		return err
	}
	defer storage.Close() //nolint:errcheck // it was only read
	progress := c.bar()
	report, err := archive.Verify(ctx, storage, key, month, progress.tell)
	progress.end()
	if err != nil {
		return err
	}
	return c.printReport(report)
}

// verifyAll verifies the archive, or one month wherever it is.
func (c *cli) verifyAll(ctx context.Context, t *auditTools, key ed25519.PublicKey, month string) error {
	list, err := audit.Partitions(ctx, t.pool)
	if err != nil {
		return err
	}
	keys, err := archive.ReadKeys(ctx, t.storage, key)
	if err != nil {
		return fmt.Errorf("the chain of signing keys can't be trusted: %w", err)
	}
	history, err := archive.ReadCheckpoints(ctx, t.js, keys)
	if err != nil {
		return err
	}
	progress := c.bar()
	defer progress.end()
	report := archive.Report{Months: []archive.Manifest{}, Findings: []archive.Finding{}}
	archived := slices.ContainsFunc(list, func(p audit.Partition) bool {
		return (month == "" || p.Month == month) && (p.State == audit.StateArchived || p.State == audit.StateRestored)
	})
	if archived {
		if report, err = archive.Verify(ctx, t.storage, key, month, progress.tell); err != nil {
			return err
		}
		if f := history.Cut(report.Months); f != nil {
			report.Findings = append(report.Findings, *f)
		}
	}
	for _, p := range list {
		if month != "" && p.Month != month || p.State != audit.StateAttached && p.State != audit.StateRestored {
			continue
		}
		rows, added, findings, err := archive.VerifyLive(ctx, t.pool, history, p.Month)
		if err != nil {
			return err
		}
		report.Rows += rows
		report.Added += added
		report.Findings = append(report.Findings, findings...)
	}
	if month != "" && !slices.ContainsFunc(list, func(p audit.Partition) bool { return p.Month == month }) {
		return fmt.Errorf("there is no %s in the audit log, nor in its archive", month)
	}
	progress.end()
	return c.printReport(report)
}

func (c *cli) printReport(r archive.Report) error {
	if c.json {
		if err := c.printJSON(r); err != nil {
			return err
		}
	} else {
		for _, f := range r.Findings {
			if err := c.printf("WRONG  %s\n", f.String()); err != nil {
				return err
			}
		}
		if r.Added > 0 {
			if err := c.printf("%d rows came after the checkpoint of their hour\n", r.Added); err != nil {
				return err
			}
		}
		if len(r.Findings) == 0 {
			if err := c.printf("%d rows are as they were signed for; %d months in the archive\n", r.Rows, len(r.Months)); err != nil {
				return err
			}
		}
	}
	if n := len(r.Findings); n > 0 {
		return fmt.Errorf("the audit log is not as it was signed for: %d findings", n)
	}
	return nil
}

func (c *cli) verifyProof(file, keyFile string) error {
	key, err := readPublicKey(keyFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file) //nolint:gosec // the operator's own
	if err != nil {
		return fmt.Errorf("--proof: %w", err)
	}
	proof, err := archive.ParseProof(text)
	if err != nil {
		return fmt.Errorf("--proof %s: %w", file, err)
	}
	m, err := proof.Check(key)
	if err != nil {
		return fmt.Errorf("the proof does not hold: %w", err)
	}
	return c.printPlan(map[string]any{"month": m.Month, "sequence": m.Sequence, "row": proof.Row},
		"the row was in the audit log of %s when it was archived:\n%s\n", m.Month, proof.Row)
}

func (c *cli) auditProve() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use: "prove EVENT_ID", Short: "Prove that an event is in the archive",
		Long: "prove prints, as JSON, a row of the archive with the path of hashes that leads to its month's signed Merkle root. Check it with\n" +
			"fdc audit verify --proof FILE --public-key FILE, which needs nothing else.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !events.ValidID(args[0]) {
				return usage("want the id of one event")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withAudit(cmd.Context(), func(ctx context.Context, t *auditTools) error {
				key, err := t.public(keyFile)
				if err != nil {
					return err
				}
				proof, err := archive.Prove(ctx, t.storage, key, args[0])
				if err != nil {
					return err
				}
				return c.printJSON(proof)
			})
		},
	}
	cmd.Flags().StringVar(&keyFile, "public-key", "", "a file with the Ed25519 public key, PEM or base64")
	return cmd
}

func (c *cli) auditRebuild() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "rebuild YYYY-MM", Short: "Bring a month of the log in line with the stream EVENTS", Args: monthArg,
		Long: "rebuild compares a month of the audit log with the events that the stream still holds: rows that are missing are added, rows that\n" +
			"say something else are replaced. Rows without an event stay: the stream forgets, the log doesn't. Without --yes it prints what differs.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withAudit(cmd.Context(), func(ctx context.Context, t *auditTools) error {
				conn, err := postgres.Connect(ctx, t.config.Database, "fdc-audit-rebuild")
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // everything is committed by then
				progress := c.bar()
				r, err := audit.Rebuild(ctx, conn, t.js, c.operatorMeta(), args[0], yes, progress.tell)
				progress.end()
				if err != nil {
					return err
				}
				if c.json {
					err = c.printJSON(r)
				} else {
					err = c.printRebuilt(r)
				}
				if err != nil || yes {
					return err
				}
				return c.planned()
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (c *cli) printRebuilt(r audit.Rebuilt) error {
	rows := [][]any{
		{"events in the stream", r.Events},
		{"without a row", r.Missing},
		{"whose row differs", r.Different},
		{"rows without an event", r.Unexplained},
		{"rows written", r.Written},
	}
	if err := c.table("AUDIT LOG OF "+r.Month, []any{"", ""}, rows); err != nil || len(r.Examples) == 0 {
		return err
	}
	return c.printf("  such as %s\n", strings.Join(r.Examples, " "))
}

func (c *cli) auditExport() *cobra.Command {
	var f audit.Filter
	var from, to, format, file string
	cmd := &cobra.Command{
		Use: "export", Short: "Write entries of the audit log to a file or to standard output, newest first",
		Long: "export writes what matches as NDJSON or CSV. It refuses when a part of the time asked for is in the archive, and names the months to\n" +
			"restore. That somebody exported is put on record.",
		Example: "  fdc audit export --workspace 0198a000-0000-7000-8000-000000000001 --from 2026-01-01 --format csv --out audit.csv",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("audit export takes no arguments")
			}
			if !slices.Contains(service.ExportFormats, format) {
				return usage("--format must be one of %s", strings.Join(service.ExportFormats, ", "))
			}
			if file == "" && cmd.Flags().Changed("out") {
				return usage("--out is empty")
			}
			if f.WorkspaceID != "" && !events.ValidID(f.WorkspaceID) {
				return usage("--workspace: %.64q is no id of a workspace", f.WorkspaceID)
			}
			for _, of := range []struct {
				flag, text string
				at         *time.Time
			}{{"--from", from, &f.From}, {"--to", to, &f.To}} {
				if of.text == "" {
					continue
				}
				var err error
				if *of.at, err = parseMoment(of.text); err != nil {
					return usage("%s: %w", of.flag, err)
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			config, err := c.operator()
			if err != nil {
				return err
			}
			pool, err := openDatabase(ctx, config, "fdc-audit")
			if err != nil {
				return err
			}
			defer pool.Close()
			export := func(w io.Writer) error {
				progress := c.bar()
				rows, err := service.ExportAudit(ctx, audit.NewLog(outbox.New(pool, nil)), c.operatorMeta(), f, format, w, func(done int64) {
					progress.tell("exporting", done, 0)
				})
				progress.end()
				if err == nil {
					fmt.Fprintf(c.stderr, "%d entries exported\n", rows) //nolint:errcheck // it is no part of the result
				}
				return err
			}
			if file == "" {
				return export(c.stdout)
			}
			return outFile{name: file}.write(func(f *os.File) error { return export(f) })
		},
	}
	cmd.Flags().StringVar(&f.WorkspaceID, "workspace", "", "only this workspace, by id")
	cmd.Flags().StringVar(&from, "from", "", "the first moment, an RFC 3339 time or a date")
	cmd.Flags().StringVar(&to, "to", "", "the moment to stop before")
	cmd.Flags().StringVar(&f.ActorID, "actor", "", "only what this user did, by id; or system, anonymous, operator:NAME, or operator for all of them")
	cmd.Flags().StringVar(&f.Action, "action", "", "only this action, such as task.created")
	cmd.Flags().StringVar(&format, "format", "ndjson", "ndjson or csv")
	cmd.Flags().StringVar(&file, "out", "", outHelp)
	return cmd
}

func parseMoment(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%.64q is no time; want RFC 3339, or YYYY-MM-DD", text)
}
