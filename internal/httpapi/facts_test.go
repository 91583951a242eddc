package httpapi_test

import (
	"context"
	"encoding/json"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
)

// fact is an event as it went out.
type fact struct {
	data                                                   map[string]any
	requestID, callerRequestID, actor, user, workspace, ip string
}

// facts are the stored events of an action, such as task.created, in their order; of a shared world those that its visitors caused. It
// waits until all that was committed before is there.
func (w *world) facts(action string) []fact {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		stats, err := outbox.ReadStats(ctx, w.db.Pool)
		require.NoError(w.t, err)
		if stats.Pending == 0 {
			tick.Stop()
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatal("the outbox does not drain")
		}
	}
	stream, err := w.js.Stream(ctx, bus.Events)
	require.NoError(w.t, err)
	info, err := stream.Info(ctx)
	require.NoError(w.t, err)
	var list []fact
	for seq := max(info.State.FirstSeq, w.first); seq > 0 && seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(ctx, seq)
		require.NoError(w.t, err)
		ev, err := events.Decode(msg.Data)
		require.NoError(w.t, err)
		if ev.Action() != action || w.agent != "" && ev.UserAgent != w.agent {
			continue
		}
		data, err := json.Marshal(ev.Data)
		require.NoError(w.t, err)
		f := fact{requestID: ev.RequestID, callerRequestID: ev.CallerRequestID, actor: ev.ActorID, user: ev.UserID, workspace: ev.WorkspaceID, ip: ev.IP}
		require.NoError(w.t, json.Unmarshal(data, &f.data))
		list = append(list, f)
	}
	return list
}
