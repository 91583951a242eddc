package replay

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fdc/events"
)

// Selection is a part of the stream EVENTS. The zero value is all of it.
type Selection struct {
	Since, Until    time.Time // by the time at which the stream took the event; Until is the first moment not selected
	FromSeq, ToSeq  uint64    // both included; 0 is no bound
	Types           []string  // actions such as task.created, sorted; none means all, known here or not
	UserID          string    // whom the event concerns: its userid
	WorkspaceID     string    // events of that workspace's scope
	wholeAggregates []string  // of Types, those whose every fact is selected
}

// Words are a selection as somebody typed it. An empty one is no condition.
type Words struct {
	Since, Until   string // RFC 3339, a date, or how long ago: 90m, 2h, 7d
	FromSeq, ToSeq string
	Types          []string // task.created, task.*, *.created
	User           string
	Workspace      string
}

// Parse reads what was typed, and says of each word that makes no sense what it should be.
func Parse(w Words, now time.Time) (Selection, error) {
	var s Selection
	var errs []error
	check := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	var err error
	s.Since, err = parseMoment(w.Since, now)
	check("since", err)
	s.Until, err = parseMoment(w.Until, now)
	check("until", err)
	s.FromSeq, err = parseSequence(w.FromSeq)
	check("from-seq", err)
	s.ToSeq, err = parseSequence(w.ToSeq)
	check("to-seq", err)
	s.Types, s.wholeAggregates, err = parseTypes(w.Types)
	check("type", err)
	if w.User != "" && !events.ValidID(w.User) {
		check("user", fmt.Errorf("%.64q is no id of a user; fdc sessions list --user EMAIL shows it", w.User))
	}
	if w.Workspace != "" && !events.ValidID(w.Workspace) {
		check("workspace", fmt.Errorf("%.64q is no id of a workspace", w.Workspace))
	}
	s.UserID, s.WorkspaceID = w.User, w.Workspace
	if len(errs) > 0 {
		return Selection{}, errors.Join(errs...)
	}
	return s, s.Validate()
}

// Validate says what can't select anything.
func (s Selection) Validate() error {
	switch {
	case s.ToSeq != 0 && s.ToSeq < s.FromSeq:
		return fmt.Errorf("--to-seq %d is before --from-seq %d", s.ToSeq, s.FromSeq)
	case !s.Since.IsZero() && !s.Until.IsZero() && !s.Since.Before(s.Until):
		return fmt.Errorf("--until %s is not after --since %s", s.Until.Format(time.RFC3339), s.Since.Format(time.RFC3339))
	case len(s.Subjects()) == 0:
		return fmt.Errorf("--workspace: %s is not told of a workspace; leave one of --type and --workspace out", strings.Join(s.Types, ", "))
	}
	return nil
}

// Subjects are the filters that the server applies, none of which overlaps another. There are none when nothing can be
// selected.
func (s Selection) Subjects() []string {
	scope := ">"
	if s.WorkspaceID != "" {
		scope = s.WorkspaceID
	}
	if len(s.Types) == 0 {
		if s.WorkspaceID != "" {
			return []string{events.ScopeFilter(s.WorkspaceID)}
		}
		return []string{events.AllEvents}
	}
	var subjects []string
	for _, action := range s.Types {
		t, ok := storedTypes()[action]
		if !ok || s.WorkspaceID != "" && t.Scope != events.ScopeWorkspace {
			continue
		}
		fact := t.Fact
		if slices.Contains(s.wholeAggregates, t.Aggregate) {
			fact = "*"
		}
		filter := strings.TrimSuffix(events.SubjectFilter(t.Aggregate, fact), ">") + scope
		if !slices.Contains(subjects, filter) {
			subjects = append(subjects, filter)
		}
	}
	return subjects
}

// Intersect is what two lists of filters both let through. Where neither list overlaps in itself, the result doesn't.
func Intersect(a, b []string) []string {
	var both []string
	for _, x := range a {
		for _, y := range b {
			if f, ok := intersect(x, y); ok && !slices.Contains(both, f) {
				both = append(both, f)
			}
		}
	}
	return both
}

// intersect is the filter that lets through what both do; false when there is nothing.
func intersect(a, b string) (string, bool) {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	var both []string
	for i := 0; ; i++ {
		switch {
		case i == len(x) && i == len(y):
			return strings.Join(both, "."), true
		case i == len(x) || i == len(y):
			return "", false
		case x[i] == ">":
			return strings.Join(append(both, y[i:]...), "."), true
		case y[i] == ">":
			return strings.Join(append(both, x[i:]...), "."), true
		case x[i] == y[i], y[i] == "*":
			both = append(both, x[i])
		case x[i] == "*":
			both = append(both, y[i])
		default:
			return "", false
		}
	}
}

// parseMoment reads a time, or a duration as the time so long ago.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			if t.Year() < 1970 || t.Year() > 2200 {
				return time.Time{}, fmt.Errorf("%.64q: want a year from 1970 to 2200", text)
			}
			return t.UTC(), nil
		}
	}
	ago, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		ago = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || ago < 0 {
		return time.Time{}, fmt.Errorf("%.64q is no time; want RFC 3339, YYYY-MM-DD, or how long ago, such as 90m, 2h or 7d", text)
	}
	return now.Add(-ago).UTC(), nil
}

func parseSequence(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%.32q is no sequence; they are numbers from 1 on", text)
	}
	return n, nil
}

// parseTypes turns patterns into actions of the catalogue, and names the aggregates of which a pattern took all.
func parseTypes(patterns []string) (actions, whole []string, err error) {
	all := storedTypes()
	for _, pattern := range patterns {
		aggregate, fact, _ := strings.Cut(strings.TrimSpace(pattern), ".")
		found := false
		for action, t := range all {
			if matches(aggregate, t.Aggregate) && matches(fact, t.Fact) {
				found = true
				if !slices.Contains(actions, action) {
					actions = append(actions, action)
				}
				if fact == "*" && !slices.Contains(whole, t.Aggregate) {
					whole = append(whole, t.Aggregate)
				}
			}
		}
		switch {
		case found:
		case strings.TrimSpace(pattern) == "":
			return nil, nil, errors.New("want a type such as task.created or task.*")
		case aggregate+"."+fact == (&progressType).Action():
			return nil, nil, fmt.Errorf("%s is told once and not stored", progressType.Action())
		default:
			return nil, nil, fmt.Errorf("there is no type %.64q; events/README.md lists them, task.* stands for all of task", pattern)
		}
	}
	slices.Sort(actions)
	slices.Sort(whole)
	return actions, whole, nil
}

func matches(pattern, token string) bool { return pattern == "*" || pattern == token }

var progressType, _ = events.TypeOf(events.SyncProgress{})

// storedTypes are the types of the catalogue that the stream holds, by action.
func storedTypes() map[string]events.Type {
	byAction := map[string]events.Type{}
	for _, t := range events.Types() {
		if t.Stored {
			byAction[t.Action()] = t
		}
	}
	return byAction
}
