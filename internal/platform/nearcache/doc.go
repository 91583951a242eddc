// Package nearcache keeps a JetStream key-value bucket true to the rows it was filled from.
//
// An entry is {version, tombstone, data} and is only ever replaced by a newer one: a write compares versions and stores
// by compare-and-set on the revision, so that writes may arrive late, twice or in any order and the newest still wins.
// Deleting and filling again can't give that: a slow fill would bring back what was deleted. A tombstone of version V
// therefore fences every fill older than V.
//
// Failure modes: an entry that can't be read or decoded is no entry. A bucket that lost its content (it is held in memory)
// is an empty cache, not a wrong one.
package nearcache
