package archive

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// vault is a log with months to archive, and a folder for the archive.
type vault struct {
	t   *testing.T
	db  *pgtest.DB
	dir string
	*Archiver
	public ed25519.PublicKey
}

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{t: t, db: ensured(t), dir: filepath.Join(t.TempDir(), "archive")}
	storage, err := OpenDir(v.dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, storage.Close()) })
	v.Archiver = v.archiver(storage)
	public, ok := testKey.Public().(ed25519.PublicKey)
	require.True(t, ok)
	v.public = public
	return v
}

func (v *vault) archiver(storage Storage) *Archiver {
	v.t.Helper()
	return NewArchiver(Config{
		Database: postgres.Config{URL: v.db.URL, ConnectTimeout: patience}, Storage: storage, Key: testKey, Retention: 24,
		Log: zerolog.New(zerolog.NewTestWriter(v.t)).Level(zerolog.WarnLevel),
	})
}

// fill writes n rows of a month, with all that a row may hold.
func (v *vault) fill(month string, n int) {
	v.t.Helper()
	m, err := audit.ParseMonth(month)
	require.NoError(v.t, err)
	list := make([]events.Event, n)
	for i := range list {
		list[i] = taskEvent(m.Start().Add(time.Duration(i) * 7 * time.Second))
		switch i % 4 {
		case 1:
			list[i].UserAgent = "quotes \" and \\ and \u2028 and 日本 and <tags>&"
		case 2:
			list[i] = events.New(events.Meta{Source: "/fdc/test", ActorID: events.SystemActor}, "", events.AuditPartitionCreated{Month: "2026-01"})
			list[i].Time = m.Start().Add(time.Duration(i) * 7 * time.Second)
		}
	}
	record(v.t, v.db.Pool, list...)
}

// sum is what is in January: its rows, in order.
func (v *vault) sum() string {
	v.t.Helper()
	m, err := audit.ParseMonth("2024-01")
	require.NoError(v.t, err)
	var sum string
	require.NoError(v.t, v.db.Pool.QueryRow(v.t.Context(), `
		SELECT count(*) || ' ' || coalesce(md5(string_agg(a::text, E'\n' ORDER BY occurred_at, event_id)), '') FROM audit_logs a
		WHERE occurred_at >= $1 AND occurred_at < $2`, m.Start(), m.Add(1).Start()).Scan(&sum))
	return sum
}

func (v *vault) state(month string) string {
	v.t.Helper()
	list, err := audit.Partitions(v.t.Context(), v.db.Pool)
	require.NoError(v.t, err)
	for _, p := range list {
		if p.Month == month {
			return p.State
		}
	}
	return ""
}

func (v *vault) verified() Report {
	v.t.Helper()
	report, err := Verify(v.t.Context(), v.Storage, v.public, "", nil)
	require.NoError(v.t, err)
	return report
}

