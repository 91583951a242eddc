package archive

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/fault"
)

// KeyLink says that one signing key has replaced another. The new key signs the link, and so everything that the previous key had
// signed, by the digest of its last manifest. The previous key signs it, too, for those who trust that one.
type KeyLink struct {
	Format       int       `json:"format"`   // 1
	Sequence     int64     `json:"sequence"` // in the chain of keys, from 1
	Time         time.Time `json:"time"`
	PreviousKey  string    `json:"previousKey"`  // public, 32 bytes in base64
	Key          string    `json:"key"`          // signs from here on
	Manifest     Head      `json:"manifest"`     // the last one of the previous key
	PreviousLink string    `json:"previousLink"` // SHA-256 of the link before, empty in the first
}

// signedLink is a link as it is stored. It is one object, so that it is there whole or not at all.
type signedLink struct {
	Link              string `json:"link"` // the text of a KeyLink, as it was signed
	Signature         []byte `json:"signature"`
	PreviousSignature []byte `json:"previousSignature"`
}

const signedKey = "fdc audit key v1\n"

var linkPattern = regexp.MustCompile(`^keys/([0-9]{6,})\.json$`)

func linkKey(sequence int64) string { return fmt.Sprintf("keys/%06d.json", sequence) }

// Keys is a chain of signing keys, each trusted because of the one that the verifier trusts. It is immutable.
type Keys struct {
	keys  []ed25519.PublicKey // the oldest first
	links []KeyLink           // links[i] is from keys[i] to keys[i+1]
	last  string              // digest of the last link
	raw   []json.RawMessage   // the links as they are stored
}

// Trust is the chain of a key that was never replaced.
func Trust(key ed25519.PublicKey) *Keys { return &Keys{keys: []ed25519.PublicKey{key}} }

// errKeys is that the chain of keys is not as it was signed.
type errKeys struct{ problem string }

func (e *errKeys) Error() string { return e.problem }

func keysProblem(format string, args ...any) error { return &errKeys{fmt.Sprintf(format, args...)} }

