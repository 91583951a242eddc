package identity_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/seal"
	"fdc/internal/platform/worker"
	"fdc/internal/workspace"
)

// patience is more than anything takes that happens at all.
const patience = 2 * time.Minute

// node is a process of its own on the same servers, with a running cache.
type node struct {
	*identity.Service
	cache      *identity.Cache
	workspaces *workspace.Service
	kv         jetstream.KeyValue
	metrics    *prometheus.Registry
	nc         *nats.Conn
	js         jetstream.JetStream
}

func startNode(tb testing.TB, db *pgtest.DB, server *embednats.Server, maxBytes uint64) *node {
	tb.Helper()
	nc := natstest.Connect(tb, server, "api")
	js, err := bus.JetStream(nc)
	require.NoError(tb, err)
	kv, err := bus.BindBucket(tb.Context(), js, bus.Sessions, nil)
	require.NoError(tb, err)
	ob := outbox.New(db.Pool, nil)
	n := &node{workspaces: workspace.New(ob), kv: kv, metrics: prometheus.NewRegistry(), nc: nc, js: js}
	n.Service = identity.New(ob, n.workspaces, gsync.Access{})
	n.cache, err = identity.NewCache(db.Pool, nearcache.Config{
		KV: kv, Signer: signer, JS: js, NATS: nc, MaxBytes: maxBytes, Log: zerolog.Nop(), Metrics: n.metrics,
	})
	require.NoError(tb, err)
	n.UseCache(n.cache, func() bool { return true })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.cache.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		require.NoError(tb, <-ended)
	})
	require.Eventually(tb, n.cache.Live, patience, time.Millisecond)
	return n
}

// signer is every node's.
var signer = func() *seal.Signer {
	keys, err := seal.ParseKeys(seal.NewKey("v1"))
	if err != nil {
		panic(err)
	}
	s, err := keys.Signer("cache")
	if err != nil {
		panic(err)
	}
	return s
}()

// loads is how many sessions the node has read from the database.
func (n *node) loads(tb testing.TB) int {
	tb.Helper()
	families, err := n.metrics.Gather()
	require.NoError(tb, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "cache_requests_total" && m.GetLabel()[1].GetValue() == "db" {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	tb.Fatal("no counter of loads")
	return 0
}

func (n *node) requireEnded(t *testing.T, token seal.Secret) {
	t.Helper()
	_, err := n.Authenticate(t.Context(), token.Reveal())
	requireKind(t, fault.Unauthenticated, err)
}

// await reads on a node until the session there is as it should be.
func (n *node) await(t *testing.T, token seal.Secret, what string, holds func(identity.Session, error) bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		s, err := n.Authenticate(t.Context(), token.Reveal())
		return holds(s, err)
	}, patience, time.Millisecond, what)
}

func ended(_ identity.Session, err error) bool { return fault.KindOf(err) == fault.Unauthenticated }

func TestCachedSessions(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	a, b := startNode(t, db, server, 1<<20), startNode(t, db, server, 1<<20)
	signIn := func(who string) (seal.Secret, identity.Session) {
		token, s, err := a.SignIn(t.Context(), meta, person(who))
		require.NoError(t, err)
		return token, s
	}
	token, alice := signIn("alice")
	warm := func(token seal.Secret) {
		for _, n := range []*node{a, b} {
			before := -1
			n.await(t, token, "no hit", func(_ identity.Session, err error) bool {
				defer func() { before = n.loads(t) }()
				return err == nil && before == n.loads(t)
			})
		}
	}
	found, err := a.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	requireSameSession(t, alice, found)
	warm(token)

	// What changes is seen at once where it was changed, and soon everywhere else.
	w, err := a.workspaces.Create(t.Context(), by(alice.User.ID), alice.User.ID, "Second")
	require.NoError(t, err)
	require.NoError(t, a.Changed(t.Context(), alice.User.ID))
	found, err = a.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	require.Len(t, found.Memberships, 2)
	second := func(s identity.Session, err error) bool { return err == nil && len(s.Memberships) == 2 }
	b.await(t, token, "the membership", second)
	_, bob := signIn("bob")
	join(t, a.workspaces, alice.User, w.ID, bob.User, "OWNER")
	require.NoError(t, a.workspaces.RemoveMember(t.Context(), by(alice.User.ID), alice.User.ID, w.ID, alice.User.ID))
	require.NoError(t, a.Changed(t.Context(), alice.User.ID))
	found, err = a.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	require.Len(t, found.Memberships, 1)
	b.await(t, token, "the removal", func(s identity.Session, err error) bool { return err == nil && len(s.Memberships) == 1 })

	require.NoError(t, b.SetSystemRole(t.Context(), meta, alice.User.ID, events.SystemRoleAdmin))
	found, err = b.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	require.Equal(t, events.SystemRoleAdmin, found.User.SystemRole)
	a.await(t, token, "the role", func(s identity.Session, _ error) bool { return s.User.SystemRole == events.SystemRoleAdmin })

	// Ends likewise, however they come about.
	other, _ := signIn("alice")
	warm(token)
	warm(other)
	require.NoError(t, a.RevokeOthers(t.Context(), by(alice.User.ID), alice.User.ID, alice.ID))
	a.requireEnded(t, other)
	b.await(t, other, "revoked", ended)
	require.NoError(t, b.Logout(t.Context(), by(alice.User.ID), alice.ID))
	b.requireEnded(t, token)
	a.await(t, token, "logged out", ended)
}

