package push

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func FuzzParseCursor(f *testing.F) {
	f.Add(Cursor{}.String())
	f.Add(Cursor{-1, 1<<64 - 1}.String())
	f.Add(Cursor{1_788_000_000_000_000_000, 42}.String())
	f.Add("")
	f.Add("AAAAAAAAAAAAAAAAAAAAAB")  // bits beyond the last byte
	f.Add("AAAAAAAAAAAAAAAAAAAA\nA") // what a lenient decoder skips
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err != nil {
			require.ErrorIs(t, err, ErrBadCursor)
			require.Equal(t, fault.Malformed, fault.KindOf(err))
			return
		}
		require.Equal(t, s, c.String(), "one spelling only")
	})
}

func TestCursorRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range []Cursor{{}, {1, 2}, {-1, 1<<64 - 1}, {1 << 62, 1 << 63}} {
		got, err := ParseCursor(c.String())
		require.NoError(t, err)
		require.Equal(t, c, got)
	}
}
