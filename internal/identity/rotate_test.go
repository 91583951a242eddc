package identity_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/seal"
)

// age makes the tokens that were replaced older.
func (d *door) age(t *testing.T, by time.Duration) {
	t.Helper()
	_, err := d.db.Pool.Exec(t.Context(), `UPDATE replaced_tokens SET replaced_at = replaced_at - $1::interval`, by)
	require.NoError(t, err)
}

func (d *door) find(t *testing.T, token seal.Secret) identity.Session {
	t.Helper()
	s, err := d.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	return s
}

func TestRotation(t *testing.T) {
	t.Parallel()
	d := open(t)
	old, sess := d.signIn(t, person("alice"))
	bystander, _ := d.signIn(t, person("bob"))
	rotate := func(token seal.Secret) seal.Secret {
		t.Helper()
		fresh, err := d.Rotate(t.Context(), by(sess.User.ID), sess.ID, token.Reveal())
		require.NoError(t, err)
		return fresh
	}
	require.False(t, sess.Rotate)
	require.Empty(t, rotate(old), "no reason to")

	require.NoError(t, d.SetSystemRole(t.Context(), meta, sess.User.ID, events.SystemRoleAdmin))
	require.True(t, d.find(t, old).Rotate)
	require.False(t, d.find(t, bystander).Rotate)
	d.db.Told(t)
	require.Empty(t, rotate(bystander), "another session's token")
	require.Empty(t, rotate("nonsense"))
	fresh := rotate(old)
	require.NotEmpty(t, fresh)
	told := d.db.Told(t)
	require.Len(t, told, 1)
	require.Equal(t, events.SessionRotated{SessionID: sess.ID, UserID: sess.User.ID, Version: 2, Reason: "role_change"}, told[0].Data)
	require.Zero(t, d.count(t, `SELECT count(*) FROM sessions s WHERE position($1 in s::text) > 0`, fresh.Reveal()))

	// It is the same session, for as long as it was before.
	renewed := d.find(t, fresh)
	want := sess
	want.User.SystemRole = events.SystemRoleAdmin
	requireSameSession(t, want, renewed)
	grace := d.find(t, old)
	require.WithinDuration(t, time.Now().Add(identity.ReplacedGrace), grace.TokenEndsAt, 10*time.Second)
	grace.TokenEndsAt = time.Time{}
	requireSameSession(t, want, grace)
	require.Empty(t, rotate(old), "another request has been faster")
	require.Empty(t, rotate(fresh))

	d.age(t, identity.ReplacedGrace)
	_, err := d.Authenticate(t.Context(), old.Reveal())
	requireKind(t, fault.Unauthenticated, err)
	d.find(t, fresh)

	// A role in a workspace counts, being taken in doesn't; a new session has nothing to make up for.
	w, err := d.workspaces.Create(t.Context(), by(sess.User.ID), sess.User.ID, "Second")
	require.NoError(t, err)
	bob := d.find(t, bystander)
	join(t, d.workspaces, sess.User, w.ID, bob.User, "MEMBER")
	require.False(t, d.find(t, bystander).Rotate)
	_, err = d.workspaces.SetRole(t.Context(), by(sess.User.ID), sess.User.ID, w.ID, bob.User.ID, "ADMIN")
	require.NoError(t, err)
	require.True(t, d.find(t, bystander).Rotate)
	_, bobs := d.signIn(t, person("bob"))
	require.False(t, bobs.Rotate)
	require.False(t, d.find(t, fresh).Rotate)

	// The end of a session is the end of all its tokens.
	require.NoError(t, d.SetSystemRole(t.Context(), meta, bob.User.ID, events.SystemRoleAdmin))
	next, err := d.Rotate(t.Context(), meta, bob.ID, bystander.Reveal())
	require.NoError(t, err)
	d.find(t, bystander)
	require.NoError(t, d.Logout(t.Context(), by(bob.User.ID), bob.ID))
	for _, token := range []seal.Secret{bystander, next} {
		_, err = d.Authenticate(t.Context(), token.Reveal())
		requireKind(t, fault.Unauthenticated, err)
	}
	d.exec(t, `UPDATE sessions SET expires_at = now() - interval '2 hours' WHERE id = $1`, bob.ID)
	_, err = d.Sweep(t.Context(), meta)
	require.NoError(t, err)
	require.Equal(t, 1, d.count(t, `SELECT count(*) FROM replaced_tokens`), "swept with their session")
}

