package task

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func at(t *testing.T, s string) *time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339Nano, s)
	require.NoError(t, err)
	return &parsed
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	d := Draft{
		Title: " \t買い物 ", StartAt: at(t, "2026-03-01T09:00:00.123456789+09:00"), EndAt: at(t, "2026-03-01T10:00:00+09:00"), TimeZone: "Asia/Tokyo",
	}
	require.Empty(t, d.normalize())
	require.Equal(t, Draft{
		Title: "買い物", Status: Todo, Suit: Unclassified, TimeZone: "Asia/Tokyo",
		StartAt: at(t, "2026-03-01T00:00:00.123456Z"), EndAt: at(t, "2026-03-01T01:00:00Z"),
	}, d)
	again := d
	require.Empty(t, again.normalize())
	require.Equal(t, d, again)
}

func TestRules(t *testing.T) {
	t.Parallel()
	const noon = "2026-03-01T12:00:00Z"
	good := Draft{Title: "x"}
	for _, c := range []struct {
		name  string
		edit  func(*Draft)
		wrong []string // the pointers
	}{
		{"nothing", func(*Draft) {}, nil},
		{"no title", func(d *Draft) { d.Title = "" }, []string{"/title"}},
		{"a blank title", func(d *Draft) { d.Title = " \n\u3000" }, []string{"/title"}},
		{"the longest title", func(d *Draft) { d.Title = strings.Repeat("界", 1024) + " " }, nil},
		{"a longer title", func(d *Draft) { d.Title = strings.Repeat("x", 1025) }, []string{"/title"}},
		{"NUL in the title", func(d *Draft) { d.Title = "a\x00" }, []string{"/title"}},
		{"bytes in the title", func(d *Draft) { d.Title = "a\xff" }, []string{"/title"}},
		{"the longest notes", func(d *Draft) { d.Notes = strings.Repeat("😀", 8192) }, nil},
		{"longer notes", func(d *Draft) { d.Notes = strings.Repeat("x", 8193) }, []string{"/notes"}},
		{"NUL in the notes", func(d *Draft) { d.Notes = "\x00" }, []string{"/notes"}},
		{"done", func(d *Draft) { d.Status = Done }, nil},
		{"another status", func(d *Draft) { d.Status = "DONE" }, []string{"/status"}},
		{"another suit", func(d *Draft) { d.Suit = "stars" }, []string{"/suit"}},
		{"a leap day", func(d *Draft) { d.DueDate = "2028-02-29" }, nil},
		{"no leap day", func(d *Draft) { d.DueDate = "2026-02-29" }, []string{"/dueDate"}},
		{"a time as date", func(d *Draft) { d.DueDate = noon }, []string{"/dueDate"}},
		{"the year 0", func(d *Draft) { d.DueDate = "0000-01-01" }, []string{"/dueDate"}},
		{"a start alone", func(d *Draft) { d.StartAt = at(t, noon) }, nil},
		{"an end alone", func(d *Draft) { d.EndAt = at(t, noon) }, []string{"/endAt"}},
		{"an end at the start", func(d *Draft) { d.StartAt, d.EndAt = at(t, noon), at(t, noon) }, []string{"/endAt"}},
		{"an end within the start's microsecond", func(d *Draft) {
			d.StartAt, d.EndAt = at(t, "2026-03-01T12:00:00.0000001Z"), at(t, "2026-03-01T12:00:00.0000009Z")
		}, []string{"/endAt"}},
		{"an end before the start elsewhere", func(d *Draft) {
			d.StartAt, d.EndAt = at(t, noon), at(t, "2026-03-01T13:00:00+02:00")
		}, []string{"/endAt"}},
		{"before the first year", func(d *Draft) { d.StartAt = at(t, "0001-01-01T00:00:00+14:00") }, []string{"/startAt"}},
		{"after the last year", func(d *Draft) { d.StartAt = at(t, "9999-12-31T23:59:59-01:00") }, []string{"/startAt"}},
		{"a zone", func(d *Draft) { d.TimeZone = "America/Argentina/Buenos_Aires" }, nil},
		{"UTC", func(d *Draft) { d.TimeZone = "UTC" }, nil},
		{"the server's zone", func(d *Draft) { d.TimeZone = "Local" }, []string{"/timeZone"}},
		{"an offset", func(d *Draft) { d.TimeZone = "+09:00" }, []string{"/timeZone"}},
		{"a path", func(d *Draft) { d.TimeZone = "../../etc/passwd" }, []string{"/timeZone"}},
		{"NUL in the zone", func(d *Draft) { d.TimeZone = "UTC\x00" }, []string{"/timeZone"}},
		{"all at once", func(d *Draft) {
			*d = Draft{Status: "x", Suit: "x", DueDate: "x", TimeZone: "x", EndAt: at(t, noon)}
		}, []string{"/title", "/status", "/dueDate", "/endAt", "/timeZone", "/suit"}},
	} {
		d := good
		c.edit(&d)
		var wrong []string
		for _, f := range d.normalize() {
			require.NotEmpty(t, f.Detail)
			wrong = append(wrong, f.Pointer)
		}
		require.Equal(t, c.wrong, wrong, c.name)
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	full := Draft{
		Title: "a", Notes: "b", Status: Done, DueDate: "2026-01-01", StartAt: at(t, "2026-01-01T00:00:00Z"),
		EndAt: at(t, "2026-01-01T01:00:00Z"), TimeZone: "UTC", Suit: Heart,
	}
	same := full
	same.StartAt = at(t, "2026-01-01T01:00:00+01:00")
	require.Empty(t, same.changed(&full))
	require.Equal(t, []string{"title", "notes", "status", "dueDate", "startAt", "endAt", "timeZone", "suit"}, (&Draft{}).changed(&full))
	require.Empty(t, (&Draft{}).changed(&Draft{}))
}

func TestPatchApplies(t *testing.T) {
	t.Parallel()
	full := Draft{
		Title: "a", Notes: "b", Status: Done, DueDate: "2026-01-01", StartAt: at(t, "2026-01-01T00:00:00Z"),
		EndAt: at(t, "2026-01-01T01:00:00Z"), TimeZone: "Asia/Tokyo", Suit: Heart,
	}
	for _, c := range []struct {
		body string
		want func(*Draft)
	}{
		{`{}`, func(*Draft) {}},
		{` { "title" : "b\u00e9" } `, func(d *Draft) { d.Title = "bé" }},
		{`{"notes":null,"dueDate":null,"startAt":null,"endAt":null,"timeZone":null,"suit":null,"status":null}`, func(d *Draft) {
			*d = Draft{Title: "a", Status: Todo, Suit: Unclassified}
		}},
		{`{"endAt":"2026-01-01T11:00:00.5+09:00","suit":"joker","dueDate":"2027-12-31"}`, func(d *Draft) {
			d.EndAt, d.Suit, d.DueDate = at(t, "2026-01-01T02:00:00.5Z"), Joker, "2027-12-31"
		}},
	} {
		p, err := parsePatch([]byte(c.body))
		require.NoError(t, err, c.body)
		got, want := full, full
		for _, set := range p {
			set(&got)
		}
		require.Empty(t, got.normalize())
		c.want(&want)
		require.Equal(t, want, got, c.body)
	}
}

func TestPatchRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body     string
		kind     fault.Kind
		pointers []string
	}{
		{``, fault.Malformed, nil},
		{`{"title":}`, fault.Malformed, nil},
		{`{"title":"a"} {}`, fault.Malformed, nil},
		{`{"title":"a","title":"b"}`, fault.Malformed, nil},
		{`{"title":"a","\u0074itle":"b"}`, fault.Malformed, nil},
		{"{\"title\":\"\xff\"}", fault.Malformed, nil},
		{`[]`, fault.Invalid, []string{""}},
		{`null`, fault.Invalid, []string{""}},
		{`"title"`, fault.Invalid, []string{""}},
		{`{"Title":"a"}`, fault.Invalid, []string{"/Title"}},
		{`{"a/b~":1,"":2}`, fault.Invalid, []string{"/a~1b~0", "/"}},
		{`{"title":null}`, fault.Invalid, []string{"/title"}},
		{`{"title":1,"notes":[],"status":{},"dueDate":false,"startAt":0,"endAt":[],"timeZone":9,"suit":1.5}`, fault.Invalid, []string{
			"/title", "/notes", "/status", "/dueDate", "/startAt", "/endAt", "/timeZone", "/suit",
		}},
		{`{"startAt":"2026-01-01","endAt":"soon"}`, fault.Invalid, []string{"/startAt", "/endAt"}},
		{`{"id":"x","version":1,"updatedAt":null,"workspaceId":"x","google":{}}`, fault.Invalid, []string{
			"/id", "/version", "/updatedAt", "/workspaceId", "/google",
		}},
	} {
		_, err := parsePatch([]byte(c.body))
		require.Equal(t, c.kind, fault.KindOf(err), "%s: %v", c.body, err)
		var f *fault.Error
		require.ErrorAs(t, err, &f)
		var pointers []string
		for _, field := range f.Fields {
			pointers = append(pointers, field.Pointer)
		}
		require.Equal(t, c.pointers, pointers, c.body)
	}
}

