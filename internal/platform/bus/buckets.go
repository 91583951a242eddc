package bus

import (
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of the key-value buckets.
const (
	Sessions      = "sessions"
	WorkspaceData = "workspace_data"
	Flags         = "flags"
)

// expendable reports whether a stream may be replaced by an empty one: Postgres has what it holds, or it holds a minute's counts.
func expendable(stream string) bool {
	return slices.Contains([]string{"KV_" + Sessions, "KV_" + WorkspaceData, RateLimits, RateLimitLogs}, stream)
}

// asyncPersist is the mode in which a file stream lets nobody wait for the disk: a single server keeps it over a restart, with its
// configuration, and one that crashes may lose the newest messages.
func asyncPersist(replicas int) jetstream.PersistModeType {
	if replicas > 1 { // the replicas have it, and the server knows no other mode then
		return jetstream.DefaultPersistMode
	}
	return jetstream.AsyncPersistMode
}

// Buckets are the project's buckets as the streams they are made of. The client's own CreateKeyValue always allows
// direct reads, which any replica may answer; a cache of sessions must ask the leader.
func Buckets(replicas int) []jetstream.StreamConfig {
	cache := func(name, description string, ttl time.Duration, maxBytes int64) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name:        "KV_" + name,
			Description: description,
			Subjects:    []string{"$KV." + name + ".>"},
			// Postgres is the truth, but a single server forgets a memory stream altogether when it restarts, and only
			// `fdc migrate` makes it again. So it is a file, which nobody waits for: a server that crashes may lose the newest
			// entries, and who reads the bucket reckons with that.
			Storage:                jetstream.FileStorage,
			PersistMode:            asyncPersist(replicas),
			Replicas:               replicas,
			MaxMsgsPerSubject:      1,
			MaxAge:                 ttl,
			MaxBytes:               maxBytes,
			Discard:                jetstream.DiscardOld,
			DenyDelete:             true,
			AllowRollup:            true,
			AllowDirect:            false,
			AllowMsgTTL:            true,
			SubjectDeleteMarkerTTL: 5 * time.Minute,
			Duplicates:             2 * time.Second,
		}
	}
	return []jetstream.StreamConfig{
		cache(Sessions, "Sessions by the SHA-256 of their token", 5*time.Minute, 128<<20),
		cache(WorkspaceData, "Workspace documents by workspace id", time.Minute, 256<<20),
		{
			Name:        "KV_" + Flags,
			Description: "What operators have switched, by flag",
			Subjects:    []string{"$KV." + Flags + ".>"},
			// Nothing else knows it: it survives a restart, and the leader is asked.
			Storage:           jetstream.FileStorage,
			Replicas:          replicas,
			MaxMsgsPerSubject: 1,
			MaxBytes:          1 << 20,
			MaxMsgSize:        16 << 10,
			Discard:           jetstream.DiscardOld,
			DenyDelete:        true,
			AllowRollup:       true,
			AllowDirect:       false,
			Duplicates:        2 * time.Second,
		},
	}
}
