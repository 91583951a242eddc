package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"fdc/internal/audit"
)

// Finding is something that is wrong with an archive.
type Finding struct {
	Sequence int64  `json:"sequence"` // of the manifest; 0 when it is about none
	Month    string `json:"month"`
	Row      int64  `json:"row"`     // from 1; 0 when it is about no row
	EventID  string `json:"eventId"` // of that row, as far as it can be read
	Problem  string `json:"problem"`
}

func (f *Finding) String() string {
	where := ""
	if f.Month != "" {
		where = f.Month + ": "
	}
	if f.Row > 0 {
		where += fmt.Sprintf("row %d", f.Row)
		if f.EventID != "" {
			where += " (event " + f.EventID + ")"
		}
		where += ": "
	}
	return where + f.Problem
}

// Report is what a verification has found. It is good when there are no findings.
type Report struct {
	Months   []Manifest `json:"months"` // those whose manifest is genuine, in the chain's order
	Rows     int64      `json:"rows"`   // looked at
	Added    int64      `json:"added"`  // to live months after the checkpoint of their hour
	Findings []Finding  `json:"findings"`
}

// Verify checks an archive against the public half of the key that signed it, or of one in its chain of keys (see ReadKeys), and needs
// nothing else: the chain of keys, each manifest's signature, that none
// is missing in the chain, and of each month every row. onlyMonth, when not empty, is the one whose rows are read. A chain that was
// cut at its end looks like one that has not grown: compare the last sequence with one that was noted elsewhere, such as a checkpoint.
//
// An error is trouble with reading; what is wrong with the archive is a finding.
func Verify(ctx context.Context, storage Storage, key ed25519.PublicKey, onlyMonth string, progress audit.Progress) (Report, error) {
	report := Report{Months: []Manifest{}, Findings: []Finding{}}
	found := func(f Finding) { report.Findings = append(report.Findings, f) }
	keys, err := ReadKeys(ctx, storage, key)
	if wrong, ok := isWrong(err); ok {
		found(Finding{Problem: wrong})
		return report, nil
	} else if err != nil {
		return report, err
	}
	folders, err := foldersOf(ctx, storage)
	if err != nil {
		return report, err
	}
	var last *signed
	next := int64(1)
	for _, f := range folders {
		switch {
		case f.sequence == next-1 && last != nil:
			found(Finding{Sequence: f.sequence, Month: f.month, Problem: fmt.Sprintf("the archive has two months with the number %d", f.sequence)})
			continue
		case f.sequence == next+1:
			found(Finding{Sequence: next, Problem: fmt.Sprintf("the month with the number %d is missing", next)})
		case f.sequence > next:
			found(Finding{Sequence: next, Problem: fmt.Sprintf("the months with the numbers %d to %d are missing", next, f.sequence-1)})
		}
		next = f.sequence + 1
		s, err := readManifest(ctx, storage, keys.of(f.sequence), f.path)
		if wrong, ok := isWrong(err); ok {
			found(Finding{Sequence: f.sequence, Month: f.month, Problem: "the manifest can't be trusted: " + wrong})
			last = nil
			continue
		} else if err != nil {
			return report, err
		}
		if s.Sequence != f.sequence || s.Month != f.month {
			found(Finding{Sequence: f.sequence, Month: f.month, Problem: fmt.Sprintf("the manifest is that of %s, number %d", s.Month, s.Sequence)})
			last = nil
			continue
		}
		if last != nil && last.Sequence == s.Sequence-1 && s.Previous != last.name() || s.Sequence == 1 && s.Previous != "" {
			found(Finding{Sequence: s.Sequence, Month: s.Month, Problem: "the manifest does not follow the one before it"})
		}
		if problem := keys.wrong(s); problem != "" {
			found(Finding{Sequence: s.Sequence, Month: s.Month, Problem: problem})
		}
		last = s
		report.Months = append(report.Months, s.Manifest)
		if onlyMonth != "" && onlyMonth != s.Month {
			continue
		}
		wrong, err := verifyMonth(ctx, storage, &s.Manifest, func(done int64) { progress.Report(s.Month, done, s.Rows) })
		if err != nil {
			return report, err
		}
		if wrong != nil {
			found(*wrong)
		}
		report.Rows += s.Rows
	}
	if onlyMonth != "" && !slices.ContainsFunc(report.Months, func(m Manifest) bool { return m.Month == onlyMonth }) {
		found(Finding{Month: onlyMonth, Problem: "the archive has no genuine manifest of it"})
	}
	if len(folders) == 0 {
		found(Finding{Problem: "there is no archive here"})
	}
	if n := keys.covers(); n >= next {
		found(Finding{Sequence: n, Problem: fmt.Sprintf("a signing key signed over a month with the number %d, which the archive has not", n)})
	}
	return report, nil
}

