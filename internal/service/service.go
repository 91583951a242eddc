package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/telemetry"
	"fdc/migrations"
)

// drainTime is how long a service that was asked to stop may take to finish what it has.
const drainTime = 10 * time.Second

// Common is what every service reads from the environment.
type Common struct {
	Database  postgres.Config
	Bus       bus.Config
	Telemetry telemetry.Config

	MetricsAddr string `env:"METRICS_ADDR" envDefault:"127.0.0.1:9090"`
}

func (c Common) common() Common { return c }

// Runtime is what the process lends a service.
type Runtime struct {
	Log   zerolog.Logger
	Admin *daemon.Handle
}

// Waiting reports what the service waits for, in the log and at /readyz.
func (r Runtime) Waiting(what string) {
	r.Log.Info().Str("for", what).Msg("waiting")
	r.Admin.Waiting(what)
}

// Standalone makes a process of a service: environment, logger, traces, admin endpoints.
func Standalone[C interface{ common() Common }](
	name string, run func(context.Context, C, Runtime) error,
) func(context.Context, map[string]string) error {
	return func(ctx context.Context, environ map[string]string) (err error) {
		config, err := daemon.ParseEnv[C](environ)
		if err != nil {
			return err
		}
		common := config.common()
		logged := telemetry.NewBuffer(os.Stderr)
		defer func() { err = errors.Join(err, logged.Close()) }()
		log := telemetry.Logger(common.Telemetry, logged, name)
		flush, err := telemetry.Tracing(ctx, common.Telemetry, "fdc-"+name)
		if err != nil {
			return err
		}
		defer func() {
			flushCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			err = errors.Join(err, flush(flushCtx))
		}()
		listener, err := Listen(ctx, common.MetricsAddr, "METRICS_ADDR")
		if err != nil {
			return err
		}
		admin := daemon.NewAdmin()
		runtime := Runtime{Log: log, Admin: admin.Service(name)}

		// The admin endpoints answer until the service has ended.
		adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() error { return admin.Serve(adminCtx, listener) })
		group.Go(func() error {
			defer stopAdmin()
			return run(groupCtx, config, runtime)
		})
		err = group.Wait()
		if err == nil {
			log.Info().Msg("stopped")
		}
		return err
	}
}

// Listen opens a TCP listener; setting is what the user would change when the address is taken.
func Listen(ctx context.Context, addr, setting string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w", addr, setting, err)
	}
	return listener, nil
}

// Backends are the connections of a service.
type Backends struct {
	Pool   *pgxpool.Pool
	NATS   *nats.Conn
	JS     jetstream.JetStream
	Outbox *outbox.Outbox
}

// Connect opens the pool and the bus and waits until the schema is the one of this binary.
func Connect(ctx context.Context, name string, c Common, r Runtime) (*Backends, error) {
	pool, err := postgres.Open(ctx, c.Database, "fdc-"+name)
	if err != nil {
		return nil, err
	}
	nc, err := bus.Connect(c.Bus, name, r.Log)
	if err != nil {
		pool.Close()
		return nil, err
	}
	js, err := bus.JetStream(nc)
	if err == nil {
		err = awaitDatabase(ctx, c.Database, pool, r)
	}
	if err != nil {
		nc.Close()
		pool.Close()
		return nil, err
	}
	r.Admin.Metrics.MustRegister(postgres.PoolMetrics(pool))
	r.Admin.Check("postgres", func(ctx context.Context) error { return postgres.Fault(pool.Ping(ctx)) })
	r.Admin.Check("nats", func(context.Context) error { return connected(nc) })
	return &Backends{Pool: pool, NATS: nc, JS: js, Outbox: outbox.New(pool, nc)}, nil
}

// pingDatabase reports whether the database answers, for workers.
func (b *Backends) pingDatabase(ctx context.Context) error { return postgres.Ping(ctx, b.Pool) }

// Close drains the bus, so that the last acknowledgements leave, and closes the pool.
func (b *Backends) Close() {
	closed := make(chan struct{})
	b.NATS.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := b.NATS.Drain(); err != nil {
		b.NATS.Close() // it was not connected: there is nothing to drain
	}
	select {
	case <-closed:
	case <-time.After(drainTime):
	}
	b.Pool.Close()
}

func connected(nc *nats.Conn) error {
	if status := nc.Status(); status != nats.CONNECTED {
		return fmt.Errorf("NATS is %s", status)
	}
	return nil
}

// awaitDatabase waits for both ways to the database, and for `fdc migrate`. A schema from the future and a server that is
// too old can't be waited out.
func awaitDatabase(ctx context.Context, c postgres.Config, pool *pgxpool.Pool, r Runtime) error {
	for attempt := 0; ; attempt++ {
		checkCtx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
		err := postgres.CheckSchema(checkCtx, c.Direct(), migrations.FS)
		if err == nil {
			err = pool.Ping(checkCtx)
		}
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the database: %w", context.Cause(ctx))
		case errors.Is(err, postgres.ErrSchemaNewer), errors.Is(err, postgres.ErrServerTooOld):
			return err
		case attempt%20 == 0:
			r.Waiting("database: " + err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Orderly turns the error of a start that was interrupted by the end of ctx into an orderly end.
func Orderly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that is its purpose
	}
	return err
}
