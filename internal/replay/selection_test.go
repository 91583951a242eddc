package replay_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/replay"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestWhatIsTypedBecomesFilters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words    replay.Words
		subjects []string
	}{
		{replay.Words{}, []string{"evt.>"}},
		{replay.Words{Types: []string{"*"}}, nil},
		{replay.Words{Types: []string{"task.created"}}, []string{"evt.task.created.v1.>"}},
		{replay.Words{Types: []string{"task.*", "task.created", " task.created "}}, []string{"evt.task.*.v1.>"}},
		{replay.Words{Types: []string{"*.retried", "flag.changed"}}, []string{"evt.flag.changed.v1.>", "evt.sync.retried.v1.>"}},
		{replay.Words{Workspace: workspace}, []string{"evt.*.*.*." + workspace}},
		{replay.Words{Workspace: workspace, Types: []string{"task.*", "sync.*"}}, []string{"evt.task.*.v1." + workspace}},
	} {
		s, err := replay.Parse(c.words, noon)
		if c.subjects == nil {
			require.Error(t, err, "%+v", c.words)
			continue
		}
		require.NoError(t, err, "%+v", c.words)
		require.Equal(t, c.subjects, s.Subjects(), "%+v", c.words)
	}
	s, err := replay.Parse(replay.Words{Since: "90m", Until: "2026-03-01T11:00:00Z", FromSeq: "3", ToSeq: "3", User: alice}, noon)
	require.NoError(t, err)
	require.Equal(t, noon.Add(-90*time.Minute), s.Since)
	require.Equal(t, noon.Add(-time.Hour), s.Until)
	s, err = replay.Parse(replay.Words{Since: "7d"}, noon)
	require.NoError(t, err)
	require.Equal(t, noon.Add(-7*24*time.Hour), s.Since)
}

func TestWhatMakesNoSenseIsNamed(t *testing.T) {
	t.Parallel()
	for want, w := range map[string]replay.Words{
		"--since":                    {Since: "yesterday"},
		"--until":                    {Until: "-2h"},
		"--until 2026":               {Since: "1h", Until: "2h"},
		"not after":                  {Since: "2026-01-01", Until: "2026-01-01"},
		"--from-seq":                 {FromSeq: "0"},
		"--to-seq":                   {ToSeq: "-1"},
		"--to-seq 4 is before":       {FromSeq: "9", ToSeq: "4"},
		"want a type":                {Types: []string{""}},
		`no type "task"`:             {Types: []string{"task"}},
		`no type "task.frobnicated"`: {Types: []string{"task.created", "task.frobnicated"}},
		"not stored":                 {Types: []string{"sync.progress"}},
		"--user":                     {User: "alice@example.com"},
		"--workspace":                {Workspace: "*"},
		"not told of a workspace":    {Types: []string{"session.created"}, Workspace: workspace},
	} {
		_, err := replay.Parse(w, noon)
		require.ErrorContains(t, err, want, "%+v", w)
	}
	_, err := replay.Parse(replay.Words{Since: "x", ToSeq: "y", Types: []string{"z"}}, noon)
	for _, all := range []string{"--since", "--to-seq", "--type"} {
		require.ErrorContains(t, err, all)
	}
}

// What is selected and what a consumer takes meet in filters that the server accepts, and that let through what both do.
func TestSelectionsMeetConsumers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	require.Empty(t, replay.Intersect([]string{"evt.task.*.v1.>"}, []string{"evt.sync.requested.v1.>"}))
	for _, c := range bus.Consumers() {
		for _, words := range []replay.Words{
			{},
			{Workspace: workspace},
			{Types: []string{"*.*"}},
			{Types: []string{"workspace.*"}, Workspace: workspace},
			{Types: []string{"session.*", "sync.requested", "*.created"}},
		} {
			s, err := replay.Parse(words, noon)
			require.NoError(t, err)
			both := replay.Intersect(s.Subjects(), c.Filters)
			if len(both) == 0 {
				continue
			}
			_, err = r.js.CreateConsumer(t.Context(), bus.Events, jetstream.ConsumerConfig{FilterSubjects: both, AckPolicy: jetstream.AckNonePolicy})
			require.NoError(t, err, "%s of %+v: %v", c.Name, words, both)
			for _, one := range events.Types() {
				scope := map[events.Scope]string{events.ScopeWorkspace: workspace, events.ScopeUser: alice, events.ScopeSystem: events.SystemScope}[one.Scope]
				subject, err := events.Subject(one.Name, scope)
				require.NoError(t, err)
				want := through(s.Subjects(), subject) && through(c.Filters, subject)
				require.Equal(t, want, through(both, subject), "%s to %s of %+v: %v", subject, c.Name, words, both)
			}
		}
	}
}

// through reports whether a filter matches a subject.
func through(filters []string, subject string) bool {
	for _, f := range filters {
		if both := replay.Intersect([]string{f}, []string{subject}); len(both) == 1 && both[0] == subject {
			return true
		}
	}
	return false
}

// Whatever is typed, either it is refused or the server can use it.
func FuzzParse(f *testing.F) {
	f.Add("1h", "", "1", "9", "task.*", alice, workspace)
	f.Add("2026-01-01", "2026-02-01T00:00:00+09:00", "", "", "*.*,sync.requested", "", "")
	f.Add("7d", "-1d", "18446744073709551616", "0", "*", "*", ">")
	f.Add("99999d", "0", "+1", "1e3", ".,..,task.", "evt", " ")
	f.Fuzz(func(t *testing.T, since, until, from, to, types, user, scope string) {
		w := replay.Words{Since: since, Until: until, FromSeq: from, ToSeq: to, User: user, Workspace: scope}
		if types != "" {
			w.Types = strings.Split(types, ",")
		}
		s, err := replay.Parse(w, noon)
		if err != nil {
			return
		}
		require.NoError(t, s.Validate())
		subjects := s.Subjects()
		require.NotEmpty(t, subjects)
		for i, a := range subjects {
			require.True(t, strings.HasPrefix(a, "evt."), a)
			require.NotContains(t, a, " ")
			for _, b := range subjects[:i] {
				require.Empty(t, replay.Intersect([]string{a}, []string{b}), "they overlap: %s %s", a, b)
			}
		}
		require.False(t, s.ToSeq != 0 && s.FromSeq > s.ToSeq)
		require.False(t, !s.Until.IsZero() && !s.Since.Before(s.Until))
	})
}
