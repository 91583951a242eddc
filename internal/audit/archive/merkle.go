package archive

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/bits"
)

// digest is a SHA-256.
type digest [sha256.Size]byte

func (d digest) String() string { return fmt.Sprintf("%x", d[:]) }

// hasher makes the hashes of Merkle trees as RFC 9162, 2.1.1, has them. It is used by one goroutine.
type hasher struct{ hash hash.Hash }

func newHasher() *hasher { return &hasher{sha256.New()} }

func (h *hasher) sum(prefix byte, parts ...[]byte) (d digest) {
	h.hash.Reset()
	h.hash.Write([]byte{prefix})
	for _, p := range parts {
		h.hash.Write(p)
	}
	h.hash.Sum(d[:0])
	return d
}

// leaf is the hash of a row.
func (h *hasher) leaf(row []byte) digest { return h.sum(0, row) }

func (h *hasher) node(left, right digest) digest { return h.sum(1, left[:], right[:]) }

// tree is a Merkle tree that grows leaf by leaf. It holds one hash per level.
type tree struct {
	*hasher
	size  uint64
	peaks []digest // roots of the perfect subtrees, the largest first
}

func newTree() *tree { return &tree{hasher: newHasher()} }

func (t *tree) add(leaf digest) {
	for n := t.size; n&1 == 1; n >>= 1 {
		leaf = t.node(t.peaks[len(t.peaks)-1], leaf)
		t.peaks = t.peaks[:len(t.peaks)-1]
	}
	t.peaks = append(t.peaks, leaf)
	t.size++
}

func (t *tree) root() digest {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	root := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		root = t.node(t.peaks[i], root)
	}
	return root
}

// span is a subtree: its leaves from one, up to but not including another.
type span struct{ from, to uint64 }

// siblings are the subtrees whose roots lead from a leaf to the root of a tree of that size, from the leaf on (RFC 9162, 2.1.3.1).
func siblings(index, size uint64) (spans []span) {
	for of := (span{0, size}); of.to-of.from > 1; {
		split := of.from + uint64(1)<<(bits.Len64(of.to-of.from-1)-1)
		if index < split {
			spans = append(spans, span{split, of.to})
			of.to = split
		} else {
			spans = append(spans, span{of.from, split})
			of.from = split
		}
	}
	for i, j := 0, len(spans)-1; i < j; i, j = i+1, j-1 {
		spans[i], spans[j] = spans[j], spans[i]
	}
	return spans
}

// errProof says that a path doesn't lead from a leaf to a root.
var errProof = errors.New("the path does not lead from the row to the root")

// checkPath verifies that the leaf is in the tree, RFC 9162, 2.1.3.2.
func checkPath(leaf digest, index, size uint64, path []digest, root digest) error {
	if index >= size {
		return errProof
	}
	h, at, last, of := newHasher(), index, size-1, leaf
	for _, p := range path {
		if last == 0 {
			return errProof
		}
		if at&1 == 1 || at == last {
			of = h.node(p, of)
			for at&1 == 0 && at != 0 {
				at, last = at>>1, last>>1
			}
		} else {
			of = h.node(of, p)
		}
		at, last = at>>1, last>>1
	}
	if last != 0 || of != root {
		return errProof
	}
	return nil
}
