package outbox

// AfterPublish has f called between the acknowledgement of a round and the delete of its rows. Set it before Run.
func (r *Relay) AfterPublish(f func()) { r.afterPublish = f }
