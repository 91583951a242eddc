package task

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"fdc/internal/platform/fault"
)

// patch is a JSON Merge Patch (RFC 7396) for a task, understood: what to do to the draft.
type patch []func(*Draft)

// parsePatch reads a merge patch. null takes a field back to what it is when a task is made without it; the title can't
// be taken away. Everything wrong is told at once, but for what is no JSON object without repetitions (fault.Malformed).
func parsePatch(body []byte) (patch, error) {
	if !utf8.Valid(body) {
		return nil, malformed("The patch is not UTF-8.")
	}
	if !json.Valid(body) {
		return nil, malformed("The patch is not JSON.")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil {
		return nil, malformed("The patch is not JSON.")
	} else if open != json.Delim('{') {
		return nil, fault.Wrong(fault.Field{Pointer: "", Detail: "Want an object."})
	}
	var (
		p     patch
		wrong []fault.Field
		seen  = make(map[string]bool)
	)
	for d.More() {
		name, raw, err := nextMember(d)
		if err != nil {
			return nil, malformed("The patch is not JSON.")
		}
		if seen[name] {
			return nil, malformed("The patch names a member twice.")
		}
		seen[name] = true
		set, detail := parseField(name, raw)
		if detail != "" {
			wrong = append(wrong, fault.Field{Pointer: pointer(name), Detail: detail})
			continue
		}
		p = append(p, set)
	}
	return p, fault.Wrong(wrong...)
}

func malformed(detail string) error {
	return fault.New(fault.Malformed, "malformed-json", "%s", detail)
}

func nextMember(d *json.Decoder) (name string, raw json.RawMessage, err error) {
	token, err := d.Token()
	if err != nil {
		return "", nil, err
	}
	name, ok := token.(string)
	if !ok {
		return "", nil, io.ErrUnexpectedEOF
	}
	return name, raw, d.Decode(&raw)
}

// parseField says what a member of a patch does, or what is wrong with it.
func parseField(name string, raw json.RawMessage) (set func(*Draft), detail string) {
	switch name {
	case "title":
		if isNull(raw) {
			return nil, "A task has a title; it can't be null."
		}
		return stringField(raw, func(d *Draft) *string { return &d.Title })
	case "notes":
		return stringField(raw, func(d *Draft) *string { return &d.Notes })
	case "status":
		return stringField(raw, func(d *Draft) *string { return &d.Status })
	case "dueDate":
		return stringField(raw, func(d *Draft) *string { return &d.DueDate })
	case "timeZone":
		return stringField(raw, func(d *Draft) *string { return &d.TimeZone })
	case "suit":
		return stringField(raw, func(d *Draft) *string { return &d.Suit })
	case "startAt":
		return timeField(raw, func(d *Draft) **time.Time { return &d.StartAt })
	case "endAt":
		return timeField(raw, func(d *Draft) **time.Time { return &d.EndAt })
	case "id", "workspaceId", "version", "updatedAt", "google":
		return nil, "Only the server writes this."
	default:
		return nil, "A task has no such field."
	}
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

func stringField(raw json.RawMessage, field func(*Draft) *string) (set func(*Draft), detail string) {
	var s string // stays empty for null
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, "Want a string."
	}
	return func(d *Draft) { *field(d) = s }, ""
}

func timeField(raw json.RawMessage, field func(*Draft) **time.Time) (set func(*Draft), detail string) {
	if isNull(raw) {
		return func(d *Draft) { *field(d) = nil }, ""
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, "Want a string."
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, "Want an RFC 3339 time, such as 2026-03-01T09:00:00Z."
	}
	return func(d *Draft) { *field(d) = &t }, ""
}

// pointer is the JSON pointer (RFC 6901) of a member, cut to a length that is good to show.
func pointer(name string) string {
	const longest = 200
	for i := range name {
		if i >= longest {
			name = name[:i]
			break
		}
	}
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
