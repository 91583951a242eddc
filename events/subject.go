package events

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Roots of the subjects: what the stream EVENTS stores, and what passes by once.
const (
	storedRoot = "evt"
	liveRoot   = "live"
)

// AllEvents is the subject filter of every stored event.
const AllEvents = storedRoot + ".>"

// ErrSubject is in the chain of every error of [ParseSubject].
var ErrSubject = errors.New("not an event subject")

// ParsedSubject is an event's subject on the bus in its parts. The type need not be in the catalogue.
type ParsedSubject struct {
	Stored    bool   // evt.…, not live.…
	Aggregate string // "task"
	Fact      string // "created"
	Version   int    // 1
	ScopeID   string // a UUID or "system"
}

// Type is the event type that the subject belongs to: "fdc.task.created.v1".
func (p ParsedSubject) Type() string {
	return typeName(p.Aggregate, p.Fact, p.Version)
}

// Action is the type without its namespace and version: "task.created".
func (p ParsedSubject) Action() string { return p.Aggregate + "." + p.Fact }

// String is the subject: what [ParseSubject] was given.
func (p ParsedSubject) String() string {
	root := liveRoot
	if p.Stored {
		root = storedRoot
	}
	return root + "." + p.Aggregate + "." + p.Fact + ".v" + strconv.Itoa(p.Version) + "." + p.ScopeID
}

// Subject derives the subject of an event type in a scope: evt.task.created.v1.<workspace id>. It refuses types that the
// catalogue does not have and scope ids that do not fit the type.
func Subject(typeName, scopeID string) (string, error) {
	t, ok := byName[typeName]
	if !ok {
		return "", fmt.Errorf("subject: %w: %.64q", ErrUnknownType, typeName)
	}
	if !t.takesScope(scopeID) {
		return "", fmt.Errorf("subject of %s: scope %.64q: want the id of a %s", typeName, scopeID, t.Scope)
	}
	return t.prefix + scopeID, nil
}

// ParseSubject takes a subject apart, refusing all that [ParsedSubject.String] would not give back letter by letter.
func ParseSubject(subject string) (ParsedSubject, error) {
	var token [5]string
	rest, more := subject, true
	for i := range token {
		if !more {
			return ParsedSubject{}, fmt.Errorf("%w: %.128q: want five tokens", ErrSubject, subject)
		}
		token[i], rest, more = strings.Cut(rest, ".")
	}
	if more {
		return ParsedSubject{}, fmt.Errorf("%w: %.128q: want five tokens", ErrSubject, subject)
	}
	p := ParsedSubject{Stored: token[0] == storedRoot, Aggregate: token[1], Fact: token[2], ScopeID: token[4]}
	version, err := parseVersion(token[3])
	switch {
	case token[0] != storedRoot && token[0] != liveRoot:
		return ParsedSubject{}, fmt.Errorf("%w: %.128q: want evt or live first", ErrSubject, subject)
	case !isToken(p.Aggregate, "_") || !isToken(p.Fact, "_"):
		return ParsedSubject{}, fmt.Errorf("%w: %.128q: want words of a-z, 0-9 and _", ErrSubject, subject)
	case err != nil:
		return ParsedSubject{}, fmt.Errorf("%w: %.128q: %w", ErrSubject, subject, err)
	case !validScope(p.ScopeID):
		return ParsedSubject{}, fmt.Errorf("%w: %.128q: want a UUID or system last", ErrSubject, subject)
	}
	p.Version = version
	return p, nil
}

func parseVersion(token string) (int, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(token, "v"))
	if err != nil || n < 1 || n > 999 || "v"+strconv.Itoa(n) != token {
		return 0, fmt.Errorf("version %.16q: want v1 to v999", token)
	}
	return n, nil
}

func validScope(id string) bool { return id == SystemScope || ValidID(id) }

// SubjectFilter is the filter of one stored event type in every scope, such as evt.task.created.v1.>; "*" stands for
// every aggregate or every fact.
func SubjectFilter(aggregate, fact string) string {
	return storedRoot + "." + aggregate + "." + fact + ".v1.>"
}

// ScopeFilter is the filter of every stored event of one scope.
func ScopeFilter(scopeID string) string {
	return storedRoot + ".*.*.*." + scopeID
}

// LiveFilter is the filter of everything that is told a user once and not stored.
func LiveFilter(userID string) string {
	return liveRoot + ".*.*.*." + userID
}

func typeName(aggregate, fact string, version int) string {
	return "fdc." + aggregate + "." + fact + ".v" + strconv.Itoa(version)
}

// isToken reports whether s is lower-case letters, digits and joiners, a letter first: in a subject, in SQL and in JSON it
// needs no quoting.
func isToken(s, joiners string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z':
		case ('0' <= c && c <= '9' || strings.IndexByte(joiners, c) >= 0) && i > 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 64
}
