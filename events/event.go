package events

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The actors that are not users. Every other actor id is a user's.
const (
	SystemActor    = "system"    // background work: schedules, workers, migrations
	OperatorActor  = "operator"  // the fdc command, of somebody without a name: see NamedOperator
	AnonymousActor = "anonymous" // a request without a session
)

// operatorPrefix begins the actor id of an operator with a name: operator:alice@host.
const operatorPrefix = OperatorActor + ":"

// NamedOperator returns the actor id of the operator of that name: OperatorActor, a colon and the name, in which each character other than
// ASCII letters, digits and any of ._@+- becomes an underscore. It cuts the name to 128 characters. Without a name it is OperatorActor.
func NamedOperator(name string) string {
	name = strings.Map(func(r rune) rune {
		if isOperatorRune(r) {
			return r
		}
		return '_'
	}, name)
	if name == "" {
		return OperatorActor
	}
	return operatorPrefix + name[:min(len(name), maxOperator)]
}

func isOperatorRune(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._@+-", c)
}

// SystemScope is the scope id of events that belong to no workspace and no user.
const SystemScope = "system"

// Bounds of the envelope's free attributes. [New] cuts the user agent to its bound; the others are refused past theirs.
const (
	maxSubject   = 256
	maxRequestID = 256
	maxUserAgent = 512
	maxOperator  = 128
)

// Event is one fact in its CloudEvents 1.0 envelope. Make one with [New] or [Decode].
type Event struct {
	ID      string    // UUIDv7; also the message id that the bus deduplicates by
	Type    string    // "fdc.task.created.v1"
	Source  string    // "/fdc/<service>"
	Subject string    // the aggregate's id; for a fact that stands alone, what it is about
	Time    time.Time // when it happened: UTC, whole microseconds (what Postgres holds)

	ActorID         string // who did it: a user's id, one of the actors above, or a named operator; never empty
	UserID          string // whom it concerns, if anyone
	WorkspaceID     string // where, if anywhere
	RequestID       string // the HTTP request behind it, if any
	CallerRequestID string // what the client called that request in X-Request-Id, if anything
	IP              string // its client address
	UserAgent       string // its client

	Data Payload
}

// Payload is the data of one event type: one of the structs of this package, by value.
type Payload interface {
	key() key
}

// key is what the envelope takes from a payload. A payload without an aggregate is a fact that stands alone: nothing
// follows it in order, so its ordering key is the event's own id.
type key struct {
	aggregate string // "task"
	id        string // the aggregate's id; of a fact that stands alone, the default subject, may be empty
	version   int64
	workspace string // the payload's workspaceId
	user      string // the payload's userId
}

// Meta is the circumstance of a fact: where and on whose behalf the code that states it runs.
type Meta struct {
	Source          string // required: "/fdc/<service>"
	ActorID         string // required
	UserID          string // taken unless the payload names a user itself
	WorkspaceID     string // taken unless the payload names a workspace itself
	RequestID       string
	CallerRequestID string
	IP              string
	UserAgent       string
}

// New states a fact that happened now. The subject is the aggregate's id; when empty it is taken from the payload, or is
// the event's own id where the payload has none. New does not fail: [Event.Validate] and [Encode] say what is wrong.
func New(meta Meta, subject string, data Payload) Event {
	ev := Event{
		ID:              NewID(),
		Source:          meta.Source,
		Subject:         subject,
		Time:            canonicalTime(time.Now()),
		ActorID:         meta.ActorID,
		UserID:          meta.UserID,
		WorkspaceID:     meta.WorkspaceID,
		RequestID:       meta.RequestID,
		CallerRequestID: meta.CallerRequestID,
		IP:              cleanIP(meta.IP),
		UserAgent:       cleanUserAgent(meta.UserAgent),
		Data:            data,
	}
	t := typeOf(data)
	if t == nil {
		return ev
	}
	ev.Type = t.Name
	ev.Data = t.canonical(data)
	k := data.key()
	if k.user != "" {
		ev.UserID = k.user
	}
	if k.workspace != "" {
		ev.WorkspaceID = k.workspace
	}
	if ev.Subject == "" {
		ev.Subject = k.id
	}
	if ev.Subject == "" {
		ev.Subject = ev.ID
	}
	return ev
}

// Action is the type without its namespace and version: "task.created". It is empty when the event is not valid.
func (e Event) Action() string {
	if t := typeOf(e.Data); t != nil {
		return t.Action()
	}
	return ""
}

// ScopeID is the last token of the event's subject on the bus: the workspace's id, the user's id or "system", as the
// catalogue says for its type.
func (e Event) ScopeID() string {
	t := typeOf(e.Data)
	if t == nil {
		return ""
	}
	switch t.Scope {
	case ScopeWorkspace:
		return e.WorkspaceID
	case ScopeUser:
		if e.UserID == "" && t.MayLackUser {
			return SystemScope
		}
		return e.UserID
	default:
		return SystemScope
	}
}

