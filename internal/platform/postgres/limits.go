package postgres

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// lockTimeout bounds each wait for a lock. (A row can take two: for one's turn, and then for whoever holds it.) It is at
	// most half the statement's own limit, so that the error says which of the two it was.
	lockTimeout = 5 * time.Second

	// idleTimeout bounds how long a transaction may hold its locks while its client does nothing: paused, cut off, or
	// waiting for Google, which a refresh of tokens does for some seconds.
	idleTimeout = 30 * time.Second

	// clientGrace is how much later the client gives up on a statement than the server should have.
	clientGrace = time.Second

	// queuePerConn is how many callers may wait per connection of a pool that bounds the wait. Statements take about a
	// millisecond: who stands further back would be served late, and costs memory meanwhile.
	queuePerConn = 100
)

// limits are what a pool's statements and waits may take. The server enforces its part; the pool asks here at every
// acquisition and statement, as it asks a tracer, and goes on with the context that it gets back.
type limits struct {
	wait      time.Duration // for a connection; zero: as long as the caller's context
	queue     int64         // how many may wait
	statement time.Duration // zero: as long as the caller's context
	pooled    bool

	waiting atomic.Int64
}

func newLimits(c Config) *limits {
	return &limits{wait: c.MaxWait, queue: queuePerConn * int64(c.MaxConns), statement: c.QueryTimeout, pooled: c.pooled()}
}

// settings are the limits that the server enforces, by name, in milliseconds.
func (l *limits) settings() [][2]string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	return [][2]string{
		{"statement_timeout", ms(l.statement)},
		{"lock_timeout", ms(min(lockTimeout, l.statement/2))},
		{"idle_in_transaction_session_timeout", ms(idleTimeout)},
	}
}

// TxOptions says how a transaction on a pool of Open begins. Behind a pooler it brings its limits along, in the same round
// trip: a server connection there has many clients, and none may leave settings behind.
func TxOptions(pool *pgxpool.Pool) pgx.TxOptions {
	l, ok := pool.Config().ConnConfig.Tracer.(*limits)
	if !ok || !l.pooled {
		return pgx.TxOptions{}
	}
	begin := []string{"BEGIN"}
	for _, s := range l.settings() {
		begin = append(begin, "SET LOCAL "+s[0]+" = "+s[1])
	}
	return pgx.TxOptions{BeginQuery: strings.Join(begin, "; ")}
}

// bounded is a context that is let go at the end of what it bounds.
type bounded struct {
	context.Context //nolint:containedctx // that is its purpose
	release         context.CancelFunc
}

func bound(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	return &bounded{ctx, cancel}
}

func release(ctx context.Context) {
	if b, ok := ctx.(*bounded); ok {
		b.release()
	}
}

// TraceAcquireStart bounds the wait for a connection.
func (l *limits) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	switch {
	case l.wait <= 0:
		return ctx
	case l.waiting.Add(1) > l.queue:
		return bound(ctx, 0)
	}
	return bound(ctx, l.wait)
}

// TraceAcquireEnd ends the wait.
func (l *limits) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireEndData) {
	if l.wait > 0 {
		l.waiting.Add(-1)
	}
	release(ctx)
}

// TraceQueryStart bounds a statement where the server can't: behind a pooler outside of a transaction, and when the
// network swallows the answer. What the client gives up is cancelled on the server.
func (l *limits) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if l.statement <= 0 {
		return ctx
	}
	return bound(ctx, l.statement+clientGrace)
}

// TraceQueryEnd ends the statement.
func (*limits) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) { release(ctx) }

// TraceCopyFromStart bounds a COPY as any statement.
func (l *limits) TraceCopyFromStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	return l.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{})
}

// TraceCopyFromEnd ends the COPY.
func (*limits) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromEndData) {
	release(ctx)
}
