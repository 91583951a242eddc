package gsync

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// expire makes the user's access token one that must be refreshed.
func (p *person) expire() {
	p.t.Helper()
	p.exec(`UPDATE google_accounts SET access_expires_at = now() WHERE user_id = $1`, p.id)
}

func isRefresh(r *http.Request) bool { return r.URL.Path == "/token" }

func (p *person) stored() account {
	p.t.Helper()
	a, err := p.account(context.WithoutCancel(p.t.Context()), p.ob.Pool(), p.id)
	require.NoError(p.t, err)
	return a
}

// While Google answers no refresh of twice as many users as there are connections, every connection is free for others.
func TestHangingRefreshesHoldNoConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const users = 20
	var people []*person
	for i := range users {
		people = append(people, w.connected(fmt.Sprintf("user%d@example.com", i)))
		people[i].expire()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	hanging, release := make(chan struct{}, 2*users), make(chan struct{})
	w.before(func(r *http.Request) {
		if isRefresh(r) {
			hanging <- struct{}{}
			<-release
		}
	})
	var group errgroup.Group
	for _, p := range people {
		for range 2 {
			group.Go(func() error {
				_, err := p.access(ctx, p.id, "")
				return err
			})
		}
	}
	for i := range users {
		select {
		case <-hanging:
		case <-ctx.Done():
			close(release)
			require.Fail(t, "refreshes wait for each other", "%d of %d reached Google", i, users)
		}
	}
	// All ten at once, while who waits for another's refresh takes one now and then.
	var others []*pgxpool.Conn
	for range int(w.ob.Pool().Config().MaxConns) {
		conn, err := w.ob.Pool().Acquire(ctx)
		require.NoError(t, err)
		others = append(others, conn)
		_, err = conn.Exec(ctx, `UPDATE google_accounts SET default_task_list = 'free' WHERE user_id = $1`, people[0].id)
		require.NoError(t, err, "no row is locked")
	}
	for _, conn := range others {
		conn.Release()
	}
	close(release)
	require.NoError(t, group.Wait())
	require.Empty(t, hanging, "one refresh of each")
}

// What ends a grant while it is being refreshed is not undone by the refresh, and does not wait for it.
func TestRefreshOfAGrantThatHasEnded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		meanwhile func(w *world, p *person)
		err       error
		email     string
		state     string
	}{
		"disconnected": {func(w *world, p *person) {
			require.NoError(w.t, w.Disconnect(w.t.Context(), testMeta, p.id))
		}, errNotConnected, alice, StateDisconnected},
		"switched": {func(w *world, p *person) {
			require.NoError(w.t, w.google.AddUser(bob, "Another"))
			require.NoError(w.t, w.Switch(w.t.Context(), testMeta, p.id, p.consent(bob, true)))
		}, nil, bob, StateConnected},
		"connected again": {func(w *world, p *person) {
			require.NoError(w.t, w.Connect(w.t.Context(), testMeta, p.id, p.consent(alice, true)))
		}, nil, alice, StateConnected},
		"marked": {func(w *world, p *person) {
			token := mustOpenAccess(w.t, w.Service, p)
			require.ErrorIs(w.t, w.refused(w.t.Context(), p.id, reasonInvalidToken, token, nil), errReauth)
		}, errReauth, alice, StateReauthRequired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := shared(t)
			w.control(http.MethodPut, "/_emulator/settings", object{"rotateRefreshTokens": true}, nil)
			p := w.connected(alice)
			before := p.stored()
			var once sync.Once
			var between account
			w.around(nil, func(r *http.Request) {
				if isRefresh(r) {
					once.Do(func() {
						w.around(nil, nil)
						test.meanwhile(w, p)
						between = p.stored()
					})
				}
			})
			stale := mustOpenAccess(t, w.Service, p)
			token, err := p.access(t.Context(), p.id, stale)
			require.Equal(t, between, p.stored(), "nothing of the ended grant was stored")
			require.Equal(t, test.state, between.State)
			require.NotEqual(t, before.RefreshToken, between.RefreshToken)
			if test.err != nil {
				require.ErrorIs(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, mustOpenAccess(t, w.Service, p), token.value)
			p.email = test.email
			lists, err := w.TaskLists(t.Context(), p.id)
			require.NoError(t, err, "the new grant lives")
			require.Len(t, lists, 1)
		})
	}
}

