package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

func TestDocumentsAreFresh(t *testing.T) {
	t.Parallel()
	dir := os.DirFS("../..")
	documents, err := render(dir)
	require.NoError(t, err)
	for name, want := range documents {
		got, err := fs.ReadFile(dir, name)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "%s differs from the code: go generate ./events", name)
	}
}

func TestRunWritesWhatRenderMakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir+"/testdata", os.DirFS("../../testdata")))
	require.NoError(t, run(dir))
	documents, err := render(os.DirFS(dir))
	require.NoError(t, err)
	for name, want := range documents {
		got, err := fs.ReadFile(os.DirFS(dir), name)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	}
	require.ErrorIs(t, run(t.TempDir()), fs.ErrNotExist, "without golden files")
	require.ErrorIs(t, run(dir+"/nowhere"), fs.ErrNotExist)
}

// TestAsyncAPIHoldsTogether follows every reference and finds every type.
func TestAsyncAPIHoldsTogether(t *testing.T) {
	t.Parallel()
	b, err := asyncAPI()
	require.NoError(t, err)
	var document map[string]any
	require.NoError(t, json.Unmarshal(b, &document))

	references := 0
	var walk func(node any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			if target, ok := node["$ref"].(string); ok {
				references++
				require.NotNil(t, follow(document, target), target)
			}
			for _, child := range node {
				walk(child)
			}
		case []any:
			for _, child := range node {
				walk(child)
			}
		}
	}
	walk(document)
	require.Equal(t, 4*len(events.Types()), references)

	for _, typ := range events.Types() {
		channel := follow(document, "#/channels/"+typ.Action()).(map[string]any)
		scope := "00000000-0000-7000-8000-000000000000"
		if typ.Scope == events.ScopeSystem {
			scope = events.SystemScope
		}
		subject, err := events.Subject(typ.Name, scope)
		require.NoError(t, err)
		require.Equal(t, subject, strings.ReplaceAll(channel["address"].(string), "{scopeId}", scope))
		require.Equal(t, typ.Stored, channel["x-nats-stream"] == "EVENTS")
	}
}

func follow(document map[string]any, reference string) any {
	var node any = document
	for name := range strings.SplitSeq(strings.TrimPrefix(reference, "#/"), "/") {
		parent, ok := node.(map[string]any)
		if !ok {
			return nil
		}
		node = parent[name]
	}
	return node
}

func TestReadmeNamesEveryField(t *testing.T) {
	t.Parallel()
	page, err := readme(os.DirFS("../.."))
	require.NoError(t, err)
	sections := strings.Split(string(page), "\n### ")[1:]
	require.Len(t, sections, len(events.Types()))
	for i, typ := range events.Types() {
		require.True(t, strings.HasPrefix(sections[i], typ.Action()+"\n"))
		for _, f := range typ.Fields {
			require.Contains(t, sections[i], "`"+f.Name+"`")
			require.Contains(t, sections[i], f.Doc)
		}
	}
}
