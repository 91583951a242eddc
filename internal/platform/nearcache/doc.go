// Package nearcache keeps a JetStream key-value bucket true to the rows it was filled from, and a layer in this process true
// to the bucket.
//
// # The bucket
//
// An entry is {version, tombstone, data} and is only ever replaced by a newer one: a write compares versions and stores
// by compare-and-set on the revision, so that writes may arrive late, twice or in any order and the newest still wins.
// Deleting and filling again can't give that: a slow fill would bring back what was deleted. A tombstone of version V
// withdraws V and fences every fill of V and older ones; V+1 takes its place.
//
// A value carries an HMAC-SHA-256 over bucket, key, version, time and data, with a key that only the api has (Config.Signer). The
// signature is verified when a value enters the in-process layer, not when it is served from there. A value without a valid
// signature, or with one that is older than 5 minutes, is treated as missing and counted (cache_unsigned_total). Tombstones are not
// signed, because the cache-invalidator, which has no key, writes them: all that a forged one does is send readers to the database.
//
// # The cache
//
// Cache reads from the near layer, else the bucket (its leader), else the database, once for all who ask at one moment on a
// node. A load outlasts neither 5 s nor, therefore, the tombstone that fences it, and is joined in its first second only. What
// was outdated while it was read is read again: nobody gets it who came after the newer version was told here.
//
// The near layer serves only while its watch of the bucket is proven. Each node writes a beat into the bucket every second,
// stamped with its own monotonic clock, and is delivered its own only (a key is therefore one token, without a dot); a beat that comes back on the watch proves that everything stored before it has
// come too. The newest beat that came back must have been sent less than 3 s ago. A connection that breaks, a beat that lapses,
// a message that is missing or a sequence that goes back purge the near layer, and a new watch begins; what was read in the
// life of another watch never enters.
//
// # The monitor
//
// Monitor, which runs in the cache-invalidator, repeats each invalidation from its event and proves 1 s and 10 s later that it
// held: the bucket has no version that the event outdated, none that the row has not reached, and of the row's own
// version the row's bytes. It reads the entry first and the row after it, so that what it finds wrong is no race; what is wrong
// is counted (cache_inconsistency_total: any is a bug), logged without its content and withdrawn. A corrupt entry's version is
// then not kept in the bucket until the tombstone has expired or a newer one is written. Keys without a value cost the
// database nothing, the others one statement a second, for up to 200 keys and 16 MiB. 10,000 checks wait per window, longest
// while a store is away; the oldest beyond are dropped and counted (cache_checks_dropped_total). A monitor that ends makes those
// that wait at once.
//
// When it starts, after each new connection to the bus, and when events turn out to be lost, it compares the whole bucket with
// the rows, 200 keys at a time with pauses, and withdraws what is not the row's version (cache_withdrawn_total). Whatever it
// never sees ends with the entry's time to live.
//
// # Guarantees
//
//   - The versions that one node serves for a key never go back, and who wrote on a node reads that version or a newer one
//     there; also when the bucket is purged or lost and a slow writer then brings an old version, for the keys that the near
//     layer has room for: of what it has served it remembers the version for 30 s. On another node the version before may be
//     served for as long as the watch takes, or for 3 s when that hangs; a reader who says which version it has seen (atLeast)
//     gets no older one anywhere.
//   - When nothing is written, the bucket holds for each key the row's version, a tombstone, or nothing.
//   - That a key has no value and never will have one is remembered for 10 s, by the near layer alone.
//   - The near layer stays within its bytes, keeps an entry for 30 s at most, and a key that is too large for the bucket is in
//     no layer.
//
// # Failure modes
//
// The bus away, slow or paused: the database answers, later than otherwise by half a second for one reader each second who
// finds out. A writer that can't reach the bucket waits 1.5 s at most; until the bucket takes it the node remembers the version
// (10,000 keys), serves nothing older and repeats the withdrawal each second. If that node ends meanwhile, other nodes whose
// watch works serve the version before until the invalidator has handled the event, or until the entry expires. The database
// away too: the loader's error; never an old answer. An entry that can't be read, decoded or verified is no entry. A bucket that lost
// its content is an empty cache, not a wrong one. A database that was restored from a backup is believed; its keys are not
// kept until their entries in the bucket have expired.
//
// A node believes only what was written into the bucket since its present watch began, so nothing that was there before it
// started, or before an outage: that may have been outdated meanwhile by somebody who could not say so, and a server that ended
// badly may have come back without its newest entries. Until a key is written again, the database is asked, and what is loaded
// is written again.
//
// An attacker with a password of NATS that may write the bucket can keep keys out of it, with tombstones of high versions, until they expire.
// They can also write an old entry again: nodes that know a newer version ignore it, others serve it until its signature is 5 minutes
// old. Without such a write an entry lives as long, when no invalidation reaches the bucket.
package nearcache
