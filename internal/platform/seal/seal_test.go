package seal_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/seal"
)

func keys(t *testing.T, list seal.Secret) *seal.Keys {
	t.Helper()
	k, err := seal.ParseKeys(list)
	require.NoError(t, err)
	return k
}

func TestOpenWantsThePurpose(t *testing.T) {
	t.Parallel()
	k := keys(t, seal.NewKey("v1"))
	sealed := k.Seal("a", []byte("hello"))
	plain, err := k.Open("a", sealed)
	require.NoError(t, err)
	require.Equal(t, "hello", string(plain))
	_, err = k.Open("b", sealed)
	require.Error(t, err)
}

func TestRotation(t *testing.T) {
	t.Parallel()
	v1, v2 := seal.NewKey("v1"), seal.NewKey("v2")
	old := keys(t, v1).Seal("p", []byte("x"))
	both := keys(t, v2+","+v1)
	plain, err := both.Open("p", old)
	require.NoError(t, err)
	require.Equal(t, "x", string(plain))
	_, err = keys(t, v1).Open("p", both.Seal("p", []byte("x")))
	require.ErrorContains(t, err, "v2")
}

func TestSignature(t *testing.T) {
	t.Parallel()
	signer := func(list seal.Secret, purpose string) *seal.Signer {
		s, err := keys(t, list).Signer(purpose)
		require.NoError(t, err)
		return s
	}
	v1, v2 := seal.NewKey("v1"), seal.NewKey("v2")
	first := signer(v1, "p")
	signature := first.Sign([]byte("ab"), []byte("c"))
	require.Len(t, signature, seal.SignatureSize)
	require.True(t, first.Valid(signature, []byte("ab"), []byte("c")))
	require.False(t, first.Valid(signature, []byte("a"), []byte("bc")), "where a part ends is signed")
	require.False(t, first.Valid(signature, []byte("ab"), []byte("c"), nil))
	require.False(t, first.Valid(nil, []byte("ab"), []byte("c")))
	require.False(t, signer(v1, "q").Valid(signature, []byte("ab"), []byte("c")), "another purpose is another key")

	both := signer(v2+","+v1, "p")
	require.True(t, both.Valid(signature, []byte("ab"), []byte("c")), "keys that no longer sign still verify")
	require.False(t, first.Valid(both.Sign([]byte("ab"), []byte("c")), []byte("ab"), []byte("c")), "the first key signs")
	require.False(t, signer(v2, "p").Valid(signature, []byte("ab"), []byte("c")), "a key that left the list verifies nothing")
}

func TestMalformedKeysAreRefusedWithoutShowingThem(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"", "v1", "v1:", "v1:c2VjcmV0", ":abc", "v1:" + "!!secret!!", string(seal.NewKey("v1") + "," + seal.NewKey("v1"))} {
		_, err := seal.ParseKeys(seal.Secret(list))
		require.Error(t, err, list)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	t.Parallel()
	s := struct{ S seal.Secret }{"hunter2"}
	encoded, err := json.Marshal(s)
	require.NoError(t, err)
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %s %q", s, s, s.S, s.S), string(encoded)} {
		require.NotContains(t, out, "hunter2")
	}
}

func FuzzOpen(f *testing.F) {
	k, err := seal.ParseKeys(seal.NewKey("v1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Seal("p", []byte("x")))
	f.Add([]byte{})
	f.Add([]byte{255, 1})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if plain, err := k.Open("other", sealed); err == nil {
			t.Fatalf("opened for another purpose: %q", plain)
		}
	})
}
