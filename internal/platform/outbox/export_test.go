package outbox

// MaxHeld is how many published rows wait for the audit log at most.
const MaxHeld = maxHeld

// AfterPublish has f called between the acknowledgement of a round and its record. Set it before Run.
func (r *Relay) AfterPublish(f func()) { r.afterPublish = f }