// Whatever a patch says, the outcome is a draft that obeys the rules or a fault that says why not.
func FuzzPatch(f *testing.F) {
	for _, seed := range []string{
		`{"title":"a","notes":null}`, `{"startAt":"2026-01-01T00:00:00Z","endAt":"2026-01-01T00:00:00.0000001Z"}`,
		`{"timeZone":"Asia/Tokyo","suit":"x"}`, `{"":{}}`, `[null]`, `{"title":"\u0000"}`, `{"dueDate":"0000-02-30"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := parsePatch(body)
		if err != nil {
			switch fault.KindOf(err) {
			case fault.Malformed, fault.Invalid:
			default:
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(body, &members); err != nil || len(members) != len(p) {
			t.Fatalf("%q: %d members, understood %d (%v)", body, len(members), len(p), err)
		}
		d := Draft{Title: "x"}
		for _, set := range p {
			set(&d)
		}
		if len(d.normalize()) > 0 {
			return
		}
		again := d
		if wrong := again.normalize(); len(wrong) > 0 || len(again.changed(&d)) > 0 {
			t.Fatalf("%q: the normal form %+v is not normal: %v", body, d, wrong)
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add("AZsx7QAAcACAAAAAAAAAAA")
	f.Add("AZsx7QAAcACAAAAAAAAAAB")
	f.Add("nonsense")
	f.Fuzz(func(t *testing.T, cursor string) {
		id, err := parseCursor(cursor)
		if err != nil {
			if fault.KindOf(err) != fault.Malformed {
				t.Fatalf("%q: %v", cursor, err)
			}
			return
		}
		if cursor != "" && formatCursor(id) != cursor {
			t.Fatalf("%q stands for %s, whose cursor is %q", cursor, id, formatCursor(id))
		}
	})
}