// A session that ended on a node which could tell nobody is served for some seconds still, but shows nothing that has changed here since.
func TestAChangeReachesSessionsThatEndedUntold(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	n := startNode(t, db, natstest.Provisioned(t), 1<<20)
	token, alice, err := n.SignIn(t.Context(), meta, person("alice"))
	require.NoError(t, err)
	_, err = n.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	_, err = db.Pool.Exec(t.Context(), `UPDATE sessions SET revoked_at = now(), version = version + 1 WHERE id = $1`, alice.ID)
	require.NoError(t, err)
	_, err = n.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err, "nobody was told")

	_, err = n.workspaces.Create(t.Context(), by(alice.User.ID), alice.User.ID, "Second")
	require.NoError(t, err)
	require.NoError(t, n.Changed(t.Context(), alice.User.ID))
	n.requireEnded(t, token)
}

// The invalidator repeats from the events what a node could not say.
func TestTheInvalidatorWithdrawsSessions(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	n := startNode(t, db, server, 1<<20)
	ob := outbox.New(db.Pool, nil)
	mute := identity.New(ob, n.workspaces, gsync.Access{}) // tells no cache
	monitor := nearcache.NewMonitor(nearcache.MonitorConfig{
		KV: n.kv, JS: n.js, NATS: n.nc, Truth: identity.Truth(db.Pool), Log: zerolog.Nop(), Metrics: n.metrics,
	})
	invalidator := identity.NewInvalidator(db.Pool, monitor).Handlers()
	// deliver hands what was committed since the last call to the handlers, twice and backwards.
	deliver := func() {
		t.Helper()
		list := db.Told(t)
		require.NotEmpty(t, list)
		for i := range 2 * len(list) {
			ev := list[len(list)-1-i%len(list)]
			if handle := invalidator[ev.Action()]; handle != nil {
				require.NoError(t, handle(t.Context(), &worker.Delivery{Event: ev}))
			}
		}
	}
	token, alice, err := mute.SignIn(t.Context(), meta, person("alice"))
	require.NoError(t, err)
	_, bob, err := mute.SignIn(t.Context(), meta, person("bob"))
	require.NoError(t, err)
	db.Told(t)
	hit := func() identity.Session {
		t.Helper()
		var s identity.Session
		before := -1
		n.await(t, token, "no hit", func(found identity.Session, err error) bool {
			defer func() { before = n.loads(t) }()
			s = found
			return err == nil && before == n.loads(t)
		})
		return s
	}
	hit()

	require.NoError(t, mute.SetSystemRole(t.Context(), meta, alice.User.ID, events.SystemRoleAdmin))
	require.Equal(t, events.SystemRoleUser, hit().User.SystemRole, "nobody has said so yet")
	deliver()
	n.await(t, token, "the role", func(s identity.Session, _ error) bool { return s.User.SystemRole == events.SystemRoleAdmin })
	hit()

	_, err = n.workspaces.Create(t.Context(), by(alice.User.ID), alice.User.ID, "Second")
	require.NoError(t, err)
	deliver()
	n.await(t, token, "the membership", func(s identity.Session, _ error) bool { return len(s.Memberships) == 2 })
	hit()

	renamed := person("alice")
	renamed.Name = "Alice II"
	_, _, err = mute.SignIn(t.Context(), meta, renamed)
	require.NoError(t, err)
	deliver()
	n.await(t, token, "the name", func(s identity.Session, _ error) bool { return s.User.Name == "Alice II" })
	hit()

	fresh, err := mute.Rotate(t.Context(), by(alice.User.ID), alice.ID, token.Reveal())
	require.NoError(t, err)
	require.True(t, hit().TokenEndsAt.IsZero(), "nobody has said so yet")
	deliver()
	n.await(t, token, "the rotation", func(s identity.Session, err error) bool { return err == nil && !s.TokenEndsAt.IsZero() })
	_, err = n.Authenticate(t.Context(), fresh.Reveal())
	require.NoError(t, err)
	hit()

	require.NoError(t, mute.Logout(t.Context(), by(alice.User.ID), alice.ID))
	deliver()
	n.await(t, token, "the end", ended)
	n.await(t, fresh, "the end", ended)

	token, alice, err = mute.SignIn(t.Context(), meta, person("alice"))
	require.NoError(t, err)
	hit()
	require.NoError(t, mute.SetSystemRole(t.Context(), meta, bob.User.ID, events.SystemRoleAdmin))
	_, err = mute.Disable(t.Context(), meta, alice.User.ID, "has left")
	require.NoError(t, err)
	deliver()
	n.await(t, token, "shut out", ended)
}

