package events

// OpsReplayed is the data of ops.replayed. It stands alone; its subject is the consumer.
type OpsReplayed struct {
	Consumer      string `json:"consumer"      rule:"label" doc:"Who got the events again."`
	Count         int64  `json:"count"         rule:"count" doc:"How many events."`
	FirstSequence int64  `json:"firstSequence" rule:"count" doc:"The first one's sequence in EVENTS."`
	LastSequence  int64  `json:"lastSequence"  rule:"count" doc:"The last one's sequence in EVENTS."`
}

func (p OpsReplayed) key() key { return key{id: p.Consumer} }

// OpsDeadLetterRequeued is the data of ops.dead_letter_requeued. It stands alone; its subject is the consumer.
type OpsDeadLetterRequeued struct {
	Consumer string `json:"consumer"          rule:"label" doc:"Whose dead letter it was."`
	Sequence int64  `json:"sequence"          rule:"count" doc:"Its sequence in DEAD."`
	EventID  string `json:"eventId,omitempty" rule:"id"    doc:"The event in it, where it can be read."`
	Reason   string `json:"reason,omitempty"  rule:"text"  doc:"Why, in the operator's words."`
}

func (p OpsDeadLetterRequeued) key() key { return key{id: p.Consumer} }

// OpsDeadLetterDiscarded is the data of ops.dead_letter_discarded. It stands alone; its subject is the consumer.
type OpsDeadLetterDiscarded struct {
	Consumer string `json:"consumer"          rule:"label" doc:"Whose dead letter it was."`
	Sequence int64  `json:"sequence"          rule:"count" doc:"Its sequence in DEAD."`
	EventID  string `json:"eventId,omitempty" rule:"id"    doc:"The event in it, where it could be read."`
	Reason   string `json:"reason"            rule:"text"  doc:"Why, in the operator's words."`
}

func (p OpsDeadLetterDiscarded) key() key { return key{id: p.Consumer} }

// OpsKeysRotated is the data of ops.keys_rotated. It stands alone; its subject is the key.
type OpsKeysRotated struct {
	Key      string `json:"key"      rule:"text"  doc:"The version of the key that seals everything now."`
	Resealed int64  `json:"resealed" rule:"count" doc:"How many values were sealed anew."`
}

func (p OpsKeysRotated) key() key { return key{id: p.Key} }
