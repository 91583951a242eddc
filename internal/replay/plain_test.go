package replay

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

// What FDC itself writes takes the fast path; if it didn't, exports would be slow and nothing else would tell.
func TestEventsArePlain(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../events/testdata/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		golden, err := os.ReadFile(file) //nolint:gosec // the test's own
		require.NoError(t, err)
		ev, err := events.Decode(golden)
		require.NoError(t, err)
		body, err := events.Encode(ev)
		require.NoError(t, err)
		require.True(t, isPlain(body), "%s", body)
	}
}

// FuzzIsPlain: a plain body is on one line, and encoding/json takes it too, so that appendBody gives it through as it is.
func FuzzIsPlain(f *testing.F) {
	for _, seed := range []string{
		"", `{}`, `[]`, `""`, `0`, `10`, `-1`, `01`, `1.5`, `1e9`, `1.`, `true`, `tru`, `truefalse`, `null`, `nullx`, `{"a":[{"b":"ü"},false]}`,
		`{"a":1,}`, `{,}`, `[1,]`, `[,1]`, `[1}`, `{"a"}`, `{"a":}`, `{1:2}`, `{"a":1]`, `{"a":1`, `[`, `"`, `"\n"`, `"\`, "\"\n\"", "\"\xff\"", "\"\x7f\"",
		`{}{}`, `[1 2]`, " 1", "1\n", strings.Repeat("[", plainDepth) + strings.Repeat("]", plainDepth), strings.Repeat("[", 100_000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !isPlain(body) {
			return
		}
		require.True(t, json.Valid(body))
		require.Equal(t, string(body), string(appendBody(nil, body)))
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, body))
		require.Equal(t, compact.String(), string(body), "it has no white space")
	})
}
