package identity_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
)

// BenchmarkAuthenticate is the session check of a request when this node holds the session. It also tells what holding
// sessions takes: as it is, and as the near layer reckons when it decides how many it may hold.
func BenchmarkAuthenticate(b *testing.B) {
	const sessions = 5000
	db, server := pgtest.New(b), natstest.Provisioned(b)
	n := startNode(b, db, server, 64<<20)
	_, err := db.Pool.Exec(b.Context(), `
		WITH someone AS (
			INSERT INTO users (id, email, name, google_id)
			SELECT gen_random_uuid(), 'founder' || n || '@example.com', 'Founder ' || n, 'g' || n FROM generate_series(1, $1::int) n
			RETURNING id, name
		), place AS (
			INSERT INTO workspaces (id, name, created_by) SELECT gen_random_uuid(), 'Home of ' || name, id FROM someone
			RETURNING id, created_by
		), member AS (
			INSERT INTO workspace_members (workspace_id, user_id, role) SELECT id, created_by, 'OWNER' FROM place
		)
		INSERT INTO sessions (id, user_id, token_hash, expires_at)
		SELECT gen_random_uuid(), id,
		       sha256(rtrim(translate(encode(sha256(name::bytea), 'base64'), '+/', '-_'), '=')::bytea), now() + interval '7 days'
		FROM someone`, sessions)
	require.NoError(b, err)
	tokens := make([]string, sessions)
	for i := range tokens {
		sum := sha256.Sum256([]byte("Founder " + strconv.Itoa(i+1)))
		tokens[i] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	var group errgroup.Group
	group.SetLimit(32)
	for _, token := range tokens {
		group.Go(func() error {
			_, err := n.Authenticate(b.Context(), token)
			return err
		})
	}
	require.NoError(b, group.Wait())

	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := n.Authenticate(b.Context(), tokens[i%100]); err != nil {
			b.Fatal(err)
		}
		i++
	}
	const mebibytes = 100_000.0 / sessions / (1 << 20)
	b.ReportMetric(float64(n.cache.NearBytes())*mebibytes, "reckoned-MiB/100k")
}
