package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Keys seals and opens small values with AES-256-GCM under versioned keys. It is safe for concurrent use.
type Keys struct {
	current string
	ciphers map[string]cipher.AEAD
	secrets [][]byte // in the order of the list
}

// ParseKeys reads MASTER_ENCRYPTION_KEYS: "v2:BASE64,v1:BASE64", 32 bytes each. The first seals, all open.
func ParseKeys(list Secret) (*Keys, error) {
	k := &Keys{ciphers: make(map[string]cipher.AEAD)}
	for entry := range strings.SplitSeq(list.Reveal(), ",") {
		version, encoded, ok := strings.Cut(strings.TrimSpace(entry), ":")
		if !ok || version == "" || len(version) > 32 {
			return nil, errors.New(`want "v1:BASE64", several separated by commas`)
		}
		if _, taken := k.ciphers[version]; taken {
			return nil, fmt.Errorf("key %s is there twice", version)
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(key) != 32 {
			return nil, fmt.Errorf("key %s is not 32 bytes in base64", version)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", version, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", version, err)
		}
		k.ciphers[version] = aead
		k.secrets = append(k.secrets, key)
		if k.current == "" {
			k.current = version
		}
	}
	return k, nil
}

// Current is the version of the key that seals.
func (k *Keys) Current() string { return k.current }

// Versions are those of all keys that open.
func (k *Keys) Versions() []string { return slices.Sorted(maps.Keys(k.ciphers)) }

// VersionOf is the version of the key that a value was sealed with; empty when it isn't sealed.
func VersionOf(sealed []byte) string {
	if len(sealed) == 0 || len(sealed) < 1+int(sealed[0]) {
		return ""
	}
	return string(sealed[1 : 1+int(sealed[0])])
}

// NewKey makes a random key in the form ParseKeys reads.
func NewKey(version string) Secret {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the program instead
	return Secret(version + ":" + base64.StdEncoding.EncodeToString(key))
}

// Seal encrypts plain for one purpose: purpose (such as "google/refresh/USER") is authenticated, so that a sealed value
// moved to another row or column does not open.
//
// The form is: length of the key's version, the version, nonce, ciphertext.
func (k *Keys) Seal(purpose string, plain []byte) []byte {
	aead := k.ciphers[k.current]
	sealed := make([]byte, 0, 1+len(k.current)+aead.NonceSize()+len(plain)+aead.Overhead())
	sealed = append(sealed, byte(len(k.current))) //nolint:gosec // ParseKeys bounds it
	sealed = append(sealed, k.current...)
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails: crypto/rand ends the program instead
	sealed = append(sealed, nonce...)
	return aead.Seal(sealed, nonce, plain, []byte(purpose))
}

// Open decrypts what Seal made for the same purpose, under any of the keys.
func (k *Keys) Open(purpose string, sealed []byte) ([]byte, error) {
	version := VersionOf(sealed)
	if version == "" {
		return nil, errors.New("open sealed value: too short")
	}
	rest := sealed[1+len(version):]
	aead, ok := k.ciphers[version]
	if !ok {
		return nil, fmt.Errorf("open sealed value: key %q is not in MASTER_ENCRYPTION_KEYS", version)
	}
	if len(rest) < aead.NonceSize() {
		return nil, errors.New("open sealed value: too short")
	}
	plain, err := aead.Open(nil, rest[:aead.NonceSize()], rest[aead.NonceSize():], []byte(purpose))
	if err != nil {
		return nil, errors.New("open sealed value: not sealed for this purpose, or damaged")
	}
	return plain, nil
}
