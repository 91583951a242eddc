package archive

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

const (
	// archiveLock is the advisory lock of the one process that archives or restores.
	archiveLock = 0x0fdc_a0d4

	// frameRows is how many rows are compressed together: so many at most can't be read when a byte of the file goes bad.
	frameRows = 4096

	archiveEvery = time.Hour
	archiveRetry = time.Minute
	// DropAfter is how long the table of an archived month stays, detached, before it is dropped.
	DropAfter = 24 * time.Hour
	// KeepRestored is how long a restored month stays before it goes to the archive again by itself.
	KeepRestored = 30 * 24 * time.Hour
)

// Config is what an Archiver needs.
type Config struct {
	Database  postgres.Config
	Storage   Storage // nil when Run opens it
	Key       ed25519.PrivateKey
	By        events.Meta // of what it records; zero: the audit-archiver by itself
	Retention int         // months after the current one's that stay in the log
	Log       zerolog.Logger
	Metrics   prometheus.Registerer // nil for a command
}

// Archiver moves months between the log and the archive, over connections of its own: one at a time in a whole system. Whatever step
// it is killed at, the next run goes on from what is there.
type Archiver struct {
	Config
	now    func() time.Time
	reach  func(step string) error // called after each step; tests make it fail
	every  time.Duration
	failed prometheus.Counter
}

// NewArchiver returns an Archiver.
func NewArchiver(c Config) *Archiver {
	a := &Archiver{
		Config: c, now: time.Now, reach: func(string) error { return nil }, every: archiveEvery,
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "audit_archive_failures_total", Help: "Attempts to archive or to drop a month that failed.",
		}),
	}
	if a.By.ActorID == "" {
		a.By = events.Meta{Source: audit.Source, ActorID: events.SystemActor}
	}
	a.Log = c.Log.With().Str("component", "audit").Logger()
	if c.Metrics != nil {
		c.Metrics.MustRegister(a.failed)
	}
	return a
}

// Run opens the storage and archives what is due, every hour, until ctx ends; then it closes it. A storage that can't be opened is
// tried again every minute. Run it in every copy: who finds another at it lets it.
func (a *Archiver) Run(ctx context.Context, open func(context.Context) (Storage, error)) error {
	storage, err := open(ctx)
	for ; err != nil; storage, err = open(ctx) {
		a.note(ctx, err)
		if !pause(ctx, archiveRetry) {
			return nil
		}
	}
	a.Storage = storage
	for {
		a.note(ctx, a.Sweep(ctx))
		if !pause(ctx, a.every) {
			return storage.Close()
		}
	}
}

// note counts and logs a failure.
func (a *Archiver) note(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, errBusy) {
		a.failed.Inc()
		a.Log.Error().Err(err).Msg("audit archive failed; nothing is dropped, and it is tried again")
	}
}

// pause reports whether the time has passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Sweep archives the months that are due, the oldest first, and drops the tables of those that have been for long enough. One that
// fails keeps none of the others.
func (a *Archiver) Sweep(ctx context.Context) error {
	return a.alone(ctx, func(conn *pgx.Conn) error {
		list, err := audit.Partitions(ctx, conn)
		if err != nil {
			return err
		}
		restored, err := restoredSince(ctx, conn, a.now().Add(-KeepRestored))
		if err != nil {
			return err
		}
		var failed []error
		before := audit.MonthOf(a.now()).Add(-a.Retention)
		for _, p := range list {
			m, err := audit.ParseMonth(p.Month)
			if err != nil {
				return err
			}
			switch p.State {
			case audit.StateArchived:
				continue
			case audit.StateAttached, audit.StateRestored:
				if !m.Before(before) || p.State == audit.StateRestored && restored[p.Month] {
					continue
				}
			default: // half-way out of the log: somebody was interrupted
			}
			if _, err := a.archive(ctx, conn, p.Month, nil); err != nil {
				failed = append(failed, err)
			}
		}
		return errors.Join(append(failed, a.drop(ctx, conn))...)
	})
}

// errBusy says that another process is at it.
var errBusy = fault.New(fault.Conflict, "audit-archive-busy", "Another archive or restore is under way; try again when it has ended.")

// alone runs fn with a direct connection, and the right to move months.
func (a *Archiver) alone(ctx context.Context, fn func(*pgx.Conn) error) error {
	conn, err := postgres.Connect(ctx, a.Database, "fdc-audit-archive")
	if err != nil {
		return err
	}
	defer postgres.HangUp(ctx, conn)
	var mine bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, archiveLock).Scan(&mine); err != nil {
		return fmt.Errorf("try archive lock: %w", err)
	}
	if !mine {
		return errBusy
	}
	defer func() { // before the connection's end, which the server may notice later than we say that we are done
		unlockCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = conn.Exec(unlockCtx, `SELECT pg_advisory_unlock($1)`, archiveLock)
	}()
	return fn(conn)
}

// Archive takes a month out of the log and into the archive. Its table is dropped by a later Sweep.
func (a *Archiver) Archive(ctx context.Context, month string, progress audit.Progress) (m Manifest, err error) {
	err = a.alone(ctx, func(conn *pgx.Conn) error {
		m, err = a.archive(ctx, conn, month, progress)
		return err
	})
	return m, err
}

