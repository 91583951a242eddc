package replay

import "time"

// SetWaits replaces how long a new replay delivers nothing, and how long a service may be idle before it counts as away.
func (r *Replays) SetWaits(settles, idle time.Duration) { r.settle, r.idleAfter = settles, idle }