// isWrong tells what is wrong with the archive from trouble with reading it.
func isWrong(err error) (problem string, wrong bool) {
	if errors.Is(err, errNoObject) {
		return "a file of it is missing", true
	}
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || isUnavailable(err) {
		return "", false
	}
	return err.Error(), true
}

// place is a folder of the archive.
type place struct {
	sequence int64
	month    string
	path     string
}

func foldersOf(ctx context.Context, storage Storage) ([]place, error) {
	keys, err := storage.Keys(ctx)
	if err != nil {
		return nil, err
	}
	var found []place
	for _, key := range keys {
		part := folderPattern.FindStringSubmatch(key)
		if part == nil || !slices.Contains([]string{rowsFile, leavesFile, manifestFile, signatureFile}, part[3]) {
			continue
		}
		sequence, err := strconv.ParseInt(part[1], 10, 64)
		if err != nil {
			continue // no number that was ever given
		}
		p := place{sequence: sequence, month: part[2], path: part[1] + "-" + part[2] + "/"}
		if !slices.Contains(found, p) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b place) int { return int(a.sequence - b.sequence) })
	return found, nil
}

// maxLine bounds what is taken for a row; an event is half a MiB at most.
const maxLine = 4 << 20

// verifyMonth compares a month's files with its manifest and returns the first thing that is wrong, nil when nothing is.
func verifyMonth(ctx context.Context, storage Storage, m *Manifest, progress func(done int64)) (*Finding, error) {
	found := &Finding{Sequence: m.Sequence, Month: m.Month}
	err := readMonth(ctx, storage, m, progress, func([]byte) error { return nil })
	if err == nil {
		return nil, nil
	}
	if wrong, ok := errors.AsType[*wrongRow](err); ok {
		found.Row, found.EventID, found.Problem = wrong.row, wrong.eventID, wrong.problem
		return found, nil
	}
	if problem, ok := isWrong(err); ok {
		found.Problem = problem
		return found, nil
	}
	return nil, err
}

// wrongRow says which row is the first that isn't as it was archived.
type wrongRow struct {
	row     int64
	eventID string
	problem string
}

func (w *wrongRow) Error() string {
	return (&Finding{Row: w.row, EventID: w.eventID, Problem: w.problem}).String()
}

