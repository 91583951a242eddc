package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"fdc/events"
)

// Results of an event, the column result.
const (
	ResultOK     = "ok"
	ResultDenied = "denied"
	ResultFailed = "failed"
)

// row is an event as audit_logs holds it. Its fields are in the order of columns.
type row struct {
	eventID     pgtype.UUID
	occurredAt  time.Time
	workspaceID pgtype.UUID // NULL for events of no workspace
	actorID     string
	userID      pgtype.UUID // NULL for events that concern nobody
	action      string
	targetType  string
	targetID    string
	requestID   string
	ip          string
	userAgent   string
	result      string
	changes     string // JSON
}

// rowOf reads nothing but the event: called again, it gives the same row.
func rowOf(ev events.Event) (row, error) {
	t, ok := events.TypeOf(ev.Data)
	if !ok {
		return row{}, fmt.Errorf("audit event %s: %w: payload %T", ev.ID, events.ErrUnknownType, ev.Data)
	}
	r := row{
		occurredAt: ev.Time.UTC(),
		actorID:    ev.ActorID,
		action:     t.Action(),
		targetType: t.Aggregate,
		targetID:   ev.Subject,
		requestID:  ev.RequestID,
		ip:         ev.IP,
		userAgent:  ev.UserAgent,
		result:     resultOf(t),
	}
	for _, id := range []struct {
		column *pgtype.UUID
		name   string
		text   string
	}{{&r.eventID, "id", ev.ID}, {&r.workspaceID, "workspace", ev.WorkspaceID}, {&r.userID, "user", ev.UserID}} {
		if id.text == "" {
			continue
		}
		u, err := uuid.Parse(id.text)
		if err != nil {
			return row{}, fmt.Errorf("audit event %s: %s: %w", ev.ID, id.name, err)
		}
		*id.column = pgtype.UUID{Bytes: u, Valid: true}
	}
	changes, err := changesOf(t, ev.Data)
	if err != nil {
		return row{}, fmt.Errorf("audit event %s: %w", ev.ID, err)
	}
	r.changes = changes
	return r, nil
}

// resultOf goes by the fact's last word, so that a new type needs no entry here.
func resultOf(t events.Type) string {
	switch {
	case strings.HasSuffix(t.Fact, "denied"):
		return ResultDenied
	case strings.HasSuffix(t.Fact, "failed"):
		return ResultFailed
	default:
		return ResultOK
	}
}

// changesOf is the payload as JSON. Payloads hold no content, and addresses only masked; what the catalogue declares as
// an address is masked here once more, because the log outlives every other copy.
func changesOf(t events.Type, data events.Payload) (string, error) {
	b, err := json.Marshal(data)
	if err != nil {
		return "", fmt.Errorf("encode payload: %w", err)
	}
	if !personal(t.Fields) {
		return string(b), nil
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return "", fmt.Errorf("mask payload: %w", err)
	}
	maskFields(t.Fields, fields)
	if b, err = json.Marshal(fields); err != nil {
		return "", fmt.Errorf("mask payload: %w", err)
	}
	return string(b), nil
}

// personal reports whether a payload has anything to mask.
func personal(fields []events.Field) bool {
	for _, f := range fields {
		if f.Rule == events.RuleEmail || personal(f.Fields) {
			return true
		}
	}
	return false
}

func maskFields(fields []events.Field, values map[string]any) {
	for _, f := range fields {
		switch v := values[f.Name].(type) {
		case string:
			if f.Rule == events.RuleEmail {
				values[f.Name] = events.MaskEmail(v)
			}
		case map[string]any:
			maskFields(f.Fields, v)
		}
	}
}