// Archivable reports what speaks against archiving a month.
func (a *Archiver) Archivable(ctx context.Context, q postgres.Querier, name string) (audit.Partition, error) {
	m, err := audit.ParseMonth(name)
	if err != nil {
		return audit.Partition{}, fault.New(fault.Invalid, "invalid", "%v.", err)
	}
	if current := audit.MonthOf(a.now()); !m.Before(current) {
		return audit.Partition{}, fault.New(fault.Conflict, "audit-month-open", "%s is not over yet.", name)
	}
	list, err := audit.Partitions(ctx, q)
	if err != nil {
		return audit.Partition{}, err
	}
	for _, p := range list {
		if p.Month == name && p.State == audit.StateArchived {
			return p, fault.New(fault.Conflict, "audit-month-archived", "%s is in the archive already.", name)
		}
		if p.Month == name {
			return p, nil
		}
	}
	return audit.Partition{}, fault.New(fault.NotFound, "not-found", "There is no %s in the audit log.", name)
}

func (a *Archiver) archive(ctx context.Context, conn *pgx.Conn, name string, progress audit.Progress) (Manifest, error) {
	p, err := a.Archivable(ctx, conn, name)
	if err != nil {
		return Manifest{}, err
	}
	m, err := audit.ParseMonth(name)
	if err != nil {
		return Manifest{}, err
	}
	if _, _, err := a.maySign(ctx, conn); err != nil {
		return Manifest{}, fmt.Errorf("archive %s: %w", name, err)
	}
	started := a.now()
	if err := a.step("detached", func() error { return detach(ctx, conn, m, p.State) }); err != nil {
		return Manifest{}, fmt.Errorf("archive %s: %w", name, err)
	}
	s, err := a.store(ctx, conn, m, p.Rows, progress)
	if err != nil {
		return Manifest{}, fmt.Errorf("archive %s: %w", name, err)
	}
	a.Log.Info().Str("month", name).Int64("rows", s.Rows).Int64("bytes", s.Bytes).Dur("took", a.now().Sub(started)).Msg("audit month archived")
	return s.Manifest, nil
}

// step runs a part of the work and then says that it was reached.
func (a *Archiver) step(name string, run func() error) error {
	if err := run(); err != nil {
		return err
	}
	return a.reach(name)
}

// detach takes the month's table out of the log without standing in anybody's way. It goes on with a detach that was broken off.
func detach(ctx context.Context, conn *pgx.Conn, m audit.Month, state string) error {
	how := map[string]string{audit.StateAttached: "CONCURRENTLY", audit.StateRestored: "CONCURRENTLY", audit.StateDetaching: "FINALIZE"}[state]
	if how == "" {
		return nil
	}
	_, err := conn.Exec(ctx, `ALTER TABLE audit_logs DETACH PARTITION `+pgx.Identifier{m.Table()}.Sanitize()+` `+how)
	if err != nil {
		return fmt.Errorf("detach %s: %w", m.Table(), err)
	}
	return nil
}

// store writes a detached month to the archive, reads it back, signs for it, and puts it on record.
func (a *Archiver) store(ctx context.Context, conn *pgx.Conn, m audit.Month, estimate int64, progress audit.Progress) (*signed, error) {
	last, err := lastManifest(ctx, conn, "")
	if err != nil {
		return nil, err
	}
	manifest := Manifest{Format: manifestFormat, Sequence: 1, Month: m.String()}
	if last != nil {
		manifest.Sequence, manifest.Previous = last.Sequence+1, last.name()
	}
	dir := folder(manifest.Sequence, manifest.Month)
	if err := a.ours(ctx, dir, manifest); err != nil {
		return nil, err
	}
	err = a.step("written", func() error { return a.write(ctx, conn, m, dir, &manifest, estimate, progress) })
	if err != nil {
		return nil, err
	}
	err = a.step("read back", func() error {
		found, err := verifyMonth(ctx, a.Storage, &manifest, func(done int64) { progress.Report("reading back", done, manifest.Rows) })
		if err == nil && found != nil {
			err = fault.New(fault.Unavailable, "archive-unavailable", "The archive does not hold what was written to it: %s.", found)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s, err := signManifest(a.Key, manifest)
	if err != nil {
		return nil, err
	}
	err = a.step("signed", func() error {
		return errors.Join(
			a.Storage.Put(ctx, dir+manifestFile, bytes.NewReader(s.raw)),
			a.Storage.Put(ctx, dir+signatureFile, strings.NewReader(s.signatureText())),
			a.Storage.Put(ctx, publicKeyFile, bytes.NewReader(PublicKeyPEM(a.Key))),
		)
	})
	if err != nil {
		return nil, err
	}
	return s, a.step("recorded", func() error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := insertManifest(ctx, tx, s); err != nil {
				return err
			}
			return outbox.Append(ctx, tx, events.New(a.By, "", events.AuditPartitionArchived{
				Month: s.Month, Rows: s.Rows, Bytes: s.Bytes, SHA256: s.SHA256, MerkleRoot: s.MerkleRoot,
			}))
		})
	})
}