// A month goes to the archive, is verified there, leaves the database, and comes back as it was.
func TestArchiveAndRestore(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.fill("2024-01", 9001)
	v.fill("2024-02", 3)
	before := v.sum()
	first, err := v.Archive(t.Context(), "2024-01", nil)
	require.NoError(t, err)
	require.EqualValues(t, 9001, first.Rows)
	second, err := v.Archive(t.Context(), "2024-02", nil)
	require.NoError(t, err)
	require.EqualValues(t, 2, second.Sequence)
	require.Equal(t, audit.StateArchived, v.state("2024-01"))
	report := v.verified()
	require.Empty(t, report.Findings)
	require.EqualValues(t, 9004, report.Rows)
	require.Equal(t, []Manifest{first, second}, report.Months)
	require.Nil(t, (&History{Head: Head{Sequence: 2, SHA256: second.digest}}).Cut(report.Months))
	require.NotNil(t, (&History{Head: Head{Sequence: 2, SHA256: first.digest}}).Cut(report.Months), "another archive")
	require.NotNil(t, (&History{Head: Head{Sequence: 3, SHA256: first.digest}}).Cut(report.Months), "one that was cut")
	require.Equal(t, 2, count(t, v.db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.audit.partition_archived.%'`))

	require.NoError(t, v.Sweep(t.Context()))
	require.Equal(t, 1, count(t, v.db.Pool, `SELECT count(*) FROM pg_class WHERE relname = 'audit_logs_2024_01'`), "not for a day")
	v.now = func() time.Time { return time.Now().Add(DropAfter + time.Minute) }
	require.NoError(t, v.Sweep(t.Context()))
	require.Zero(t, count(t, v.db.Pool, `SELECT count(*) FROM pg_class WHERE relname = 'audit_logs_2024_01'`))
	require.Equal(t, audit.StateArchived, v.state("2024-01"))

	_, err = v.Archive(t.Context(), "2024-01", nil)
	require.Equal(t, fault.Conflict, fault.KindOf(err), "%v", err)
	late := []events.Event{taskEvent(time.Date(2024, time.January, 3, 0, 0, 0, 0, time.UTC)), taskEvent(time.Time{})}
	record(t, v.db.Pool, late...) // an event of an archived month makes no month of its own
	require.Equal(t, 1, count(t, v.db.Pool, `SELECT count(*) FROM audit_logs`))

	back, err := v.Restore(t.Context(), byTest, "2024-01", nil)
	require.NoError(t, err)
	require.Equal(t, first, back)
	require.Equal(t, before, v.sum())
	require.Equal(t, audit.StateRestored, v.state("2024-01"))
	require.Equal(t, 1, count(t, v.db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.audit.partition_restored.%'`))
	require.Zero(t, count(t, v.db.Pool, `SELECT count(*) FROM pg_constraint WHERE conname = '`+boundsConstraint+`'`))
	_, err = v.Restore(t.Context(), byTest, "2024-01", nil)
	require.Equal(t, fault.Conflict, fault.KindOf(err), "%v", err)
	record(t, v.db.Pool, late...) // now it has its place
	grown := v.sum()
	require.NotEqual(t, before, grown)

	require.NoError(t, v.Sweep(t.Context()))
	require.Equal(t, audit.StateRestored, v.state("2024-01"), "it stays for a while")
	v.now = func() time.Time { return time.Now().Add(KeepRestored + time.Minute) }
	require.NoError(t, v.Sweep(t.Context()))
	require.Equal(t, audit.StateArchived, v.state("2024-01"))
	report = v.verified()
	require.Empty(t, report.Findings)
	require.Len(t, report.Months, 3, "it has grown: a manifest of its own")
	_, err = v.Restore(t.Context(), byTest, "2024-01", nil)
	require.NoError(t, err)
	require.Equal(t, grown, v.sum())

	v.now = time.Now
	for name, kind := range map[string]fault.Kind{"2019-01": fault.NotFound, "2024-13": fault.Invalid, "": fault.Invalid, time.Now().UTC().Format("2006-01"): fault.Conflict} {
		_, err = v.Archive(t.Context(), name, nil)
		require.Equal(t, kind, fault.KindOf(err), "%s: %v", name, err)
	}
	_, err = v.Restore(t.Context(), byTest, "2019-01", nil)
	require.Equal(t, fault.NotFound, fault.KindOf(err))
}

// Whatever step a run is killed at, the next one ends with the same archive, and nothing is lost or doubled.
func TestArchiveKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"detached", "written", "read back", "signed", "recorded", "dropped"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			v := newVault(t)
			v.fill("2024-01", 500)
			before := v.sum()
			killed := errors.New("killed")
			dying := v.archiver(v.Storage)
			dying.now = func() time.Time { return time.Now().Add(DropAfter + time.Minute) }
			dying.reach = func(at string) error {
				if at == step {
					return killed
				}
				return nil
			}
			require.ErrorIs(t, dying.Sweep(t.Context()), killed)
			v.now = dying.now
			require.NoError(t, v.Sweep(t.Context()))
			require.NoError(t, v.Sweep(t.Context()))
			require.Zero(t, count(t, v.db.Pool, `SELECT count(*) FROM pg_class WHERE relname = 'audit_logs_2024_01'`))
			report := v.verified()
			require.Empty(t, report.Findings)
			require.Len(t, report.Months, 1)
			require.EqualValues(t, 500, report.Rows)
			require.Equal(t, 1, count(t, v.db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.audit.partition_archived.%'`))

			dying.reach = func(at string) error {
				if at == "loaded" {
					return killed
				}
				return nil
			}
			_, err := dying.Restore(t.Context(), byTest, "2024-01", nil)
			require.ErrorIs(t, err, killed)
			require.Equal(t, audit.StateArchived, v.state("2024-01"))
			_, err = v.Restore(t.Context(), byTest, "2024-01", nil)
			require.NoError(t, err)
			require.Equal(t, before, v.sum())
		})
	}
}

// A detach that was broken off half-way is finished.
func TestArchiveAfterAHalfDetach(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.fill("2024-01", 10)
	reader, err := v.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), `SELECT FROM audit_logs WHERE occurred_at < '2024-02-01'`)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := v.Archive(ctx, "2024-01", nil)
		ended <- err
	}()
	require.Eventually(t, func() bool { return v.state("2024-01") == audit.StateDetaching }, patience, time.Millisecond)
	cancel()
	require.Error(t, <-ended)
	require.Equal(t, audit.StateDetaching, v.state("2024-01"))
	require.NoError(t, reader.Rollback(t.Context()))
	require.Eventually(t, func() bool { return !errors.Is(v.Sweep(t.Context()), errBusy) }, patience, 10*time.Millisecond, "the lock goes with its connection")
	require.Equal(t, audit.StateArchived, v.state("2024-01"))
	require.Empty(t, v.verified().Findings)
}