func mustOpenAccess(t *testing.T, s *Service, p *person) string {
	t.Helper()
	token, err := s.open(p.id, kindAccess, p.stored().AccessToken)
	require.NoError(t, err)
	return token
}

// A token that Google has rotated after the disconnect revoked the one before is revoked too.
func TestTokenOfADisconnectedUserIsRevoked(t *testing.T) {
	t.Parallel()
	w := shared(t)
	w.control(http.MethodPut, "/_emulator/settings", object{"rotateRefreshTokens": true}, nil)
	p := w.connected(alice)
	p.expire()
	var once sync.Once
	w.around(nil, func(r *http.Request) {
		if isRefresh(r) {
			once.Do(func() { require.NoError(t, w.Disconnect(t.Context(), testMeta, p.id)) })
		}
	})
	_, err := p.access(t.Context(), p.id, "")
	require.ErrorIs(t, err, errNotConnected)
	require.Len(t, w.asked("/revoke"), 1, "the token that was stored")
	var id, kind string
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT id::text, CASE WHEN refresh_token IS NULL THEN 'access' ELSE 'refresh' END
		FROM google_revocations WHERE user_id = $1`, p.id).Scan(&id, &kind))
	require.Equal(t, kindRefresh, kind)
	found, err := w.revokeNext(t.Context(), id)
	require.NoError(t, err)
	require.True(t, found)
	require.Len(t, w.asked("/revoke"), 2, "the one that came after it")
}

// A process that dies or stands still in a refresh keeps nobody from the next one, and what it brings late is not stored.
func TestRefresherThatIsGone(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.exec(`UPDATE google_accounts SET access_expires_at = now(), refresh_lease = gen_random_uuid(),
		refresh_until = clock_timestamp() + interval '200 ms' WHERE user_id = $1`, p.id)
	_, err := p.access(t.Context(), p.id, "")
	require.NoError(t, err, "the lease of the dead one has run out")

	p.expire()
	var fired atomic.Bool
	var next accessToken
	w.around(nil, func(r *http.Request) {
		if isRefresh(r) && fired.CompareAndSwap(false, true) {
			w.exec(`UPDATE google_accounts SET refresh_until = now() WHERE user_id = $1`, p.id)
			var err error
			next, err = w.newService(nil).access(t.Context(), p.id, "")
			require.NoError(t, err)
		}
	})
	late, err := p.access(t.Context(), p.id, "")
	require.NoError(t, err)
	require.Equal(t, next.value, late.value)
	require.Equal(t, next.value, mustOpenAccess(t, w.Service, p))

	// With rotation the next one's refresh token is dead, and only the user can help.
	w.control(http.MethodPut, "/_emulator/settings", object{"rotateRefreshTokens": true}, nil)
	p.expire()
	fired.Store(false)
	w.around(nil, func(r *http.Request) {
		if isRefresh(r) && fired.CompareAndSwap(false, true) {
			w.exec(`UPDATE google_accounts SET refresh_until = now() WHERE user_id = $1`, p.id)
			_, err := w.newService(nil).access(t.Context(), p.id, "")
			require.ErrorIs(t, err, errReauth)
		}
	})
	_, err = p.access(t.Context(), p.id, "")
	require.ErrorIs(t, err, errReauth)
	require.Equal(t, 1, w.count(p.id, "google.reauth_required"))
	require.NoError(t, w.Connect(t.Context(), testMeta, p.id, p.consent(alice, true)))
	_, err = w.TaskLists(t.Context(), p.id)
	require.NoError(t, err)
}

// A caller that leaves while Google answers loses nothing: the rotated token is stored.
func TestCallerLeavesARefresh(t *testing.T) {
	t.Parallel()
	w := shared(t)
	w.control(http.MethodPut, "/_emulator/settings", object{"rotateRefreshTokens": true}, nil)
	p := w.connected(alice)
	p.expire()
	ctx, leave := context.WithCancel(t.Context())
	w.around(nil, func(r *http.Request) {
		if isRefresh(r) {
			leave()
		}
	})
	_, err := p.access(ctx, p.id, "")
	if err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	w.around(nil, nil)
	_, err = p.access(t.Context(), p.id, "")
	require.NoError(t, err)
	p.expire()
	_, err = p.access(t.Context(), p.id, "")
	require.NoError(t, err, "the refresh token is the newest")
}
