package events

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"time"
)

// ids is the process's one source of ids: the order it keeps is among all of them.
var ids idSource

// NewID returns a new UUIDv7 in its canonical spelling. Ids of one process sort in the order they were made, even when
// its clock steps back; ids of several processes sort by their clocks. Safe for concurrent use.
func NewID() string {
	return ids.next(time.Now())
}

// idSource makes UUIDv7s by RFC 9562, method 3 of section 6.2: the 12 bits after the milliseconds are a fraction of them.
type idSource struct {
	mu   sync.Mutex
	last uint64 // milliseconds and fraction of the last id, 48 and 12 bits
}

func (s *idSource) next(now time.Time) string {
	const perFraction = uint64(time.Millisecond) / (1 << 12)
	ns := uint64(now.UnixNano())
	ms, rest := ns/uint64(time.Millisecond), ns%uint64(time.Millisecond)
	tick := ms<<12 | min(rest/perFraction, 1<<12-1)

	s.mu.Lock()
	tick = max(tick, s.last+1)
	s.last = tick
	s.mu.Unlock()

	var u [16]byte
	rand.Read(u[8:]) // never returns an error
	binary.BigEndian.PutUint64(u[:8], tick>>12<<16|0x7<<12|tick&0xfff)
	u[8] = u[8]&0x3f | 0x80
	return formatID(u)
}

func formatID(u [16]byte) string {
	var s [36]byte
	hex.Encode(s[0:8], u[0:4])
	hex.Encode(s[9:13], u[4:6])
	hex.Encode(s[14:18], u[6:8])
	hex.Encode(s[19:23], u[8:10])
	hex.Encode(s[24:36], u[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// ValidID reports whether s is a UUID in its canonical spelling: 36 characters, lower case. Any version passes: users
// and workspaces that existed before keep their ids.
func ValidID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}
