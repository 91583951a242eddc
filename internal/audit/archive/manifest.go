package archive

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"fdc/internal/audit"
)

// Manifest says what the archive has of a month. Manifests are a chain: each names the one before by its digest, so none can be
// taken out or put in between.
type Manifest struct {
	Format       int       `json:"format"`         // 1
	Sequence     int64     `json:"sequence"`       // in the chain, from 1
	Month        string    `json:"month"`          // YYYY-MM, in UTC
	Rows         int64     `json:"rows"`           //
	First        time.Time `json:"first,omitzero"` // occurredAt of the first row and of the last
	Last         time.Time `json:"last,omitzero"`
	Bytes        int64     `json:"bytes"`        // of the file of rows
	SHA256       string    `json:"sha256"`       // of the file of rows
	LeavesSHA256 string    `json:"leavesSha256"` // of the file of the rows' hashes
	MerkleRoot   string    `json:"merkleRoot"`   // RFC 9162, over the lines of the file of rows
	Previous     string    `json:"previous"`     // SHA-256 of the manifest before, empty in the first

	digest string // of the manifest as it was read or written
}

// manifestFormat is what this program writes.
const manifestFormat = 1

// The files of a month, under its folder.
const (
	rowsFile      = "rows.ndjson.zst"
	leavesFile    = "leaves"
	manifestFile  = "manifest.json"
	signatureFile = "manifest.sig"
	publicKeyFile = "public-key.pem" // beside the folders, for convenience: who verifies has a copy of their own
)

func folder(sequence int64, month string) string { return fmt.Sprintf("%06d-%s/", sequence, month) }

var folderPattern = regexp.MustCompile(`^([0-9]{6,})-([0-9]{4}-(?:0[1-9]|1[0-2]))/(.+)$`)

// signed is a manifest as it was written, with its signature.
type signed struct {
	Manifest
	raw       []byte
	signature []byte
}

// name is what the next manifest calls it: its digest.
func (s *signed) name() string { return digest(sha256.Sum256(s.raw)).String() }

// signatureText is the signature as it is stored.
func (s *signed) signatureText() string { return base64.StdEncoding.EncodeToString(s.signature) + "\n" }

// Signatures are over a name of what is signed and then the thing: one can't be taken for another.
const (
	signedManifest   = "fdc audit manifest v1\n"
	signedCheckpoint = "fdc audit checkpoint v1\n"
)

func sign(key ed25519.PrivateKey, what string, raw []byte) []byte {
	return ed25519.Sign(key, append([]byte(what), raw...))
}

func verify(key ed25519.PublicKey, what string, raw, signature []byte) bool {
	return ed25519.Verify(key, append([]byte(what), raw...), signature)
}

// signManifest is the manifest as it is stored.
func signManifest(key ed25519.PrivateKey, m Manifest) (*signed, error) {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	s := &signed{Manifest: m, raw: append(raw, '\n')}
	s.signature, s.digest = sign(key, signedManifest, s.raw), s.name()
	return s, nil
}

// errSignature says that a signature is not by the key.
var errSignature = errors.New("the signature is not by this key")

// parseManifest reads a manifest that the key has signed.
func parseManifest(key ed25519.PublicKey, raw, signature []byte) (*signed, error) {
	if !verify(key, signedManifest, raw, signature) {
		return nil, errSignature
	}
	s := &signed{raw: raw, signature: signature}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s.Manifest); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if s.Format != manifestFormat {
		return nil, fmt.Errorf("read manifest: format %d is not known to this version", s.Format)
	}
	if _, err := audit.ParseMonth(s.Month); err != nil || s.Sequence < 1 || s.Rows < 0 {
		return nil, errors.New("read manifest: it names no month, or no place in the chain")
	}
	s.digest = s.name()
	return s, nil
}

// readManifest reads the manifest in a folder of the archive; errNoObject when there is none.
func readManifest(ctx context.Context, storage Storage, key ed25519.PublicKey, folder string) (*signed, error) {
	raw, err := readObject(ctx, storage, folder+manifestFile)
	if err != nil {
		return nil, err
	}
	text, err := readObject(ctx, storage, folder+signatureFile)
	if err != nil {
		return nil, err
	}
	signature, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, errSignature
	}
	return parseManifest(key, raw, signature)
}

// ParseSigningKey reads an Ed25519 seed in base64 (AUDIT_SIGNING_KEY).
func ParseSigningKey(text string) (ed25519.PrivateKey, error) {
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("want the %d bytes of an Ed25519 seed in base64, as of: openssl rand -base64 32", ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// PublicKeyPEM is the public half of a key, for those who verify.
func PublicKeyPEM(key ed25519.PrivateKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(Public(key))
	if err != nil {
		panic("audit: " + err.Error()) // of a key that is one
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// ParsePublicKey reads what PublicKeyPEM wrote, or the 32 bytes in base64.
func ParsePublicKey(text []byte) (ed25519.PublicKey, error) {
	if block, _ := pem.Decode(text); block != nil {
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if public, ok := key.(ed25519.PublicKey); err == nil && ok {
			return public, nil
		}
	} else if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))); err == nil && len(raw) == ed25519.PublicKeySize {
		return raw, nil
	}
	return nil, errors.New("no Ed25519 public key; want a PEM block PUBLIC KEY, or 32 bytes in base64")
}