// cacheKey is the key of a token's entry.
func cacheKey(token seal.Secret) string {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// What the bucket holds is what the rows say, byte for byte; of what has ended there is no row.
func TestTheTruthAboutSessions(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	n := startNode(t, db, server, 1<<20)
	token, alice, err := n.SignIn(t.Context(), meta, person("alice"))
	require.NoError(t, err)
	_, err = db.Pool.Exec(t.Context(), `INSERT INTO google_accounts (user_id, google_id, email, state, scopes)
		VALUES ($1, 'g', 'alice@example.com', 'connected', '{openid,email}')`, alice.User.ID)
	require.NoError(t, err)
	found, err := n.Authenticate(t.Context(), token.Reveal())
	require.NoError(t, err)
	require.Equal(t, identity.Google{State: "connected", Scopes: []string{"openid", "email"}}, found.Google)
	truth, key := identity.Truth(db.Pool), cacheKey(token)
	entry, held, err := nearcache.NewBucket(n.kv).Get(t.Context(), key)
	require.NoError(t, err)
	require.True(t, held)
	require.False(t, entry.Tombstone)
	rows, err := truth(t.Context(), []string{key, "beat.x", ""})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, entry.Version, rows[key].Version)
	require.True(t, rows[key].Holds(entry.Data))
	require.False(t, rows[key].Holds(append(entry.Data, ' ')))
	require.NoError(t, n.SetSystemRole(t.Context(), meta, alice.User.ID, events.SystemRoleAdmin))
	rows, err = truth(t.Context(), []string{key})
	require.NoError(t, err)
	require.Greater(t, rows[key].Version, entry.Version)
	require.False(t, rows[key].Holds(entry.Data))
	require.NoError(t, n.Logout(t.Context(), by(alice.User.ID), alice.ID))
	rows, err = truth(t.Context(), []string{key})
	require.NoError(t, err)
	require.Empty(t, rows)
}

// The password of a user of NATS, whichever, makes nobody an operator: a session that somebody else than an api wrote into the
// bucket is no session.
func TestNoPasswordOfNATSMakesASession(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	n := startNode(t, db, server, 1<<20)
	token, alice, err := n.SignIn(t.Context(), meta, person("alice"))
	require.NoError(t, err)
	written := 0
	for _, user := range []string{"provision", bus.CacheInvalidator, "api", bus.Syncer, bus.AuditArchiver, "ops"} {
		denied := make(chan struct{}, 1)
		nc := natstest.Connect(t, server, user, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { denied <- struct{}{} }))
		for _, forged := range []string{token.Reveal(), "a token that nobody was given " + user} {
			session := alice
			session.User.SystemRole = events.SystemRoleAdmin
			body, err := json.Marshal(session)
			require.NoError(t, err)
			key := cacheKey(seal.Secret(forged))
			header := []byte{1, 0, 0, 0, 0, 0, 1, 0, 0}
			for _, entry := range [][]byte{
				append(header, body...),
				append(append([]byte{3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, make([]byte, 36)...), body...),
			} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				go func() {
					select {
					case <-denied:
						cancel()
					case <-ctx.Done():
					}
				}()
				_, err := nc.RequestWithContext(ctx, "$KV.sessions."+key, entry) // the answer says that the bucket has it
				cancel()
				if err == nil {
					written++
				}
				found, err := n.Authenticate(t.Context(), forged)
				if forged == token.Reveal() {
					require.NoError(t, err)
					require.Equal(t, events.SystemRoleUser, found.User.SystemRole, user)
				} else {
					requireKind(t, fault.Unauthenticated, err)
				}
			}
		}
	}
	require.GreaterOrEqual(t, written, 3*4, "the attack was not made by all who may write")
}

// A session that is over by the clock is over, whatever is cached.
func TestACachedSessionExpires(t *testing.T) {
	t.Parallel()
	db, server := pgtest.New(t), natstest.Provisioned(t)
	n := startNode(t, db, server, 1<<20)
	n.runOut(t, func(name string, left time.Duration) seal.Secret {
		token, s, err := n.SignIn(t.Context(), meta, person(name))
		require.NoError(t, err)
		_, err = db.Pool.Exec(t.Context(), `UPDATE sessions SET expires_at = now() + $2::interval WHERE id = $1`, s.ID, left)
		require.NoError(t, err)
		return token
	})
}

// runOut waits for the end of a token that was served before, of a user of that name. A machine on which it ended before that is given
// another, which has more time left.
func (n *node) runOut(t *testing.T, issue func(name string, left time.Duration) seal.Secret) {
	t.Helper()
	for left := time.Second; left < patience; left *= 2 {
		token := issue("for-"+left.String(), left)
		if _, err := n.Authenticate(t.Context(), token.Reveal()); err == nil {
			n.await(t, token, "it has run out", ended)
			return
		}
	}
	t.Fatal("no token was served")
}
