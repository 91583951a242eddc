package events_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

// TestCatalogue holds the catalogue to the contract: each type, its scope, nothing else.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	contract := map[events.Scope]string{
		events.ScopeWorkspace: `workspace.created workspace.data_updated workspace.member_added workspace.member_role_changed
			workspace.member_removed workspace.owner_appointed workspace.renamed workspace.deleted workspace.restored task.created task.updated task.deleted org.chart_updated`,
		events.ScopeUser: `session.created session.revoked session.rotated session.reauthenticated user.created user.role_changed user.disabled user.enabled user.erased
			google.connected google.disconnected google.reauth_required sync.requested sync.started sync.completed sync.failed sync.retried sync.cancelled sync.progress
			invitation.created invitation.resent invitation.withdrawn invitation.accepted invitation.declined chat.completed`,
		events.ScopeSystem: `auth.login_failed access.denied flag.changed audit.partition_created audit.partition_archived
			audit.partition_restored audit.exported audit.viewed audit.partitions_low ops.replayed ops.dead_letter_requeued ops.dead_letter_discarded ops.keys_rotated`,
	}
	want := make(map[string]events.Scope)
	for scope, actions := range contract {
		for action := range strings.FieldsSeq(actions) {
			want[action] = scope
		}
	}
	got := make(map[string]events.Scope)
	for _, typ := range events.Types() {
		got[typ.Action()] = typ.Scope
		require.Equal(t, "fdc."+typ.Action()+".v1", typ.Name)
		require.Equal(t, typ.Action() != "sync.progress", typ.Stored, typ.Name)
		require.LessOrEqual(t, len(typ.Fields), 64, "the decoder counts fields in 64 bits")
		require.NotContains(t, typ.Summary, "|", "it goes into a table")
		require.True(t, strings.HasSuffix(typ.Summary, "."), typ.Summary)

		byName, ok := events.TypeByName(typ.Name)
		require.True(t, ok)
		require.Equal(t, typ, byName)
	}
	require.Equal(t, want, got)
	require.Len(t, events.Types(), len(want), "no type twice")

	_, ok := events.TypeByName("task.created")
	require.False(t, ok, "names are full")
}

// TestExamplesAreComplete makes the golden files cover each type and each field.
func TestExamplesAreComplete(t *testing.T) {
	t.Parallel()
	for _, typ := range events.Types() {
		ev := exampleOf(typ.Action())
		tree := make(map[string]any)
		mutate(t, ev, func(_, data map[string]any) { tree = data })
		for _, f := range typ.Fields {
			require.Contains(t, tree, f.Name, ev.Type)
		}
		require.Len(t, tree, len(typ.Fields), ev.Type)
	}
	require.Len(t, examples, len(events.Types()))
}

func TestTypesIsACopy(t *testing.T) {
	t.Parallel()
	events.Types()[0].Name = "changed"
	require.NotEqual(t, "changed", events.Types()[0].Name)
}

// TestStandardLibraryOnly: everything imports this package, so it drags nothing along.
func TestStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}",
		"fdc/events", "fdc/events/internal/gen").CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "fdc/events\nfdc/events/internal/gen\n", string(out))
}

func TestChanged(t *testing.T) {
	t.Parallel()
	many := make([]string, 101)
	for i := range many {
		many[i] = strings.Repeat("x", i+1)
	}
	for _, tt := range []struct {
		name        string
		paths, want []string
	}{
		{"nothing", nil, nil},
		{"sorted, once each", []string{"title", "dueDate", "title"}, []string{"dueDate", "title"}},
		{"100 paths", many[:100], many[:100]},
		{"101 paths", many, []string{"*"}},
		{"a path of 200 characters", []string{strings.Repeat("é", 200)}, []string{strings.Repeat("é", 200)}},
		{"a path of 201 characters", []string{"a", strings.Repeat("é", 201)}, []string{"*"}},
		{"a path that is no text", []string{"a", "b\x00"}, []string{"*"}},
		{"the whole document", []string{""}, []string{"*"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, events.Changed(tt.paths...))
		})
	}
	given := []string{"b", "a"}
	events.Changed(given...)
	require.Equal(t, []string{"b", "a"}, given, "the caller's list is left alone")
}
