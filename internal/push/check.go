package push

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// EndedSessions returns those of the sessions that are live no more, by their own end too: nobody has used them for so long.
type EndedSessions func(ctx context.Context, ids []string) ([]string, error)

// checkTimeout bounds one check.
const checkTimeout = 10 * time.Second

// UseSessions makes the hub check the sessions of its sockets every minute. Call it before Run.
func (h *Hub) UseSessions(ended EndedSessions) { h.ended = ended }

// CheckSessions closes the sockets whose sessions have ended with 4001. Events do that too, at once; the end of a session that
// nobody uses is told by none. An open socket is no use.
func (h *Hub) CheckSessions(ctx context.Context) error {
	if h.ended == nil {
		return nil
	}
	h.mu.Lock()
	open := make(map[string][]*socket)
	for s := range h.sockets {
		open[s.session] = append(open[s.session], s)
	}
	h.mu.Unlock()
	if len(open) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	ids, err := h.ended(ctx, slices.Collect(maps.Keys(open)))
	if err != nil {
		return fmt.Errorf("check the sessions of sockets: %w", err)
	}
	for _, id := range ids {
		for _, s := range open[id] {
			s.end(CodeSessionEnded)
		}
	}
	return nil
}

// checks checks the sessions until ctx ends. What fails is tried again with the next check.
func (h *Hub) checks(ctx context.Context) {
	tick := time.NewTicker(h.limits.check)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := h.CheckSessions(ctx); err != nil && ctx.Err() == nil {
			h.log.Warn().Err(err).Msg("sessions of sockets not checked")
		}
	}
}
