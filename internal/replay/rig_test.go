package replay_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"fdc/events"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(16) // they wait for redeliveries and for services that are away
	m.Run()
}

// rig is a provisioned server, seen by an operator and, for what only services do, by a publisher.
type rig struct {
	server *embednats.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	owner  jetstream.JetStream // provision
	settle time.Duration       // of a new replay
	idle   time.Duration       // after which a service is away
}

func newRig(tb testing.TB, opts ...natstest.Option) *rig {
	tb.Helper()
	r := &rig{server: natstest.Provisioned(tb, opts...), settle: 100 * time.Millisecond, idle: patience}
	r.nc = natstest.Connect(tb, r.server, "ops")
	var err error
	r.js, err = bus.JetStream(r.nc)
	require.NoError(tb, err)
	r.owner = natstest.JetStream(tb, natstest.Connect(tb, r.server, "provision"))
	return r
}

// A workspace and two users, the same in all tests.
var workspace, alice, bob = events.NewID(), events.NewID(), events.NewID()

// task is a fact of the workspace that concerns a user.
func task(user string) events.Event {
	id := events.NewID()
	return events.New(events.Meta{Source: "/fdc/test", ActorID: user, UserID: user}, id,
		events.TaskCreated{TaskID: id, WorkspaceID: workspace, Version: 1, Origin: "user"})
}

// denied is a fact of scope system.
func denied() events.Event {
	return events.New(events.Meta{Source: "/fdc/test", ActorID: alice}, "", events.OpsReplayed{Consumer: "probe"})
}

// publish stores events in batches.
func (r *rig) publish(tb testing.TB, list ...events.Event) {
	tb.Helper()
	for len(list) > 0 {
		batch := list[:min(len(list), 1000)]
		list = list[len(batch):]
		messages := make([]*nats.Msg, len(batch))
		for i, ev := range batch {
			body, err := events.Encode(ev)
			require.NoError(tb, err)
			messages[i] = &nats.Msg{Subject: ev.NATSSubject(), Data: body, Header: nats.Header{jetstream.MsgIDHeader: {ev.ID}}}
		}
		require.Eventually(tb, func() bool { return r.published(tb, messages) }, patience, 10*time.Millisecond)
	}
}

// published stores a batch, whole or not at all, and reports whether it is there. A request or its answer gets lost with the connection.
func (r *rig) published(tb testing.TB, messages []*nats.Msg) bool {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	_, err := jetstreamext.PublishMsgBatch(ctx, r.js, messages)
	refused, _ := errors.AsType[*jetstream.APIError](err)
	there := refused != nil && refused.ErrorCode == jetstreamext.JSErrCodeBatchPublishDuplicateMsgID
	if err != nil && !there {
		tb.Logf("publish: %v", err)
	}
	return err == nil || there
}

// fill stores so many tasks of alice.
func (r *rig) fill(tb testing.TB, n int) []events.Event {
	tb.Helper()
	list := make([]events.Event, n)
	for i := range list {
		list[i] = task(alice)
	}
	r.publish(tb, list...)
	return list
}