// ReadKeys reads the archive's chain of keys and follows it from the trusted key: back, because each key signs over what the ones
// before have signed, and forward, as far as each key was signed for by the one before.
func ReadKeys(ctx context.Context, storage Storage, trusted ed25519.PublicKey) (*Keys, error) {
	names, err := storage.Keys(ctx)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for _, name := range names {
		if part := linkPattern.FindStringSubmatch(name); part != nil {
			n, err := strconv.ParseInt(part[1], 10, 64)
			if err != nil || linkKey(n) != name {
				return nil, keysProblem("%s is no link of the chain of keys", name)
			}
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var stored []json.RawMessage
	for i, n := range numbers {
		if want := int64(i) + 1; n != want {
			return nil, keysProblem("link %d of the chain of keys is missing", want)
		}
		raw, err := readObject(ctx, storage, linkKey(n))
		if err != nil {
			return nil, err
		}
		stored = append(stored, raw)
	}
	return followKeys(stored, trusted)
}

// followKeys is ReadKeys of links that were read, in their order.
func followKeys(stored []json.RawMessage, trusted ed25519.PublicKey) (*Keys, error) {
	if len(stored) == 0 {
		return Trust(trusted), nil
	}
	k := &Keys{raw: stored}
	var forward []bool // whether the key before has signed the link
	for i, raw := range stored {
		var s signedLink
		var link KeyLink
		if json.Unmarshal(raw, &s) != nil || json.Unmarshal([]byte(s.Link), &link) != nil || link.Format != manifestFormat {
			return nil, keysProblem("link %d of the chain of keys can't be read", i+1)
		}
		previous, err1 := ParsePublicKey([]byte(link.PreviousKey))
		key, err2 := ParsePublicKey([]byte(link.Key))
		switch {
		case err1 != nil, err2 != nil:
			return nil, keysProblem("link %d of the chain of keys names no keys", i+1)
		case i == 0:
			k.keys = []ed25519.PublicKey{previous}
		}
		switch {
		case link.Sequence != int64(i)+1, link.PreviousLink != k.last, !k.keys[i].Equal(previous):
			return nil, keysProblem("link %d of the chain of keys does not follow the one before it: a link was changed, skipped or put in between", i+1)
		case !verify(key, signedKey, []byte(s.Link), s.Signature):
			return nil, keysProblem("link %d of the chain of keys is not signed by its key: it was changed", i+1)
		case i > 0 && link.Manifest.Sequence < k.links[i-1].Manifest.Sequence:
			return nil, keysProblem("link %d of the chain of keys signs over less than the one before it", i+1)
		}
		k.keys, k.links, k.last = append(k.keys, key), append(k.links, link), digest(sha256.Sum256([]byte(s.Link))).String()
		forward = append(forward, verify(previous, signedKey, []byte(s.Link), s.PreviousSignature))
	}
	at := slices.IndexFunc(k.keys, func(key ed25519.PublicKey) bool { return key.Equal(trusted) })
	if at < 0 {
		return nil, keysProblem("the public key is none of this archive's %d keys: it is another archive's, or a link of the chain of keys was cut off", len(k.keys))
	}
	for i := at; i < len(forward); i++ {
		if !forward[i] {
			return nil, keysProblem("link %d of the chain of keys is not signed by the key before it: verify with the newest public key", i+1)
		}
	}
	return k, nil
}

// newest is the key that signs now.
func (k *Keys) newest() ed25519.PublicKey { return k.keys[len(k.keys)-1] }

// of is the key that signed the manifest with a number.
func (k *Keys) of(sequence int64) ed25519.PublicKey {
	i := 0
	for i < len(k.links) && k.links[i].Manifest.Sequence < sequence {
		i++
	}
	return k.keys[i]
}

// wrong is what the chain of keys says against a genuine manifest; empty when nothing.
func (k *Keys) wrong(s *signed) string {
	for _, link := range k.links {
		if link.Manifest.Sequence == s.Sequence && link.Manifest.SHA256 != s.name() {
			return fmt.Sprintf("the manifest is not the one that the signing key number %d signed over", link.Sequence+1)
		}
	}
	return ""
}

// covers is the number of the last manifest that a key signed over; 0 when none did.
func (k *Keys) covers() int64 {
	if len(k.links) == 0 {
		return 0
	}
	return k.links[len(k.links)-1].Manifest.Sequence
}

// Public is the public half of a key.
func Public(key ed25519.PrivateKey) ed25519.PublicKey {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		panic("audit: an Ed25519 key without a public half")
	}
	return public
}

// PublicKeyText is a public key as links name it, 32 bytes in base64.
func PublicKeyText(key ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(key) }

// errReplaced says that this process has an old key.
var errReplaced = fault.New(fault.Conflict, "audit-key-replaced",
	"AUDIT_SIGNING_KEY was replaced by fdc keys rotate-signing: give the audit-archiver the new one and restart it.")

// maySign returns what speaks against signing the next manifest with this key: the chain would break for good.
func (a *Archiver) maySign(ctx context.Context, conn *pgx.Conn) (*Keys, *signed, error) {
	last, err := lastManifest(ctx, conn, "")
	if err != nil {
		return nil, nil, err
	}
	keys, err := ReadKeys(ctx, a.Storage, Public(a.Key))
	if wrong, ok := errors.AsType[*errKeys](err); ok {
		return nil, nil, fault.New(fault.Conflict, "audit-key-unknown", "AUDIT_SIGNING_KEY can't sign for this archive: %s.", wrong)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case !keys.newest().Equal(Public(a.Key)):
		return nil, nil, errReplaced
	case last != nil && !verify(keys.of(last.Sequence), signedManifest, last.raw, last.signature):
		return nil, nil, fault.New(fault.Conflict, "audit-key-unlinked", "Another key than AUDIT_SIGNING_KEY has signed for this archive: "+
			"run fdc keys rotate-signing with the two, so that verify can follow from one to the other.")
	}
	return keys, last, nil
}

// Rotation is what PlanRotation and Rotate tell.
type Rotation struct {
	KeyLink
	Done bool `json:"rotated"` // the link is in the archive
}

// PlanRotation returns the link that Rotate would make.
func (a *Archiver) PlanRotation(ctx context.Context, key ed25519.PrivateKey) (r Rotation, err error) {
	err = a.alone(ctx, func(conn *pgx.Conn) error {
		r, err = a.planRotation(ctx, conn, key)
		return err
	})
	return r, err
}

// Rotate makes key the one that signs from now on: it signs over the last manifest of a.Key, which signs the link, too. Run again with
// the same keys, it changes nothing. An archiver that still has the old key signs no month any more.
func (a *Archiver) Rotate(ctx context.Context, key ed25519.PrivateKey) (r Rotation, err error) {
	err = a.alone(ctx, func(conn *pgx.Conn) error {
		if r, err = a.planRotation(ctx, conn, key); err != nil || r.Done {
			return err
		}
		text, err := json.Marshal(r.KeyLink)
		if err != nil {
			return fmt.Errorf("write link of keys: %w", err)
		}
		stored, err := json.MarshalIndent(signedLink{
			Link: string(text), Signature: sign(key, signedKey, text), PreviousSignature: sign(a.Key, signedKey, text),
		}, "", "  ")
		if err != nil {
			return fmt.Errorf("write link of keys: %w", err)
		}
		err = errors.Join(
			a.Storage.Put(ctx, linkKey(r.Sequence), bytes.NewReader(append(stored, '\n'))),
			a.Storage.Put(ctx, publicKeyFile, bytes.NewReader(PublicKeyPEM(key))),
		)
		if err != nil {
			return err
		}
		for _, trusted := range []ed25519.PrivateKey{a.Key, key} { // what was written is what is there
			if _, err := ReadKeys(ctx, a.Storage, Public(trusted)); err != nil {
				return fmt.Errorf("read back the link of keys: %w", err)
			}
		}
		r.Done = true
		return nil
	})
	return r, err
}

func (a *Archiver) planRotation(ctx context.Context, conn *pgx.Conn, key ed25519.PrivateKey) (Rotation, error) {
	if keys, err := ReadKeys(ctx, a.Storage, Public(key)); err == nil && len(keys.links) > 0 && keys.newest().Equal(Public(key)) {
		return Rotation{KeyLink: keys.links[len(keys.links)-1], Done: true}, nil
	}
	keys, last, err := a.maySign(ctx, conn)
	if err != nil {
		return Rotation{}, err
	}
	if slices.ContainsFunc(keys.keys, func(k ed25519.PublicKey) bool { return k.Equal(Public(key)) }) {
		return Rotation{}, fault.New(fault.Invalid, "audit-key-used", "The new key has signed for this archive before: make a fresh one.")
	}
	link := KeyLink{
		Format: manifestFormat, Sequence: int64(len(keys.links)) + 1, Time: a.now().UTC().Truncate(time.Microsecond),
		PreviousKey: PublicKeyText(Public(a.Key)), Key: PublicKeyText(Public(key)), PreviousLink: keys.last,
	}
	if last != nil {
		link.Manifest = Head{Sequence: last.Sequence, SHA256: last.name()}
	}
	folders, err := foldersOf(ctx, a.Storage)
	if err != nil {
		return Rotation{}, err
	}
	for _, f := range folders {
		if f.sequence > link.Manifest.Sequence {
			// What an interrupted run has left has no manifest on record yet; archive again, then rotate.
			return Rotation{}, fault.New(fault.Conflict, "audit-archive-ahead", "The archive has %s, which the database doesn't know of: "+
				"finish that month with fdc audit archive, or follow the runbook for a restored database.", f.path)
		}
	}
	return Rotation{KeyLink: link}, nil
}
