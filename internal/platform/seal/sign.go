package seal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// SignatureSize is the length in bytes of what Signer.Sign returns.
const SignatureSize = sha256.Size

// Signer authenticates values with HMAC-SHA-256 (RFC 2104) under keys derived from Keys. It is safe for concurrent use.
type Signer struct{ keys [][]byte }

// Signer derives one key for each of k by HKDF-SHA-256 (RFC 5869), with the purpose as info. The first signs, all verify.
func (k *Keys) Signer(purpose string) (*Signer, error) {
	s := &Signer{}
	for _, secret := range k.secrets {
		key, err := hkdf.Key(sha256.New, secret, nil, "fdc/sign/"+purpose, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("derive the key to sign %s: %w", purpose, err)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// Sign returns the signature over parts. Each part's length is signed too, so ("ab", "c") and ("a", "bc") differ.
func (s *Signer) Sign(parts ...[]byte) []byte { return sign(s.keys[0], parts) }

// Valid reports whether one of the keys made the signature over parts.
func (s *Signer) Valid(signature []byte, parts ...[]byte) bool {
	for _, key := range s.keys {
		if hmac.Equal(signature, sign(key, parts)) {
			return true
		}
	}
	return false
}

func sign(key []byte, parts [][]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, part := range parts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		_, _ = mac.Write(length[:]) // a hash never fails
		_, _ = mac.Write(part)
	}
	return mac.Sum(nil)
}
