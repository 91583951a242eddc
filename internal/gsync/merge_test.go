package gsync

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/tasks/v1"

	"fdc/internal/task"
)

func randomFields(r *rand.Rand) fields {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	return fields{
		Title: pick("a", "b", "c"), Notes: pick("", "n", "m"), Due: pick("", "2026-01-31", "2026-02-01"), Status: pick(task.Todo, task.Done),
	}
}

// Three values per field are enough to meet every case of a merge: equal, changed on one side, alike on both, apart.
func TestMergeProperties(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		base, local, remote, later := randomFields(r), randomFields(r), randomFields(r), r.IntN(2) == 0
		merged, conflict := merge(base, local, remote, later)

		mirrored, mirroredConflict := merge(base, remote, local, !later)
		require.Equal(t, merged, mirrored, "it doesn't matter which side looks")
		require.Equal(t, conflict, mirroredConflict)
		again, _ := merge(remote, merged, remote, later)
		require.Equal(t, merged, again, "nothing new from a side that was merged already")

		clash := false
		for i, m := range each(&merged) {
			b, l, g := *each(&base)[i], *each(&local)[i], *each(&remote)[i]
			switch {
			case l == g:
				require.Equal(t, l, *m)
			case l == b:
				require.Equal(t, g, *m, "an edit of one side survives")
			case g == b:
				require.Equal(t, l, *m, "an edit of one side survives")
			case later:
				require.Equal(t, g, *m, "the later edit of a field wins")
				clash = true
			default:
				require.Equal(t, l, *m, "the later edit of a field wins")
				clash = true
			}
		}
		require.Equal(t, clash, conflict)
	}
}

func TestPatchTurnsOneIntoTheOther(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 5_000 {
		from, to := randomFields(r), randomFields(r)
		patch := to.patch(from)
		if from == to {
			require.Nil(t, patch)
			continue
		}
		body, err := patch.MarshalJSON()
		require.NoError(t, err)
		got := from.googleTask()
		applyPatch(t, got, body)
		require.Equal(t, to, remoteFields(got), "%s", body)
	}
}

// applyPatch does what Google does with a patch.
func applyPatch(t *testing.T, to *tasks.Task, body []byte) {
	t.Helper()
	var fields map[string]*string
	require.NoError(t, decode(body, &fields))
	for name, value := range fields {
		text := ""
		if value != nil {
			text = *value
		}
		switch name {
		case "title":
			to.Title = text
		case "notes":
			to.Notes = text
		case "due":
			to.Due = text
		case "status":
			to.Status = text
		case "completed":
			require.Nil(t, value)
		default:
			t.Fatalf("patch has %s", name)
		}
	}
}

func FuzzRemoteFields(f *testing.F) {
	f.Add("title", "notes", "2026-12-01T00:00:00.000Z", "completed")
	f.Add(" \x00\t", strings.Repeat("字", task.MaxNotes+1), "not a date at all", "")
	f.Add(strings.Repeat("😀 ", task.MaxTitle), "\xff", "0000-00-00T00:00:00Z", "needsAction")
	f.Fuzz(func(t *testing.T, title, notes, due, status string) {
		got := remoteFields(&tasks.Task{Title: title, Notes: notes, Due: due, Status: status})
		require.Equal(t, strings.TrimSpace(got.Title), got.Title)
		require.NotEmpty(t, got.Title)
		for text, most := range map[string]int{got.Title: task.MaxTitle, got.Notes: task.MaxNotes} {
			require.True(t, utf8.ValidString(text))
			require.LessOrEqual(t, utf8.RuneCountInString(text), most)
			require.NotContains(t, text, "\x00")
		}
		// What FDC holds of it is no change to Google's.
		require.Equal(t, got, remoteFields(got.googleTask()))
	})
}