// Whatever happens in whatever order, a session has one current token, and each it replaced is let in for the grace and no longer.
func TestOneTokenIsCurrent(t *testing.T) {
	t.Parallel()
	d := open(t)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	current, sess := d.signIn(t, person("alice"))
	replaced := map[seal.Secret]time.Duration{} // by its age
	outdated := false
	for range 150 {
		switch rng.IntN(4) {
		case 0:
			d.exec(t, `UPDATE users SET role_epoch = role_epoch + 1, version = version + 1 WHERE id = $1`, sess.User.ID)
			outdated = true
		case 1, 2: // as many requests at once, with any token that there was
			tokens := []seal.Secret{current, current, current}
			for token := range replaced {
				tokens = append(tokens, token)
			}
			fresh := make([]seal.Secret, len(tokens))
			errs := make([]error, len(tokens))
			var wg sync.WaitGroup
			for i, token := range tokens {
				wg.Go(func() { fresh[i], errs[i] = d.Rotate(t.Context(), meta, sess.ID, token.Reveal()) })
			}
			wg.Wait()
			made := 0
			for i := range fresh {
				require.NoError(t, errs[i])
				if fresh[i] == "" {
					continue
				}
				made++
				require.Equal(t, current, tokens[i])
				replaced[current], current = 0, fresh[i]
			}
			require.Equal(t, map[bool]int{true: 1}[outdated], made)
			outdated = false
		case 3:
			step := time.Duration(rng.IntN(12)) * time.Second
			d.age(t, step)
			for token := range replaced {
				replaced[token] += step
			}
		}
		found := d.find(t, current)
		require.Equal(t, sess.ID, found.ID)
		require.Equal(t, outdated, found.Rotate)
		require.True(t, found.TokenEndsAt.IsZero())
		for token, age := range replaced {
			found, err := d.Authenticate(t.Context(), token.Reveal())
			switch left := identity.ReplacedGrace - age; {
			case left <= 0:
				requireKind(t, fault.Unauthenticated, err)
				delete(replaced, token)
			case err == nil:
				require.Equal(t, sess.ID, found.ID)
				require.False(t, found.Rotate)
			default: // the test itself takes time
				requireKind(t, fault.Unauthenticated, err)
			}
		}
	}
}

func TestCachedSessionsRotate(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	a, b := startNode(t, db, server, 1<<20), startNode(t, db, server, 1<<20)
	nodes := []*node{a, b}
	first, alice, err := a.SignIn(t.Context(), meta, person("alice"))
	require.NoError(t, err)
	held := func(token seal.Secret, what string, holds func(identity.Session) bool) {
		t.Helper()
		for _, n := range nodes {
			before := -1
			n.await(t, token, what, func(s identity.Session, err error) bool {
				defer func() { before = n.loads(t) }()
				return err == nil && s.ID == alice.ID && holds(s) && before == n.loads(t)
			})
		}
	}
	due := func(s identity.Session) bool { return s.Rotate && s.TokenEndsAt.IsZero() }
	currently := func(s identity.Session) bool { return !s.Rotate && s.TokenEndsAt.IsZero() }
	replaced := func(s identity.Session) bool { return !s.Rotate && !s.TokenEndsAt.IsZero() }
	held(first, "current", currently)

	// Twice in a row, on different nodes.
	require.NoError(t, a.SetSystemRole(t.Context(), meta, alice.User.ID, events.SystemRoleAdmin))
	held(first, "due", due)
	second, err := a.Rotate(t.Context(), by(alice.User.ID), alice.ID, first.Reveal())
	require.NoError(t, err)
	found, err := a.Authenticate(t.Context(), first.Reveal())
	require.NoError(t, err)
	require.True(t, replaced(found), "at once where it was rotated")
	held(first, "replaced", replaced)
	held(second, "current", currently)
	_, err = db.Pool.Exec(t.Context(), `UPDATE users SET role_epoch = role_epoch + 1, version = version + 1 WHERE id = $1`, alice.User.ID)
	require.NoError(t, err)
	require.NoError(t, a.Changed(t.Context(), alice.User.ID))
	held(second, "due", due)
	held(first, "replaced", replaced)
	third, err := b.Rotate(t.Context(), by(alice.User.ID), alice.ID, second.Reveal())
	require.NoError(t, err)
	held(first, "replaced", replaced)
	held(second, "replaced", replaced)
	held(third, "current", currently)

	// What is cached of any of the tokens is what the rows say.
	tokens := []seal.Secret{first, second, third}
	keys := make([]string, len(tokens))
	for i, token := range tokens {
		keys[i] = cacheKey(token)
	}
	rows, err := identity.Truth(db.Pool)(t.Context(), keys)
	require.NoError(t, err)
	for _, key := range keys {
		entry, held, err := nearcache.NewBucket(a.kv).Get(t.Context(), key)
		require.NoError(t, err)
		require.True(t, held)
		require.False(t, entry.Tombstone)
		require.Equal(t, rows[key].Version, entry.Version)
		require.True(t, rows[key].Holds(entry.Data))
	}

	// All of them end together.
	require.NoError(t, b.Logout(t.Context(), by(alice.User.ID), alice.ID))
	for _, token := range tokens {
		b.requireEnded(t, token)
		a.await(t, token, "ended", ended)
	}
}

// A token that was replaced is over by the clock, whatever is cached.
func TestACachedTokenExpires(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	n := startNode(t, db, server, 1<<20)
	var fresh seal.Secret
	n.runOut(t, func(name string, left time.Duration) seal.Secret {
		old, s, err := n.SignIn(t.Context(), meta, person(name))
		require.NoError(t, err)
		require.NoError(t, n.SetSystemRole(t.Context(), meta, s.User.ID, events.SystemRoleAdmin))
		fresh, err = n.Rotate(t.Context(), meta, s.ID, old.Reveal())
		require.NoError(t, err)
		_, err = db.Pool.Exec(t.Context(), `UPDATE replaced_tokens SET replaced_at = now() - $1::interval WHERE session_id = $2`,
			identity.ReplacedGrace-left, s.ID)
		require.NoError(t, err)
		return old
	})
	_, err := n.Authenticate(t.Context(), fresh.Reveal())
	require.NoError(t, err)
}
