package identity

import "context"

// SweepErased deletes the rows of users who were erased a while ago.
func (s *Service) SweepErased(ctx context.Context) error { return s.sweepErased(ctx) }
