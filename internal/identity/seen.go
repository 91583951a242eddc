package identity

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	noteEvery = time.Second
	// maxNoted bounds what waits while Postgres is away. Who is not noted then is noted with a later request.
	maxNoted = 100_000
)

// seen collects the sessions that made requests, so that noting it is one statement a second and no request waits for it.
type seen struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

func (n *seen) note(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ids == nil {
		n.ids = map[string]struct{}{}
	}
	if len(n.ids) < maxNoted {
		n.ids[id] = struct{}{}
	}
}

// take empties it.
func (n *seen) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := slices.Collect(maps.Keys(n.ids))
	n.ids = nil
	return ids
}

// NoteSeen writes down which sessions were seen by Authenticate since the last call; of each at most once a minute.
func (s *Service) NoteSeen(ctx context.Context) error {
	ids := s.seen.take()
	if len(ids) == 0 {
		return nil
	}
	err := touchSessions(ctx, s.outbox.Pool(), ids)
	if err != nil {
		for _, id := range ids {
			s.seen.note(id)
		}
	}
	return err
}

// runSeen notes until ctx ends, and a last time then.
func (s *Service) runSeen(ctx context.Context, log zerolog.Logger) {
	again := time.NewTicker(noteEvery)
	defer again.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteEvery)
			defer cancel()
			if err := s.NoteSeen(ctx); err != nil {
				log.Warn().Err(err).Msg("last requests of sessions not noted")
			}
			return
		case <-again.C:
		}
		err := s.NoteSeen(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			log.Warn().Err(err).Msg("last requests of sessions not noted yet")
		}
		failing = err != nil
	}
}