// broken is a storage that fails at some of its calls.
type broken struct {
	Storage
	put  func(key string) error // nil: it works
	open func(key string, r io.ReadCloser) (io.ReadCloser, error)
}

func (b *broken) Put(ctx context.Context, key string, r io.Reader) error {
	if b.put != nil {
		if err := b.put(key); err != nil {
			_, _ = io.CopyN(io.Discard, r, 100) // the disk is full somewhere in the middle
			return err
		}
	}
	return b.Storage.Put(ctx, key, r)
}

func (b *broken) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := b.Storage.Open(ctx, key)
	if err == nil && b.open != nil {
		return b.open(key, r)
	}
	return r, err
}

// Trouble with the storage drops nothing, says what it is, and is over when the storage works again.
func TestArchiveWithoutStorage(t *testing.T) {
	t.Parallel()
	full := unavailable(errors.New("no space left on device"))
	for name, storage := range map[string]*broken{
		"rows":     {put: func(key string) error { return failAt(key, rowsFile, full) }},
		"leaves":   {put: func(key string) error { return failAt(key, leavesFile, full) }},
		"manifest": {put: func(key string) error { return failAt(key, manifestFile, full) }},
		"not what was written": {open: func(key string, r io.ReadCloser) (io.ReadCloser, error) {
			if !strings.HasSuffix(key, rowsFile) {
				return r, nil
			}
			return struct {
				io.Reader
				io.Closer
			}{io.LimitReader(r, 200), r}, nil
		}},
		"manifest gone before the drop": {open: func(key string, r io.ReadCloser) (io.ReadCloser, error) {
			if !strings.HasSuffix(key, manifestFile) {
				return r, nil
			}
			return nil, errors.Join(r.Close(), unavailable(errors.New("no route to host")))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t)
			v.fill("2024-01", 300)
			before := v.sum()
			storage.Storage = v.Storage
			bad := v.archiver(storage)
			bad.now = func() time.Time { return time.Now().Add(DropAfter + time.Minute) }
			err := bad.Sweep(t.Context())
			require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
			require.Equal(t, 1, count(t, v.db.Pool, `SELECT count(*) FROM pg_class WHERE relname = 'audit_logs_2024_01'`), "nothing is dropped")
			v.now = bad.now
			require.NoError(t, v.Sweep(t.Context()))
			require.Empty(t, v.verified().Findings)
			_, err = v.Restore(t.Context(), byTest, "2024-01", nil)
			require.NoError(t, err)
			require.Equal(t, before, v.sum())
		})
	}
}

func failAt(key, file string, err error) error {
	if strings.HasSuffix(key, file) {
		return err
	}
	return nil
}

// A database that has forgotten what it archived does not write over it.
func TestArchiveAheadOfTheDatabase(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.fill("2024-01", 5)
	v.fill("2024-02", 5)
	_, err := v.Archive(t.Context(), "2024-01", nil)
	require.NoError(t, err)
	_, err = v.db.Pool.Exec(t.Context(), `DELETE FROM audit_archives`)
	require.NoError(t, err)
	_, err = v.Archive(t.Context(), "2024-02", nil)
	require.Equal(t, fault.Conflict, fault.KindOf(err), "%v", err)
	require.Empty(t, v.verified().Findings)
	require.Equal(t, audit.StateDetached, v.state("2024-02"))
}

const one, two, three = "000001-2024-01", "000002-2024-02", "000003-2024-03"

