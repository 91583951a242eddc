package archive

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"fdc/internal/audit"
	"fdc/internal/platform/fault"
)

// Proof shows that a row was in the log when its month was archived, to whoever has the public key, without the archive.
type Proof struct {
	Manifest  []byte   `json:"manifest"`  // as it was signed, in base64
	Signature []byte   `json:"signature"` // in base64
	Index     uint64   `json:"index"`     // of the row in its month, from 0
	Row       string   `json:"row"`       // in its canonical form
	Path      []string `json:"path"`      // RFC 9162, 2.1.3: hashes, in hex, from the row's to the root

	Keys []json.RawMessage `json:"keys,omitempty"` // the chain of keys, when the signing key was replaced
}

// Prove finds an event in the archive and proves that it is there. It reads the file of its month once.
func Prove(ctx context.Context, storage Storage, key ed25519.PublicKey, eventID string) (*Proof, error) {
	id, err := uuid.Parse(eventID)
	if err != nil {
		return nil, fault.New(fault.Invalid, "invalid", "%.64q is no id of an event.", eventID)
	}
	keys, err := ReadKeys(ctx, storage, key)
	if err != nil {
		return nil, err
	}
	folders, err := foldersOf(ctx, storage)
	if err != nil {
		return nil, err
	}
	slices.Reverse(folders) // of a month that was archived twice, the newer
	// An event's id begins with its time, so its month is looked at first.
	seconds, _ := id.Time().UnixTime()
	likely := audit.MonthOf(time.Unix(seconds, 0)).String()
	slices.SortStableFunc(folders, func(a, b place) int { return rank(b.month == likely) - rank(a.month == likely) })
	for _, f := range folders {
		s, err := readManifest(ctx, storage, keys.of(f.sequence), f.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.month, err)
		}
		p := &Proof{Manifest: s.raw, Signature: s.signature, Keys: keys.raw}
		found, at := false, uint64(0)
		err = readMonth(ctx, storage, &s.Manifest, nil, func(line []byte) error {
			if !found && eventOf(line) == id.String() {
				found, p.Index, p.Row = true, at, string(line)
			}
			at++
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.month, err)
		}
		if found {
			p.Path, err = pathTo(ctx, storage, f.path+leavesFile, p.Index, uint64(s.Rows)) //nolint:gosec // not negative
			return p, err
		}
	}
	return nil, fault.New(fault.NotFound, "not-found", "The archive has no event %s. Only months that were archived can be proved row by row.", id)
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// pathTo reads the hashes of the rows once and makes those of the path of them.
func pathTo(ctx context.Context, storage Storage, key string, index, size uint64) ([]string, error) {
	spans := siblings(index, size)
	trees := make([]*tree, len(spans))
	for i := range trees {
		trees[i] = newTree()
	}
	r, err := storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // it was read
	hashes := bufio.NewReaderSize(r, 64<<10)
	for at := range size {
		var leaf digest
		if _, err := io.ReadFull(hashes, leaf[:]); err != nil {
			return nil, unavailable(fmt.Errorf("read %s: %w", key, err))
		}
		for i, of := range spans {
			if of.from <= at && at < of.to {
				trees[i].add(leaf)
				break
			}
		}
	}
	path := make([]string, len(trees))
	for i, t := range trees {
		path[i] = t.root().String()
	}
	return path, nil
}

// Check verifies a proof and returns the manifest of the month that the row was in.
func (p *Proof) Check(key ed25519.PublicKey) (Manifest, error) {
	keys, err := followKeys(p.Keys, key)
	if err != nil {
		return Manifest{}, err
	}
	var number struct{ Sequence int64 }
	_ = json.Unmarshal(p.Manifest, &number) // it only says which key to try; the manifest is parsed when that has signed it
	s, err := parseManifest(keys.of(number.Sequence), p.Manifest, p.Signature)
	if err != nil {
		return Manifest{}, err
	}
	if problem := keys.wrong(s); problem != "" {
		return Manifest{}, errors.New(problem)
	}
	root, err := parseDigest(s.MerkleRoot)
	if err != nil {
		return Manifest{}, err
	}
	path := make([]digest, len(p.Path))
	for i, text := range p.Path {
		if path[i], err = parseDigest(text); err != nil {
			return Manifest{}, err
		}
	}
	if _, err := parseRow([]byte(p.Row)); err != nil {
		return Manifest{}, err
	}
	return s.Manifest, checkPath(newHasher().leaf([]byte(p.Row)), p.Index, uint64(s.Rows), path, root) //nolint:gosec // not negative
}

// ParseProof reads what json.Marshal wrote.
func ParseProof(text []byte) (*Proof, error) {
	p := &Proof{}
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("read proof: %w", err)
	}
	return p, nil
}

func parseDigest(text string) (d digest, err error) {
	if hex.DecodedLen(len(text)) != len(d) {
		return d, errors.New("want a SHA-256 in hex")
	}
	_, err = hex.Decode(d[:], []byte(text))
	return d, err
}