// readMonth calls fn for every line of a month, and ends well only when all of it is as its manifest says: fn must keep nothing until
// then. What it is given is used again.
func readMonth(ctx context.Context, storage Storage, m *Manifest, progress func(done int64), fn func(line []byte) error) error {
	dir := folder(m.Sequence, m.Month)
	rows, err := openHashed(ctx, storage, dir+rowsFile)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // it was read
	leaves, err := openHashed(ctx, storage, dir+leavesFile)
	if err != nil {
		return err
	}
	defer leaves.Close() //nolint:errcheck // it was read
	zr, err := zstd.NewReader(rows, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	defer zr.Close()
	lines := &lineReader{r: bufio.NewReaderSize(zr, 256<<10)}
	hashes := bufio.NewReaderSize(leaves, 64<<10)

	ours, theirs := newTree(), newTree() // of what the rows are, and of what the file of hashes says that they were
	var wrong *wrongRow
	var expected digest
	for {
		line, lineErr := lines.next()
		_, leafErr := io.ReadFull(hashes, expected[:])
		if errors.Is(lineErr, io.EOF) && errors.Is(leafErr, io.EOF) {
			break
		}
		if err := cut(leafErr); err != nil && isUnavailable(err) {
			return err
		}
		row := int64(theirs.size) + 1 //nolint:gosec // a count of rows
		if leafErr == nil {
			theirs.add(expected)
		}
		if wrong != nil { // the rest only tells which of the two files is to be believed
			if lineErr != nil && leafErr != nil {
				break
			}
			if lineErr == nil {
				ours.add(ours.leaf(line))
			}
			continue
		}
		switch {
		case lineErr != nil && !errors.Is(lineErr, io.EOF):
			if isUnavailable(lineErr) {
				return lineErr
			}
			wrong = &wrongRow{row: row, problem: "from here on, up to " + strconv.Itoa(frameRows) + " rows can't be read: " + lineErr.Error()}
		case lineErr != nil:
			wrong = &wrongRow{row: row, problem: "it is missing, and so is what was behind it"}
		case leafErr != nil:
			wrong = &wrongRow{row: row, eventID: eventOf(line), problem: "it was not there when the month was archived"}
			ours.add(ours.leaf(line))
		default:
			leaf := ours.leaf(line)
			ours.add(leaf)
			if leaf != expected {
				wrong = differs(lines, hashes, line, row, leaf, expected)
				break
			}
			if err := fn(line); err != nil {
				return err
			}
		}
		if row%frameRows == 0 && progress != nil {
			progress(row)
		}
	}
	if err := errors.Join(rows.drain(), leaves.drain()); err != nil {
		return err
	}
	right, known := ours.root().String() == m.MerkleRoot, theirs.root().String() == m.MerkleRoot
	switch {
	case right && !known:
		return errors.New("its rows are right, but the hashes kept beside them are not those that were signed for")
	case !known && wrong == nil: // both were changed alike: nothing says what the rows were
		return errors.New("the rows, and the hashes kept beside them, are not those that were signed for")
	case !known:
		return fmt.Errorf("the hashes kept beside the rows are not those that were signed for, and the rows differ from them (%w)", wrong)
	case wrong != nil:
		return wrong
	case int64(theirs.size) != m.Rows: //nolint:gosec // a count of rows
		return fmt.Errorf("there are %d rows, and %d were signed for", theirs.size, m.Rows)
	case rows.sum() != m.SHA256 || leaves.sum() != m.LeavesSHA256 || rows.size != m.Bytes:
		return errors.New("its rows are right, but the files are not byte for byte those that were written")
	}
	return nil
}

// differs says how a row differs, as far as its neighbours tell.
func differs(lines *lineReader, hashes *bufio.Reader, line []byte, row int64, leaf, expected digest) *wrongRow {
	wrong := &wrongRow{row: row, eventID: eventOf(line), problem: "it is not as it was archived"}
	if next, err := hashes.Peek(len(leaf)); err == nil && bytes.Equal(next, leaf[:]) {
		wrong.eventID, wrong.problem = "", "it is missing: what stands in its place was behind it"
		return wrong
	}
	if next, err := lines.peek(); err == nil && newHasher().leaf(next) == expected {
		wrong.problem = "it was not there when the month was archived: the row behind it was in its place"
	}
	return wrong
}

// eventOf is the id in a line, as far as it can be read.
func eventOf(line []byte) string {
	const before = `{"eventId":"`
	if len(line) < len(before)+36 || !bytes.HasPrefix(line, []byte(before)) {
		return ""
	}
	return string(line[len(before) : len(before)+36])
}

// cut is what the end of a file in the middle of a hash means.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// lineReader reads lines of any length up to maxLine, and reuses them.
type lineReader struct {
	r      *bufio.Reader
	long   []byte
	peeked []byte // nil: nothing
}

// peek is the line after the last one, which next will return. It leaves that last one alone no longer.
func (l *lineReader) peek() ([]byte, error) {
	line, err := l.next()
	if err == nil {
		l.peeked = bytes.Clone(line)
	}
	return l.peeked, err
}

func (l *lineReader) next() ([]byte, error) {
	if line := l.peeked; line != nil {
		l.peeked = nil
		return line, nil
	}
	line, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = append(l.long[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) && len(l.long) <= maxLine {
			line, err = l.r.ReadSlice('\n')
			l.long = append(l.long, line...)
		}
		if len(l.long) > maxLine {
			return nil, errors.New("a line is too long to be a row")
		}
		line = l.long
	}
	if err != nil {
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return line[:len(line)-1], nil
}

// hashed is an object that knows what was read of it.
type hashed struct {
	io.ReadCloser
	hash hash.Hash
	size int64
}

func openHashed(ctx context.Context, storage Storage, key string) (*hashed, error) {
	r, err := storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	return &hashed{ReadCloser: r, hash: sha256.New()}, nil
}

func (h *hashed) Read(b []byte) (int, error) {
	n, err := h.ReadCloser.Read(b)
	h.hash.Write(b[:n])
	h.size += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = unavailable(err)
	}
	return n, err
}

// drain reads the rest.
func (h *hashed) drain() error {
	_, err := io.Copy(io.Discard, readerOnly{h})
	return err
}

// readerOnly hides what io.Copy would use to go past Read.
type readerOnly struct{ io.Reader }

func (h *hashed) sum() string { return fmt.Sprintf("%x", h.hash.Sum(nil)) }