// rows reads the file of two as lines, and rewrite puts others in their place.
func (v *vault) rows() []string {
	v.t.Helper()
	zr, err := zstd.NewReader(bytes.NewReader(v.read(two + "/" + rowsFile)))
	require.NoError(v.t, err)
	defer zr.Close()
	text, err := io.ReadAll(zr)
	require.NoError(v.t, err)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func (v *vault) rewrite(lines []string) {
	v.t.Helper()
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	require.NoError(v.t, err)
	v.put(two+"/"+rowsFile, zw.EncodeAll([]byte(strings.Join(lines, "\n")+"\n"), nil))
	require.NoError(v.t, zw.Close())
}

func (v *vault) put(name string, body []byte) {
	v.t.Helper()
	require.NoError(v.t, os.WriteFile(filepath.Join(v.dir, name), body, 0o600))
}

func (v *vault) read(name string) []byte {
	v.t.Helper()
	body, err := os.ReadFile(filepath.Join(v.dir, name)) //nolint:gosec // a test's own
	require.NoError(v.t, err)
	return body
}

// Every way to change an archive is found, and the first row that is wrong is named.
func TestTampering(t *testing.T) {
	t.Parallel()
	event := func(line string) string { return eventOf([]byte(line)) }
	for name, tamper := range map[string]func(v *vault, lines []string) (want Finding){
		"a row edited": func(v *vault, l []string) Finding {
			v.rewrite(slices.Concat(l[:41], []string{strings.Replace(l[41], "task.created", "task.deleted", 1)}, l[42:]))
			return Finding{Row: 42, EventID: event(l[41]), Problem: "not as it was archived"}
		},
		"a row taken out": func(v *vault, l []string) Finding {
			v.rewrite(slices.Concat(l[:41], l[42:]))
			return Finding{Row: 42, Problem: "missing"}
		},
		"a row put in": func(v *vault, l []string) Finding {
			v.rewrite(slices.Insert(slices.Clone(l), 41, l[0]))
			return Finding{Row: 42, EventID: event(l[0]), Problem: "was not there"}
		},
		"two rows changed about": func(v *vault, l []string) Finding {
			l = slices.Clone(l)
			l[41], l[49] = l[49], l[41]
			v.rewrite(l)
			return Finding{Row: 42, EventID: event(l[41]), Problem: "not as it was archived"}
		},
		"the end cut off": func(v *vault, l []string) Finding {
			v.rewrite(l[:100])
			return Finding{Row: 101, Problem: "missing"}
		},
		"the end cut off with its hashes": func(v *vault, l []string) Finding {
			v.rewrite(l[:100])
			v.put(two+"/"+leavesFile, v.read(two + "/" + leavesFile)[:100*sha256.Size])
			return Finding{Problem: "not those that were signed for"}
		},
		"more at the end": func(v *vault, l []string) Finding {
			v.rewrite(append(slices.Clone(l), l[0]))
			return Finding{Row: int64(len(l)) + 1, EventID: event(l[0]), Problem: "was not there"}
		},
		"a byte of the file": func(v *vault, _ []string) Finding {
			body := v.read(two + "/" + rowsFile)
			body[len(body)/2] ^= 1
			v.put(two+"/"+rowsFile, body)
			return Finding{Row: -1}
		},
		"the file cut": func(v *vault, _ []string) Finding {
			body := v.read(two + "/" + rowsFile)
			v.put(two+"/"+rowsFile, body[:len(body)/2])
			return Finding{Row: -1}
		},
		"a hash": func(v *vault, _ []string) Finding {
			body := v.read(two + "/" + leavesFile)
			body[33] ^= 1
			v.put(two+"/"+leavesFile, body)
			return Finding{Problem: "its rows are right, but the hashes"}
		},
		"packed anew": func(v *vault, l []string) Finding {
			v.rewrite(l)
			return Finding{Problem: "not byte for byte"}
		},
		"the manifest": func(v *vault, _ []string) Finding {
			v.put(two+"/"+manifestFile, bytes.Replace(v.read(two+"/"+manifestFile), []byte(`"rows": 200`), []byte(`"rows": 201`), 1))
			return Finding{Problem: "signature"}
		},
		"the signature": func(v *vault, _ []string) Finding {
			v.put(two+"/"+signatureFile, v.read(one+"/"+signatureFile))
			return Finding{Problem: "signature"}
		},
		"another month's files": func(v *vault, _ []string) Finding {
			for _, file := range []string{rowsFile, leavesFile, manifestFile, signatureFile} {
				v.put(two+"/"+file, v.read(one+"/"+file))
			}
			return Finding{Problem: "is that of 2024-01"}
		},
		"a month taken out": func(v *vault, _ []string) Finding {
			require.NoError(v.t, os.RemoveAll(filepath.Join(v.dir, two)))
			return Finding{Problem: "the month with the number 2 is missing"}
		},
		"the first month taken out": func(v *vault, _ []string) Finding {
			require.NoError(v.t, os.RemoveAll(filepath.Join(v.dir, one)))
			return Finding{Sequence: 1, Problem: "the month with the number 1 is missing"}
		},
		"a file taken out": func(v *vault, _ []string) Finding {
			require.NoError(v.t, os.Remove(filepath.Join(v.dir, two, leavesFile)))
			return Finding{Problem: "missing"}
		},
		"a month put in between": func(v *vault, _ []string) Finding {
			m := Manifest{Format: manifestFormat, Sequence: 2, Month: "2024-02", MerkleRoot: newTree().root().String()}
			s, err := signManifest(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), m)
			require.NoError(v.t, err)
			v.put(two+"/"+manifestFile, s.raw)
			return Finding{Problem: "signature"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := sealed(t)
			want := tamper(v, v.rows())
			report := v.verified()
			require.NotEmpty(t, report.Findings)
			got := report.Findings[0]
			if want.Row < 0 {
				require.Positive(t, got.Row, "%v", got)
				return
			}
			require.Equal(t, want.Row, got.Row, "%v", got.String())
			require.Equal(t, want.EventID, got.EventID, "%v", got.String())
			require.Contains(t, got.Problem, want.Problem)
			if want.Sequence == 0 {
				require.EqualValues(t, 2, got.Sequence)
			}
		})
	}
	v := sealed(t)
	report, err := Verify(t.Context(), v.Storage, make(ed25519.PublicKey, ed25519.PublicKeySize), "", nil)
	require.NoError(t, err)
	require.Len(t, report.Findings, 3, "another key")
	require.NoError(t, os.RemoveAll(filepath.Join(v.dir, three)))
	require.Empty(t, v.verified().Findings, "a chain that is cut at its end is one that has not grown")
}

