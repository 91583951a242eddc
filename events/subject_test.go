package events_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

func TestSubjectRoundTrip(t *testing.T) {
	t.Parallel()
	for _, ev := range examples {
		subject, err := events.Subject(ev.Type, ev.ScopeID())
		require.NoError(t, err)
		require.Equal(t, ev.NATSSubject(), subject)

		parsed, err := events.ParseSubject(subject)
		require.NoError(t, err)
		require.Equal(t, subject, parsed.String())
		require.Equal(t, ev.Type, parsed.Type())
		require.Equal(t, ev.Action(), parsed.Action())
		require.Equal(t, ev.ScopeID(), parsed.ScopeID)
		require.Equal(t, ev.Type != "fdc.sync.progress.v1", parsed.Stored)
	}
	require.Equal(t, "live.sync.progress.v1."+exampleUser, exampleOf("sync.progress").NATSSubject())
	require.Equal(t, "evt.flag.changed.v1.system", exampleOf("flag.changed").NATSSubject())
}

func TestSubjectRefuses(t *testing.T) {
	t.Parallel()
	_, err := events.Subject("fdc.task.created.v2", exampleWorkspace)
	require.ErrorIs(t, err, events.ErrUnknownType)
	for _, scope := range []string{"", "system", "*", ">", "a.b", "demo", strings.ToUpper(exampleWorkspace)} {
		_, err := events.Subject("fdc.task.created.v1", scope)
		require.ErrorContains(t, err, "want the id of a workspace")
	}
	_, err = events.Subject("fdc.flag.changed.v1", exampleUser)
	require.ErrorContains(t, err, "want the id of a system")
}

func TestParseSubject(t *testing.T) {
	t.Parallel()
	parsed, err := events.ParseSubject("evt.invoice.paid_2.v12." + exampleUser)
	require.NoError(t, err, "a type need not be known")
	require.Equal(t, events.ParsedSubject{Stored: true, Aggregate: "invoice", Fact: "paid_2", Version: 12, ScopeID: exampleUser}, parsed)

	for _, subject := range []string{
		"", "evt", "evt.task.created.v1", "evt.task.created.v1.", "evt.task.created.v1.demo",
		"evt.task.created.v1." + exampleUser + ".x", "evt.task.created.v1." + exampleUser + ".",
		"evt.task..v1." + exampleUser, "evt..created.v1." + exampleUser, ".task.created.v1." + exampleUser,
		"evt.*.created.v1." + exampleUser, "evt.task.>.v1." + exampleUser, "evt.task.created.v1.*", "evt.task.created.v1.>",
		"evt.Task.created.v1." + exampleUser, "evt.ta sk.created.v1." + exampleUser, "evt.9task.created.v1." + exampleUser,
		"evt.task.created.v0." + exampleUser, "evt.task.created.v01." + exampleUser, "evt.task.created.v+1." + exampleUser,
		"evt.task.created.1." + exampleUser, "evt.task.created.vv1." + exampleUser, "evt.task.created.v1000." + exampleUser,
		"dead.task.created.v1." + exampleUser, "evt.task.created.v1." + strings.ToUpper(exampleUser),
		"evt.task.created.v1." + strings.ReplaceAll(exampleUser, "-", "x"),
	} {
		_, err := events.ParseSubject(subject)
		require.ErrorIs(t, err, events.ErrSubject, subject)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	require.Equal(t, "evt.task.created.v1.>", events.SubjectFilter("task", "created"))
	require.Equal(t, "evt.task.*.v1.>", events.SubjectFilter("task", "*"))
	require.Equal(t, "evt.*.*.*."+exampleUser, events.ScopeFilter(exampleUser))
	require.Equal(t, "live.*.*.*."+exampleUser, events.LiveFilter(exampleUser))
}
