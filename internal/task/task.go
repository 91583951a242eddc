package task

import (
	"strings"
	"time"
	_ "time/tzdata" // the zones a task may name don't depend on the machine
	"unicode/utf8"

	"fdc/internal/platform/fault"
)

// The states of a task.
const (
	Todo = "todo"
	Done = "done"
)

// The suits of a task.
const (
	Spade        = "spade"
	Heart        = "heart"
	Diamond      = "diamond"
	Club         = "club"
	Joker        = "joker"
	Unclassified = "unclassified"
)

// Bounds in characters: Google's own.
const (
	MaxTitle = 1024
	MaxNotes = 8192
)

// Draft is what people write of a task.
type Draft struct {
	Title    string     // 1 to MaxTitle characters, no space around
	Notes    string     // up to MaxNotes
	Status   string     // Todo, when empty, or Done
	DueDate  string     // YYYY-MM-DD, or empty
	StartAt  *time.Time // UTC, whole microseconds
	EndAt    *time.Time // after StartAt; not without it
	TimeZone string     // of the IANA database, or empty
	Suit     string     // Unclassified, when empty, or another
}

// Task is a task as it is stored.
type Task struct {
	ID          string
	WorkspaceID string
	Draft
	Version   int64
	UpdatedAt time.Time
	Google    *GoogleLink `db:"-"` // of the asking user; nil when the task isn't at Google
}

// GoogleLink is what the asking user's Google holds of a task.
type GoogleLink struct {
	TaskID   string     // empty while it is only intended
	EventID  string     // empty unless it is on the calendar
	SyncedAt *time.Time // nil before the first time
	Error    string     // why the last sync of this task failed, empty when it didn't
}

// normalize brings a draft into the form that is stored and says all that is wrong with it.
func (d *Draft) normalize() []fault.Field {
	d.Title = strings.TrimSpace(d.Title)
	if d.Status == "" {
		d.Status = Todo
	}
	if d.Suit == "" {
		d.Suit = Unclassified
	}
	d.StartAt, d.EndAt = storedTime(d.StartAt), storedTime(d.EndAt)

	var wrong []fault.Field
	check := func(ok bool, field, detail string) {
		if !ok {
			wrong = append(wrong, fault.Field{Pointer: "/" + field, Detail: detail})
		}
	}
	check(d.Title != "" && isText(d.Title, MaxTitle), "title", "Want 1 to 1024 characters, not only spaces.")
	check(isText(d.Notes, MaxNotes), "notes", "Want at most 8192 characters.")
	check(validStatus(d.Status), "status", "Want todo or done.")
	check(d.DueDate == "" || validDate(d.DueDate), "dueDate", "Want a date, YYYY-MM-DD.")
	check(d.StartAt == nil || validTime(*d.StartAt), "startAt", "Want a year from 1 to 9999.")
	check(d.EndAt == nil || validTime(*d.EndAt), "endAt", "Want a year from 1 to 9999.")
	check(d.EndAt == nil || d.StartAt != nil && d.EndAt.After(*d.StartAt), "endAt", "Want a time after startAt.")
	check(validZone(d.TimeZone), "timeZone", "Want a name of the IANA time zone database, such as Asia/Tokyo.")
	check(validSuit(d.Suit), "suit", "Want spade, heart, diamond, club, joker or unclassified.")
	return wrong
}

// changed lists the fields in which two drafts differ, by their names in JSON.
func (d *Draft) changed(old *Draft) []string {
	var names []string
	compare := func(same bool, name string) {
		if !same {
			names = append(names, name)
		}
	}
	compare(d.Title == old.Title, "title")
	compare(d.Notes == old.Notes, "notes")
	compare(d.Status == old.Status, "status")
	compare(d.DueDate == old.DueDate, "dueDate")
	compare(sameTime(d.StartAt, old.StartAt), "startAt")
	compare(sameTime(d.EndAt, old.EndAt), "endAt")
	compare(d.TimeZone == old.TimeZone, "timeZone")
	compare(d.Suit == old.Suit, "suit")
	return names
}

func sameTime(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}

// storedTime is t as Postgres holds it.
func storedTime(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	stored := t.UTC().Truncate(time.Microsecond)
	return &stored
}

func validTime(t time.Time) bool { return 1 <= t.Year() && t.Year() <= 9999 }

func validDate(s string) bool {
	t, err := time.Parse(time.DateOnly, s)
	return err == nil && t.Year() >= 1
}

func validZone(name string) bool {
	if name == "Local" {
		return false // the server's own zone is nobody's
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

func validStatus(s string) bool { return s == Todo || s == Done }

func validSuit(s string) bool {
	switch s {
	case Spade, Heart, Diamond, Club, Joker, Unclassified:
		return true
	default:
		return false
	}
}

// isText reports whether Postgres can hold s in a column of that many characters.
func isText(s string, longest int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= longest && !strings.ContainsRune(s, 0)
}
