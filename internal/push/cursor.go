package push

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"fdc/internal/platform/fault"
)

// ErrBadCursor is in the chain of the error of [ParseCursor], whose kind is fault.Malformed.
var ErrBadCursor = errors.New("bad cursor")

// Cursor is a position in one life of the stream EVENTS. Clients see it as an opaque string.
type Cursor struct {
	Epoch    int64  // when the stream was made: a stream that is deleted and made again counts anew
	Sequence uint64 // of the last event the client has
}

func epochOf(created time.Time) int64 { return created.UnixNano() }

const cursorSize = 16

// String is the cursor as clients hold it, safe in a URL, in JSON and in a header.
func (c Cursor) String() string {
	var b [cursorSize]byte
	binary.BigEndian.PutUint64(b[:8], uint64(c.Epoch)) //nolint:gosec // the same bits, read back by ParseCursor
	binary.BigEndian.PutUint64(b[8:], c.Sequence)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ParseCursor reads what String gave, and nothing else.
func ParseCursor(s string) (Cursor, error) {
	var b [cursorSize]byte
	if len(s) != base64.RawURLEncoding.EncodedLen(cursorSize) {
		return Cursor{}, badCursor()
	}
	// The decoder skips line breaks, and then the bytes are too few.
	if n, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(s)); err != nil || n != cursorSize {
		return Cursor{}, badCursor()
	}
	return Cursor{
		Epoch:    int64(binary.BigEndian.Uint64(b[:8])), //nolint:gosec // the same bits that String wrote
		Sequence: binary.BigEndian.Uint64(b[8:]),
	}, nil
}

func badCursor() error {
	return fault.Wrap(ErrBadCursor, fault.Malformed, "bad-cursor", "The cursor is not one that this server gave.")
}
