package outbox

// HoldAtMost replaces the number of published rows that wait for the audit log at most. Set it before Run.
func (r *Relay) HoldAtMost(rows int) { r.maxHeld = rows }

// AfterPublish has f called between the acknowledgement of a round and its record. Set it before Run.
func (r *Relay) AfterPublish(f func()) { r.afterPublish = f }
