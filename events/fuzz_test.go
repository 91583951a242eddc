package events_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

// FuzzDecode: what decodes can be encoded, means the same afterwards, and is what any other JSON reader sees.
func FuzzDecode(f *testing.F) {
	golden := os.DirFS("testdata")
	files, err := fs.Glob(golden, "*.json")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, file := range files {
		b, err := fs.ReadFile(golden, file)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := events.Decode(b)
		if err != nil {
			require.Equal(t, events.Event{}, ev)
			return
		}
		encoded, err := events.Encode(ev)
		require.NoError(t, err)
		again, err := events.Decode(encoded)
		require.NoError(t, err)
		require.Equal(t, ev, again)
		twice, err := events.Encode(again)
		require.NoError(t, err)
		require.Equal(t, encoded, twice)

		var other struct {
			ID   string         `json:"id"`
			Type string         `json:"type"`
			Data map[string]any `json:"data"`
		}
		require.NoError(t, json.Unmarshal(b, &other))
		require.Equal(t, ev.ID, other.ID)
		require.Equal(t, ev.Type, other.Type)
		require.NotEmpty(t, other.Data)

		parsed, err := events.ParseSubject(ev.NATSSubject())
		require.NoError(t, err)
		require.Equal(t, ev.Type, parsed.Type())
		require.NotEmpty(t, ev.Aggregate())
		require.Positive(t, ev.Version())
	})
}

// FuzzParseSubject: what parses is spelled in one way only, and has only tokens that are safe in a subject.
func FuzzParseSubject(f *testing.F) {
	for _, ev := range examples {
		f.Add(ev.NATSSubject())
	}
	f.Fuzz(func(t *testing.T, subject string) {
		parsed, err := events.ParseSubject(subject)
		if err != nil {
			require.ErrorIs(t, err, events.ErrSubject)
			require.Equal(t, events.ParsedSubject{}, parsed)
			return
		}
		require.Equal(t, subject, parsed.String())
		require.NotContains(t, subject, "*")
		require.NotContains(t, subject, ">")
		require.NotContains(t, subject, " ")
		if typ, ok := events.TypeByName(parsed.Type()); ok && typ.Stored == parsed.Stored &&
			(typ.MayLackUser || (typ.Scope == events.ScopeSystem) == (parsed.ScopeID == events.SystemScope)) {
			made, err := events.Subject(parsed.Type(), parsed.ScopeID)
			require.NoError(t, err)
			require.Equal(t, subject, made)
		}
	})
}