// ours makes sure that a place in the chain isn't taken: a database that was restored to a state of the past doesn't know what it has
// archived since. What a run of the same month has left is ours to replace.
func (a *Archiver) ours(ctx context.Context, dir string, m Manifest) error {
	keys, err := a.Storage.Keys(ctx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		part := folderPattern.FindStringSubmatch(key)
		if part == nil || part[1] != fmt.Sprintf("%06d", m.Sequence) || part[3] != manifestFile {
			continue
		}
		if key == dir+manifestFile {
			continue
		}
		return fault.New(fault.Conflict, "audit-archive-ahead", "The archive has %s, which the database doesn't know of. If the database was "+
			"restored to an earlier state, follow the runbook for that before anything is archived.", key)
	}
	return nil
}

// write streams the rows and their hashes to the archive, and notes in the manifest what went there.
func (a *Archiver) write(ctx context.Context, conn *pgx.Conn, m audit.Month, dir string, manifest *Manifest, estimate int64, progress audit.Progress) error {
	group, groupCtx := errgroup.WithContext(ctx)
	rows, leaves := newUpload(), newUpload()
	for key, u := range map[string]*upload{rowsFile: rows, leavesFile: leaves} {
		group.Go(func() error {
			err := a.Storage.Put(groupCtx, dir+key, u.reader)
			_ = u.reader.CloseWithError(cmp.Or(err, io.ErrClosedPipe)) // who writes on hears why it is in vain
			return err
		})
	}
	group.Go(func() (err error) {
		defer func() {
			rows.close(err)
			leaves.close(err)
		}()
		zw, err := zstd.NewWriter(rows, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(true))
		if err != nil {
			return fmt.Errorf("compress: %w", err)
		}
		t := newTree()
		err = eachRow(groupCtx, conn, pgx.Identifier{m.Table()}.Sanitize(), nil, func(r *audit.Row, line []byte) error {
			if t.size == 0 {
				manifest.First = r.OccurredAt.UTC()
			}
			manifest.Last = r.OccurredAt.UTC()
			leaf := t.leaf(line)
			t.add(leaf)
			if _, err := zw.Write(append(line, '\n')); err != nil {
				return err
			}
			if t.size%frameRows == 0 { // a frame of its own can be read whatever happens to the others
				if err := zw.Close(); err != nil {
					return err
				}
				zw.Reset(rows)
				progress.Report("writing", int64(t.size), estimate) //nolint:gosec // a count of rows
			}
			_, err := leaves.Write(leaf[:])
			return err
		})
		if err != nil {
			return err
		}
		if err := zw.Close(); err != nil {
			return fmt.Errorf("compress: %w", err)
		}
		manifest.Rows, manifest.MerkleRoot = int64(t.size), t.root().String() //nolint:gosec // a count of rows
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	manifest.Bytes, manifest.SHA256, manifest.LeavesSHA256 = rows.size, rows.sum(), leaves.sum()
	return nil
}

// upload is a pipe to the storage that knows what went through.
type upload struct {
	*bufio.Writer
	reader *io.PipeReader
	pipe   *io.PipeWriter
	hash   hash.Hash
	size   int64
}

func newUpload() *upload {
	r, w := io.Pipe()
	u := &upload{reader: r, pipe: w, hash: sha256.New()}
	u.Writer = bufio.NewWriterSize(counted{u}, 256<<10)
	return u
}

// counted is what leaves the buffer.
type counted struct{ u *upload }

func (c counted) Write(b []byte) (int, error) {
	n, err := c.u.pipe.Write(b)
	c.u.hash.Write(b[:n])
	c.u.size += int64(n)
	return n, err
}

// close ends the upload: whole, or broken off.
func (u *upload) close(err error) {
	if err == nil {
		err = u.Flush()
	}
	u.pipe.CloseWithError(err) // nil is the end of the file
}

func (u *upload) sum() string { return fmt.Sprintf("%x", u.hash.Sum(nil)) }

// drop drops the tables of months that have been in the archive for long enough and still are.
func (a *Archiver) drop(ctx context.Context, conn *pgx.Conn) error {
	due, err := droppable(ctx, conn, a.now().Add(-DropAfter))
	if err != nil {
		return err
	}
	var failed []error
	for _, s := range due {
		err := a.step("dropped", func() error {
			raw, err := readObject(ctx, a.Storage, folder(s.Sequence, s.Month)+manifestFile)
			if err == nil && !bytes.Equal(raw, s.raw) {
				err = fault.New(fault.Unavailable, "archive-unavailable", "The archive's manifest of %s is not the one that was written.", s.Month)
			}
			if err != nil {
				return err
			}
			return dropMonth(ctx, conn, s)
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("drop %s: %w", s.Month, err))
			continue
		}
		a.Log.Info().Str("month", s.Month).Msg("audit month dropped; it is in the archive")
	}
	return errors.Join(failed...)
}
