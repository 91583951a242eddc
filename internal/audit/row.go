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

// Row is an event as audit_logs stores it. Its fields are in the order of Columns.
type Row struct {
	EventID     pgtype.UUID
	OccurredAt  time.Time
	WorkspaceID pgtype.UUID // NULL for events of no workspace
	ActorID     string
	UserID      pgtype.UUID // NULL for events that concern no user
	Action      string
	TargetType  string
	TargetID    string
	RequestID   string
	IP          string
	UserAgent   string
	Result      string
	Changes     string // JSON
}

// Values returns what COPY takes, in the order of Columns.
func (r *Row) Values() []any {
	return []any{
		r.EventID, r.OccurredAt, r.WorkspaceID, r.ActorID, r.UserID, r.Action, r.TargetType, r.TargetID, r.RequestID, r.IP, r.UserAgent,
		r.Result, r.Changes,
	}
}

// RowOf returns the row of an event. It reads nothing but the event: called again, it returns the same row.
func RowOf(ev events.Event) (Row, error) {
	t, ok := events.TypeOf(ev.Data)
	if !ok {
		return Row{}, fmt.Errorf("audit event %s: %w: payload %T", ev.ID, events.ErrUnknownType, ev.Data)
	}
	r := Row{
		OccurredAt: ev.Time.UTC(),
		ActorID:    ev.ActorID,
		Action:     t.Action(),
		TargetType: t.Aggregate,
		TargetID:   ev.Subject,
		RequestID:  ev.RequestID,
		IP:         ev.IP,
		UserAgent:  ev.UserAgent,
		Result:     resultOf(t),
	}
	for _, id := range []struct {
		column *pgtype.UUID
		name   string
		text   string
	}{{&r.EventID, "id", ev.ID}, {&r.WorkspaceID, "workspace", ev.WorkspaceID}, {&r.UserID, "user", concerned(t, ev)}} {
		if id.text == "" {
			continue
		}
		u, err := uuid.Parse(id.text)
		if err != nil {
			return Row{}, fmt.Errorf("audit event %s: %s: %w", ev.ID, id.name, err)
		}
		*id.column = pgtype.UUID{Bytes: u, Valid: true}
	}
	changes, err := changesOf(t, ev)
	if err != nil {
		return Row{}, fmt.Errorf("audit event %s: %w", ev.ID, err)
	}
	r.Changes = changes
	return r, nil
}

// concerned is the user of an event for the log. The log of a workspace does not name the invitee of an invitation before the
// invitee answers it: it would tell whether an address has an account.
func concerned(t events.Type, ev events.Event) string {
	if t.Aggregate == "invitation" && ev.ActorID != ev.UserID {
		return ""
	}
	return ev.UserID
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

// callerRequestID is the member of the column changes that has the client's own name for its request.
const callerRequestID = "callerRequestId"

// changesOf returns the payload as JSON, with callerRequestId if the client named its request. Payloads hold no content, and
// addresses only masked; what the catalogue declares as an address is masked here once more, because the log outlives
// every other copy.
func changesOf(t events.Type, ev events.Event) (string, error) {
	b, err := json.Marshal(ev.Data)
	if err != nil {
		return "", fmt.Errorf("encode payload: %w", err)
	}
	if !personal(t.Fields) && ev.CallerRequestID == "" {
		return string(b), nil
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return "", fmt.Errorf("mask payload: %w", err)
	}
	maskFields(t.Fields, fields)
	if ev.CallerRequestID != "" {
		fields[callerRequestID] = ev.CallerRequestID
	}
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
