package gsync

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/seal"
)

// withKeys is one more node, whose environment has these keys.
func (w *world) withKeys(list seal.Secret) *Service {
	w.t.Helper()
	s := w.newService(nil)
	var err error
	s.keys, err = seal.ParseKeys(list)
	require.NoError(w.t, err)
	return s
}

const (
	oldKey = testKey
	newKey = "v2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)

func TestKeysAreRotatedWhileTokensAreRefreshed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.control("PUT", "/_emulator/settings", object{"rotateRefreshTokens": true}, nil)
	var people []*person
	for i := range 5 {
		people = append(people, w.connected(fmt.Sprintf("user%d@example.com", i)))
	}
	s := w.withKeys(newKey + "," + oldKey)
	counts, err := s.TokenKeys(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"v1": 10}, counts)

	// A node that seals with the new key already, and whose every refresh takes the refresh token before out of use. One account
	// is left to the rotation.
	var stop atomic.Bool
	var wait sync.WaitGroup
	for _, p := range people[1:] {
		wait.Go(func() {
			for !stop.Load() {
				token, err := s.access(t.Context(), p.id, "")
				if err == nil {
					_, err = s.access(t.Context(), p.id, token.value)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for round := 0; counts["v1"] > 0; round++ {
		_, err = s.Reseal(t.Context(), testMeta, func(int64) {})
		require.NoError(t, err)
		counts, err = s.TokenKeys(t.Context())
		require.NoError(t, err)
		require.Less(t, round, 3, "a node that seals with the current key leaves nothing to do")
	}
	stop.Store(true)
	wait.Wait()
	require.Equal(t, map[string]int64{"v2": 10}, counts)

	alone := w.withKeys(newKey)
	for _, p := range people {
		_, err := alone.access(t.Context(), p.id, "")
		require.NoError(t, err)
		p.exec(`UPDATE google_accounts SET access_expires_at = now() WHERE user_id = $1`, p.id)
		_, err = alone.access(t.Context(), p.id, "")
		require.NoError(t, err, "the refresh token is the newest")
	}
	require.Equal(t, 1, w.count("", "ops.keys_rotated"))
}

func TestRotationGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seals := w.withKeys(oldKey)
	const users = resealBatch + 10
	w.exec(`INSERT INTO users (id, email, google_id) SELECT gen_random_uuid(), 'user' || n || '@example.com', 'g-' || n FROM generate_series(1, $1::int) n`, users)
	rows, err := w.db.Pool.Query(t.Context(), `SELECT id::text FROM users`)
	require.NoError(t, err)
	var ids []string
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())
	for _, id := range ids {
		w.exec(`INSERT INTO google_accounts (user_id, google_id, email, state, access_token, refresh_token)
			VALUES ($1::text::uuid, $1::text, $1::text, 'connected', $2, $3)`, id, seals.seal(id, kindAccess, "a"), seals.seal(id, kindRefresh, "r"))
	}
	s := w.withKeys(newKey + "," + oldKey)
	ctx, kill := context.WithCancel(t.Context())
	done, err := s.Reseal(ctx, testMeta, func(int64) { kill() })
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 2*resealBatch, done)
	counts, err := s.TokenKeys(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"v1": 20, "v2": 2 * resealBatch}, counts)
	require.Equal(t, 1, w.count("", "ops.keys_rotated"), "of what was done")

	// One is damaged: all others are done, and the error names it.
	w.exec(`UPDATE google_accounts SET access_token = $2 WHERE user_id = (SELECT user_id FROM google_accounts
		WHERE substr(access_token, 2, 2) = $1 ORDER BY user_id LIMIT 1)`, []byte("v1"), seals.keys.Seal("elsewhere", []byte("x")))
	done, err = s.Reseal(t.Context(), testMeta, func(int64) {})
	require.ErrorContains(t, err, "not sealed for this purpose")
	require.EqualValues(t, 18, done)
	require.Equal(t, 2, w.count("", "ops.keys_rotated"))

	_, err = w.withKeys(newKey).Reseal(t.Context(), testMeta, func(int64) {})
	require.ErrorContains(t, err, `key "v1" is not in MASTER_ENCRYPTION_KEYS`)
}
