package events_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"

	"fdc/events"
)

// TestSchemasAgreeWithTheDecoder breaks each attribute and each field of each type in each way, and asks both.
func TestSchemasAgreeWithTheDecoder(t *testing.T) {
	t.Parallel()
	replacements := []any{
		nil, true, false, -1, 0, 1, 1.5, "", "x", "X", "a b", "alice@example.com", "*", "system", "on", "a***@example.com", "2026-02",
		exampleUser, exampleDigest, "2026-03-01T09:30:15Z", "/fdc/api",
		[]any{},
		[]any{"x"},
		[]any{1},
		map[string]any{},
	}
	for _, ev := range examples {
		t.Run(ev.Type, func(t *testing.T) {
			t.Parallel()
			schema := resolve(t, ev.Type)
			agree := func(what string, change func(event, data map[string]any)) {
				b := mutate(t, ev, change)
				_, decoding := events.Decode(b)
				var tree any
				require.NoError(t, json.Unmarshal(b, &tree))
				validating := schema.Validate(tree)
				require.Equal(t, decoding == nil, validating == nil, "%s: Decode: %v; schema: %v", what, decoding, validating)
			}
			mutate(t, ev, func(event, data map[string]any) {
				for _, name := range slices.Sorted(maps.Keys(event)) {
					agree("no "+name, func(event, _ map[string]any) { delete(event, name) })
					for _, value := range replacements {
						if beyondSchema(event, data, name, value) {
							continue
						}
						agree(fmt.Sprintf("%s: %#v", name, value), func(event, _ map[string]any) { event[name] = value })
					}
				}
				for _, name := range slices.Sorted(maps.Keys(data)) {
					agree("no data."+name, func(_, data map[string]any) { delete(data, name) })
					for _, value := range replacements {
						if value == exampleUser { // another id than the envelope's
							continue
						}
						agree(fmt.Sprintf("data.%s: %#v", name, value), func(_, data map[string]any) { data[name] = value })
					}
				}
			})
		})
	}
}

// beyondSchema reports the two things that Decode sees and a schema cannot say: which of two well-formed ids belongs
// there, and (since formats only annotate) what an address looks like.
func beyondSchema(event, data map[string]any, name string, value any) bool {
	_, isText := value.(string)
	return isText && value != "" && name == "ip" || value == exampleUser && event[name] != exampleUser && data != nil
}

func resolve(t *testing.T, typeName string) *jsonschema.Resolved {
	t.Helper()
	b, ok := events.Schema(typeName)
	require.True(t, ok)
	var schema jsonschema.Schema
	require.NoError(t, json.Unmarshal(b, &schema))
	require.Equal(t, "https://json-schema.org/draft/2020-12/schema", schema.Schema)
	require.Equal(t, "urn:fdc:schema:"+typeName, schema.ID)
	resolved, err := schema.Resolve(nil)
	require.NoError(t, err)
	return resolved
}

func TestSchemaOfUnknownType(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "task.created", "fdc.task.created.v2"} {
		_, ok := events.Schema(name)
		require.False(t, ok, name)
	}
}
