package archive

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/audit"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// keyNumber is one of a test's keys; the first is the vault's.
func keyNumber(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{6 + n}, ed25519.SeedSize))
}

// with is the archiver of the vault with another key.
func (v *vault) with(n byte) *Archiver {
	a := v.archiver(v.Storage)
	a.Key = keyNumber(n)
	return a
}

// rotated is a vault of three months, each signed by a key of its own.
func rotated(t *testing.T) *vault {
	t.Helper()
	v := newVault(t)
	for n, month := range []string{"2024-01", "2024-02", "2024-03"} {
		v.fill(month, 20)
		a := v.with(byte(n) + 1)
		_, err := a.Archive(t.Context(), month, nil)
		require.NoError(t, err)
		if n == 2 {
			break
		}
		plan, err := a.PlanRotation(t.Context(), keyNumber(byte(n)+2))
		require.NoError(t, err)
		require.False(t, plan.Done)
		require.EqualValues(t, n+1, plan.Manifest.Sequence)
		for range 2 { // again, nothing changes
			done, err := a.Rotate(t.Context(), keyNumber(byte(n)+2))
			require.NoError(t, err)
			require.True(t, done.Done)
			require.EqualValues(t, n+1, done.Sequence)
		}
	}
	return v
}

// verified verifies a folder with a key and returns what is wrong.
func verified(t *testing.T, dir string, key ed25519.PrivateKey) string {
	t.Helper()
	storage, err := OpenDir(dir)
	require.NoError(t, err)
	defer storage.Close() //nolint:errcheck // it was read
	report, err := Verify(t.Context(), storage, Public(key), "", nil)
	require.NoError(t, err)
	var problems []string
	for i := range report.Findings {
		problems = append(problems, report.Findings[i].String())
	}
	return strings.Join(problems, "\n")
}

func TestVerifyFollowsTheChainOfKeys(t *testing.T) {
	t.Parallel()
	v := rotated(t)
	for n := byte(1); n <= 3; n++ {
		require.Empty(t, verified(t, v.dir, keyNumber(n)), "key %d", n)
	}
	require.Contains(t, verified(t, v.dir, keyNumber(9)), "the public key is none of this archive's 3 keys")

	// Old keys sign nothing any more, a key without a link neither, and the newest restores what the first has signed.
	v.fill("2024-04", 3)
	_, err := v.with(1).Archive(t.Context(), "2024-04", nil)
	require.ErrorIs(t, err, errReplaced)
	_, err = v.with(9).Archive(t.Context(), "2024-04", nil)
	require.ErrorContains(t, err, "AUDIT_SIGNING_KEY can't sign for this archive")
	require.Equal(t, audit.StateAttached, v.state("2024-04"), "nothing is detached for a key that can't sign")
	_, err = v.with(3).Rotate(t.Context(), keyNumber(1))
	require.ErrorContains(t, err, "make a fresh one")
	m, err := v.with(3).Restore(t.Context(), byTest, "2024-01", nil)
	require.NoError(t, err)
	require.EqualValues(t, 20, m.Rows)
	var id string
	require.NoError(t, v.db.Pool.QueryRow(t.Context(), `SELECT event_id::text FROM audit_logs_2024_01 LIMIT 1`).Scan(&id))
	proof, err := Prove(t.Context(), v.Storage, Public(keyNumber(3)), id)
	require.NoError(t, err)
	text, err := json.Marshal(proof)
	require.NoError(t, err)
	again, err := ParseProof(text)
	require.NoError(t, err)
	for n := byte(1); n <= 3; n++ {
		_, err := again.Check(Public(keyNumber(n)))
		require.NoError(t, err, "key %d", n)
	}
	_, err = again.Check(Public(keyNumber(9)))
	require.ErrorContains(t, err, "none of this archive's 3 keys")
}

// A key that was never linked must not sign: the chain of manifests could not be verified with either.
func TestAnUnlinkedKeySignsNothing(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	v.fill("2024-01", 3)
	_, err := v.Archive(t.Context(), "2024-01", nil)
	require.NoError(t, err)
	v.fill("2024-02", 3)
	_, err = v.with(2).Archive(t.Context(), "2024-02", nil)
	require.ErrorContains(t, err, "run fdc keys rotate-signing")
	require.Equal(t, audit.StateAttached, v.state("2024-02"))
}