// NATSSubject is where the event is published: evt.<aggregate>.<fact>.v1.<scope id>, or live.… for a type that is not
// stored. It is empty when the payload is none of this package's.
func (e Event) NATSSubject() string {
	t := typeOf(e.Data)
	if t == nil {
		return ""
	}
	return t.prefix + e.ScopeID()
}

// Aggregate is the ordering key: events with the same one are published in the order of their [Event.Version]. A fact
// that stands alone has a key of its own.
func (e Event) Aggregate() string {
	t := typeOf(e.Data)
	if t == nil {
		return ""
	}
	if k := e.Data.key(); k.aggregate != "" {
		return k.aggregate + "/" + k.id
	}
	return t.Aggregate + "/" + e.ID
}

// Version is the aggregate's version after the fact, unique within the aggregate; 1 for a fact that stands alone.
func (e Event) Version() int64 {
	if typeOf(e.Data) == nil {
		return 0
	}
	if k := e.Data.key(); k.aggregate != "" {
		return k.version
	}
	return 1
}

// Validate says what keeps the event from being encoded, all of it at once.
func (e Event) Validate() error {
	t := typeOf(e.Data)
	if t == nil {
		return fmt.Errorf("%w: payload %T", ErrUnknownType, e.Data)
	}
	if problems := e.problems(t); len(problems) > 0 {
		return fmt.Errorf("event %s %.64q: %w", t.Name, e.ID, errors.Join(problems...))
	}
	return nil
}

func (e Event) problems(t *Type) []error {
	var problems []error
	check := func(ok bool, attribute, want string) {
		if !ok {
			problems = append(problems, fmt.Errorf("%s: want %s", attribute, want))
		}
	}
	check(ValidID(e.ID), "id", "a UUID")
	check(e.Type == t.Name, "type", t.Name)
	check(validSource(e.Source), "source", "/fdc/<service>")
	check(validSubject(e.Subject), "subject", "1 to 256 letters, digits and any of -_.:/")
	check(validTime(e.Time), "time", "UTC, whole microseconds, a year from 1970 to 9999")
	check(validActor(e.ActorID), "actorid", "a UUID, system, operator, operator:NAME or anonymous")
	check(e.UserID == "" || ValidID(e.UserID), "userid", "a UUID")
	check(e.WorkspaceID == "" || ValidID(e.WorkspaceID), "workspaceid", "a UUID")
	check(validRequestID(e.RequestID), "requestid", "up to 256 visible ASCII characters")
	check(validRequestID(e.CallerRequestID), "callerrequestid", "up to 256 visible ASCII characters")
	check(e.IP == "" || validIP(e.IP), "ip", "an IP address")
	check(e.UserAgent == cleanUserAgent(e.UserAgent), "useragent", "up to 512 bytes of text without control characters")

	k := e.Data.key()
	check(k.aggregate == "" || e.Subject == k.id, "subject", "the aggregate's id")
	check(k.user == "" || e.UserID == k.user, "userid", "data.userId")
	check(k.workspace == "" || e.WorkspaceID == k.workspace, "workspaceid", "data.workspaceId")
	check(e.ScopeID() != "", "scope", "the id of a "+string(t.Scope))
	return append(problems, t.validate(e.Data)...)
}

func validSource(s string) bool {
	service, ok := strings.CutPrefix(s, "/fdc/")
	return ok && isToken(service, "-")
}

func validActor(s string) bool {
	switch s {
	case SystemActor, OperatorActor, AnonymousActor:
		return true
	}
	if name, ok := strings.CutPrefix(s, operatorPrefix); ok {
		return name != "" && NamedOperator(name) == s
	}
	return ValidID(s)
}

func validSubject(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-_.:/", c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxSubject
}

func validRequestID(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) <= maxRequestID
}

func validIP(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Zone() == ""
}

// cleanIP spells an address in one way, without the zone, which means something on one machine only.
func cleanIP(s string) string {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return s
	}
	return addr.Unmap().WithZone("").String()
}

// cleanUserAgent keeps a hostile header from failing the write that it came with.
func cleanUserAgent(s string) string {
	if isText(s) && len(s) <= maxUserAgent {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	for len(s) > maxUserAgent {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// isText reports whether s is UTF-8 without control characters, the strings that JSON, CloudEvents and Postgres all hold.
func isText(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// canonicalTime is t as the wire and Postgres hold it.
func canonicalTime(t time.Time) time.Time {
	return t.UTC().Truncate(time.Microsecond)
}

func validTime(t time.Time) bool {
	return t.Location() == time.UTC && t.Nanosecond()%int(time.Microsecond) == 0 && 1970 <= t.Year() && t.Year() <= 9999
}
