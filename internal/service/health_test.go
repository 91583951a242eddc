package service

import (
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// While nothing can store events, the api is not well, however well its connections are.
func TestDeepHealthWantsTheEventsStream(t *testing.T) {
	t.Parallel()
	server := natstest.New(t, natstest.WithTCP())
	nc, err := bus.Connect(bus.Config{URL: server.URL("api")}, "api", zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	b := &Backends{Pool: pgtest.New(t).Pool, NATS: nc, JS: js}

	answers := b.checks(t.Context())
	require.NoError(t, answers["nats"])
	require.NoError(t, answers["postgres"])
	require.Equal(t, fault.Unavailable, fault.KindOf(answers["events"]))
	require.ErrorContains(t, answers["events"], "EVENTS does not exist")

	provision, err := bus.JetStream(natstest.Connect(t, server, "provision"))
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), provision, 1))
	require.NoError(t, b.checks(t.Context())["events"])
	require.NoError(t, provision.DeleteStream(t.Context(), bus.Events))
	require.Error(t, b.checks(t.Context())["events"])
}