// sealed is a vault with a copy of an archive of three months; none has a database.
func sealed(t *testing.T) *vault {
	t.Helper()
	v := &vault{t: t, dir: filepath.Join(t.TempDir(), "copy")}
	public, ok := testKey.Public().(ed25519.PublicKey)
	require.True(t, ok)
	v.public = public
	storage, err := OpenDir(v.dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, storage.Close()) })
	var previous *signed
	for n := range 3 {
		m := Manifest{Format: manifestFormat, Sequence: int64(n) + 1, Month: fmt.Sprintf("2024-%02d", n+1)}
		if previous != nil {
			m.Previous = previous.name()
		}
		var lines, leaves bytes.Buffer
		tr := newTree()
		for i := range 200 {
			r, err := audit.RowOf(taskEvent(time.Date(2024, time.Month(n+1), 1, 0, i, 0, 0, time.UTC)))
			require.NoError(t, err)
			line := appendRow(nil, &r)
			leaf := tr.leaf(line)
			tr.add(leaf)
			leaves.Write(leaf[:])
			lines.Write(append(line, '\n'))
		}
		zw, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		packed := zw.EncodeAll(lines.Bytes(), nil)
		require.NoError(t, zw.Close())
		m.Rows, m.Bytes, m.MerkleRoot = 200, int64(len(packed)), tr.root().String()
		m.SHA256, m.LeavesSHA256 = digest(sha256.Sum256(packed)).String(), digest(sha256.Sum256(leaves.Bytes())).String()
		s, err := signManifest(testKey, m)
		require.NoError(t, err)
		dir := folder(m.Sequence, m.Month)
		for file, body := range map[string][]byte{rowsFile: packed, leavesFile: leaves.Bytes(), manifestFile: s.raw} {
			require.NoError(t, storage.Put(t.Context(), dir+file, bytes.NewReader(body)))
		}
		require.NoError(t, storage.Put(t.Context(), dir+signatureFile, strings.NewReader(s.signatureText())))
		previous = s
	}
	v.Archiver = &Archiver{Config: Config{Storage: storage}}
	return v
}

