package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/alexedwards/scs/redisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/gin-gonic/gin"
	redigo "github.com/gomodule/redigo/redis"
	"github.com/redis/go-redis/v9"

	"fdc/events"
)

// redisPeer is Gin with sessions in Redis, as scs keeps them: each request reads its own from there. Redis persists
// nothing, and the pools have an open connection for every request at a time. Without an idle timeout scs writes a session
// back only when it was changed, so a read is a read.
type redisPeer struct {
	sessions *scs.SessionManager
	pool     *redigo.Pool
	client   *redis.Client
	keep     place
	cookies  []*http.Cookie // of the sessions, one for each answer
}

// place is where the peer keeps what it answers.
type place int

const (
	nowhere       place = iota // there is no peer
	inSession                  // what the session holds is answered as it is
	besideSession              // the session names the user, under whose id Redis has it
)

const sessionValue = "value"

// newRedisPeer makes a session for each of the API's answers.
func newRedisPeer(ctx context.Context, addr string, answers []answer, keep place) (*redisPeer, error) {
	p := &redisPeer{
		sessions: scs.New(),
		pool: &redigo.Pool{
			MaxIdle:     connections,
			DialContext: func(ctx context.Context) (redigo.Conn, error) { return redigo.DialContext(ctx, "tcp", addr) },
		},
		client: redis.NewClient(&redis.Options{Addr: addr, PoolSize: connections, MinIdleConns: connections}),
		keep:   keep,
	}
	p.sessions.Store = redisstore.New(p.pool)
	for _, answer := range answers {
		cookie, err := p.signIn(ctx, answer.body)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("fill Redis: %w", err)
		}
		p.cookies = append(p.cookies, cookie)
	}
	return p, nil
}

func (p *redisPeer) signIn(ctx context.Context, body []byte) (*http.Cookie, error) {
	value := body
	if p.keep == besideSession {
		user := events.NewID()
		if err := p.client.Set(ctx, user, body, time.Hour).Err(); err != nil {
			return nil, err
		}
		value = []byte(user)
	}
	session, err := p.sessions.Load(ctx, "")
	if err != nil {
		return nil, err
	}
	p.sessions.Put(session, sessionValue, value)
	token, _, err := p.sessions.Commit(session)
	return &http.Cookie{Name: p.sessions.Cookie.Name, Value: token}, err //nolint:gosec // a request's cookie has no attributes
}

// handler answers everything with what is kept for the session.
func (p *redisPeer) handler() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/*path", func(c *gin.Context) {
		ctx := c.Request.Context()
		body := p.sessions.GetBytes(ctx, sessionValue)
		if p.keep == besideSession {
			var err error
			if body, err = p.client.Get(ctx, string(body)).Bytes(); err != nil {
				_ = c.AbortWithError(http.StatusInternalServerError, err) // the status ends the load
				return
			}
		}
		c.Data(http.StatusOK, "application/json", body)
	})
	return p.sessions.LoadAndSave(engine)
}

func (p *redisPeer) close() { _ = errors.Join(p.client.Close(), p.pool.Close()) } // nothing is pending