func TestATamperedChainOfKeysIsFound(t *testing.T) {
	t.Parallel()
	v := rotated(t)
	at := func(dir, name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	link := func(t *testing.T, dir string, n int64, change func(*signedLink)) {
		t.Helper()
		raw, err := os.ReadFile(at(dir, linkKey(n)))
		require.NoError(t, err)
		var s signedLink
		require.NoError(t, json.Unmarshal(raw, &s))
		change(&s)
		raw, err = json.Marshal(s)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at(dir, linkKey(n)), raw, 0o600))
	}
	for name, tc := range map[string]struct {
		tamper func(t *testing.T, dir string)
		key    byte
		want   string
	}{
		"a link is missing": {func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.Remove(at(dir, linkKey(1))))
		}, 3, "link 1 of the chain of keys is missing"},
		"a link is skipped": {func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.Rename(at(dir, linkKey(2)), at(dir, linkKey(1))))
		}, 3, "link 1 of the chain of keys does not follow the one before it"},
		"the last link is cut off": {func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.Remove(at(dir, linkKey(2))))
		}, 3, "the public key is none of this archive's 2 keys"},
		"a link is changed": {func(t *testing.T, dir string) {
			t.Helper()
			link(t, dir, 2, func(s *signedLink) {
				s.Link = strings.Replace(s.Link, `"sequence":2,"sha256"`, `"sequence":1,"sha256"`, 1)
			})
		}, 3, "link 2 of the chain of keys is not signed by its key"},
		"a link by somebody else's key, for those who trust the first": {func(t *testing.T, dir string) {
			t.Helper()
			link(t, dir, 2, func(s *signedLink) {
				s.Link = strings.Replace(s.Link, PublicKeyText(Public(keyNumber(3))), PublicKeyText(Public(keyNumber(9))), 1)
				s.Signature, s.PreviousSignature = sign(keyNumber(9), signedKey, []byte(s.Link)), sign(keyNumber(9), signedKey, []byte(s.Link))
			})
		}, 1, "link 2 of the chain of keys is not signed by the key before it"},
		"a leaked key signs its month anew": {func(t *testing.T, dir string) {
			t.Helper()
			raw, err := os.ReadFile(at(dir, "000001-2024-01/manifest.json"))
			require.NoError(t, err)
			raw = append(raw, ' ')
			signature := base64.StdEncoding.EncodeToString(sign(keyNumber(1), signedManifest, raw))
			require.NoError(t, os.WriteFile(at(dir, "000001-2024-01/manifest.json"), raw, 0o600))              //nolint:gosec // the test's own
			require.NoError(t, os.WriteFile(at(dir, "000001-2024-01/manifest.sig"), []byte(signature), 0o600)) //nolint:gosec // the test's own
		}, 3, "the manifest is not the one that the signing key number 2 signed over"},
		"the months that the keys signed over are cut off": {func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.RemoveAll(at(dir, "000002-2024-02")))
			require.NoError(t, os.RemoveAll(at(dir, "000003-2024-03")))
		}, 3, "a signing key signed over a month with the number 2, which the archive has not"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "copy")
			require.NoError(t, os.CopyFS(dir, os.DirFS(v.dir)))
			tc.tamper(t, dir)
			require.Contains(t, verified(t, dir, keyNumber(tc.key)), tc.want)
		})
	}
}

// Checkpoints go on under the new key, and none of the old one follows those.
func TestCheckpointsFollowTheChainOfKeys(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	js, err := bus.JetStream(natstest.Connect(t, natstest.Provisioned(t), bus.AuditArchiver))
	require.NoError(t, err)
	keys := func(n byte) func(ctx context.Context) (*Keys, error) {
		return func(ctx context.Context) (*Keys, error) { return ReadKeys(ctx, v.Storage, Public(keyNumber(n))) }
	}
	start := audit.MonthOf(time.Now()).Start()
	hour := 0
	checkpoint := func(n byte) error {
		hour++
		record(t, v.db.Pool, taskEvent(start.Add(time.Duration(hour)*time.Hour)))
		c := &Checkpointer{
			DB: postgres.Config{URL: v.db.URL, ConnectTimeout: patience}, JS: js, Key: keyNumber(n), Log: zerolog.Nop(), Keys: keys(n),
		}
		return c.Checkpoint(t.Context(), start.Add(time.Duration(hour+2)*time.Hour))
	}
	require.NoError(t, checkpoint(1))
	require.ErrorContains(t, checkpoint(2), "the signature is not by this key", "no link yet")
	_, err = v.Rotate(t.Context(), keyNumber(2))
	require.NoError(t, err)
	require.NoError(t, checkpoint(1), "not restarted yet")
	require.NoError(t, checkpoint(2))
	require.ErrorIs(t, checkpoint(1), errReplaced)
	for n := byte(1); n <= 2; n++ {
		chain, err := keys(n)(t.Context())
		require.NoError(t, err)
		history, err := ReadCheckpoints(t.Context(), js, chain)
		require.NoError(t, err)
		require.EqualValues(t, 3, history.sequence)
	}
	chain, err := keys(2)(t.Context())
	require.NoError(t, err)
	forged := []byte(`{"format":1}`)
	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: bus.CheckpointSubject, Data: forged, Header: nats.Header{
		signatureHeader: []string{base64.StdEncoding.EncodeToString(sign(keyNumber(1), signedCheckpoint, forged))},
	}}, jetstream.WithExpectLastSequence(3))
	require.NoError(t, err)
	_, err = ReadCheckpoints(t.Context(), js, chain)
	require.ErrorIs(t, err, errSignature)
}