// A row is proved to whoever has the key, and nothing else is.
func TestProve(t *testing.T) {
	t.Parallel()
	v := sealed(t)
	lines := v.rows()
	for _, i := range []int{0, 1, 99, 127, 128, 198, 199} {
		id := eventOf([]byte(lines[i]))
		p, err := Prove(t.Context(), v.Storage, v.public, id)
		require.NoError(t, err)
		text, err := json.Marshal(p)
		require.NoError(t, err)
		p, err = ParseProof(text)
		require.NoError(t, err)
		m, err := p.Check(v.public)
		require.NoError(t, err)
		require.Equal(t, "2024-02", m.Month)
		require.Equal(t, lines[i], p.Row)
		for what, change := range map[string]func(p *Proof){
			"row":       func(p *Proof) { p.Row = lines[50] },
			"index":     func(p *Proof) { p.Index ^= 1 },
			"far index": func(p *Proof) { p.Index = 1 << 40 },
			"path":      func(p *Proof) { p.Path = p.Path[1:] },
			"longer":    func(p *Proof) { p.Path = append(p.Path, p.Path[0]) },
			"no hash":   func(p *Proof) { p.Path[0] = "x" },
			"manifest":  func(p *Proof) { p.Manifest = bytes.Replace(p.Manifest, []byte("2024-02"), []byte("2024-03"), 1) },
			"signature": func(p *Proof) { p.Signature[0] ^= 1 },
		} {
			bad, err := ParseProof(text)
			require.NoError(t, err)
			change(bad)
			_, err = bad.Check(v.public)
			require.Error(t, err, what)
		}
	}
	_, err := Prove(t.Context(), v.Storage, v.public, events.NewID())
	require.Equal(t, fault.NotFound, fault.KindOf(err))
	_, err = Prove(t.Context(), v.Storage, v.public, "x")
	require.Equal(t, fault.Invalid, fault.KindOf(err))
}

// Trees of all small sizes: every path leads to the root, and to no other.
func TestMerkleTree(t *testing.T) {
	t.Parallel()
	h := newHasher()
	var leaves []digest
	// By the definition in RFC 9162, 2.1.1.
	var root func(l []digest) digest
	root = func(l []digest) digest {
		if len(l) == 1 {
			return l[0]
		}
		k := 1
		for k*2 < len(l) {
			k *= 2
		}
		return h.node(root(l[:k]), root(l[k:]))
	}
	require.Equal(t, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", newTree().root().String())
	tr := newTree()
	for size := uint64(1); size <= 70; size++ {
		leaf := h.leaf([]byte{byte(size)})
		leaves = append(leaves, leaf)
		tr.add(leaf)
		require.Equal(t, root(leaves), tr.root())
		for i := range size {
			var path []digest
			for _, of := range siblings(i, size) {
				path = append(path, root(leaves[of.from:of.to]))
			}
			require.NoError(t, checkPath(leaves[i], i, size, path, tr.root()))
			require.Error(t, checkPath(h.leaf(nil), i, size, path, tr.root()))
		}
	}
}

func FuzzParseRow(f *testing.F) {
	r, err := audit.RowOf(taskEvent(time.Date(2024, time.May, 1, 0, 0, 0, 0, time.UTC)))
	require.NoError(f, err)
	f.Add(appendRow(nil, &audit.Row{EventID: r.EventID, OccurredAt: r.OccurredAt, ActorID: "a \"b\"", Changes: `{"a": 1}`}))
	f.Add([]byte(`{"eventId":null}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRow(line)
		if err == nil {
			require.Equal(t, string(line), string(appendRow(nil, &r)))
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	s, err := signManifest(testKey, Manifest{Format: 1, Sequence: 1, Month: "2024-01"})
	require.NoError(f, err)
	f.Add(s.raw, s.signature)
	f.Fuzz(func(t *testing.T, raw, signature []byte) {
		public, ok := testKey.Public().(ed25519.PublicKey)
		require.True(t, ok)
		if _, err := parseManifest(public, raw, signature); err == nil {
			require.Equal(t, s.raw, raw)
		}
		again := sign(testKey, signedManifest, raw)
		_, _ = parseManifest(public, raw, again) // one that is signed may still be nonsense
	})
}

func FuzzProof(f *testing.F) {
	f.Add([]byte(`{"manifest":"e30=","signature":"","index":0,"row":"","path":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		public, ok := testKey.Public().(ed25519.PublicKey)
		require.True(t, ok)
		if p, err := ParseProof(text); err == nil {
			_, err := p.Check(public)
			require.Error(t, err)
		}
	})
}
