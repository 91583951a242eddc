package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"fdc/internal/platform/postgres"
)

const rowColumns = `event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id, request_id, ip, user_agent,
	result, changes::text`

func (r *row) dest() []any {
	return []any{
		&r.eventID, &r.occurredAt, &r.workspaceID, &r.actorID, &r.userID, &r.action, &r.targetType, &r.targetID, &r.requestID, &r.ip,
		&r.userAgent, &r.result, &r.changes,
	}
}

// values are what COPY takes, in the order of columns.
func (r *row) values() []any {
	return []any{
		r.eventID, r.occurredAt, r.workspaceID, r.actorID, r.userID, r.action, r.targetType, r.targetID, r.requestID, r.ip, r.userAgent,
		r.result, r.changes,
	}
}

const canonicalTime = "2006-01-02T15:04:05.000000Z"

// appendTo writes the canonical form: one line of JSON with the members in this order, times in UTC with six digits of a second, what is
// NULL as null, and changes as PostgreSQL's jsonb writes it. The line break is the caller's.
func (r *row) appendTo(b []byte) []byte {
	b = appendUUID(append(b, `{"eventId":`...), r.eventID)
	b = append(r.occurredAt.UTC().AppendFormat(append(b, `,"occurredAt":"`...), canonicalTime), '"')
	b = appendUUID(append(b, `,"workspaceId":`...), r.workspaceID)
	b = appendText(append(b, `,"actorId":`...), r.actorID)
	b = appendUUID(append(b, `,"userId":`...), r.userID)
	b = appendText(append(b, `,"action":`...), r.action)
	b = appendText(append(b, `,"targetType":`...), r.targetType)
	b = appendText(append(b, `,"targetId":`...), r.targetID)
	b = appendText(append(b, `,"requestId":`...), r.requestID)
	b = appendText(append(b, `,"ip":`...), r.ip)
	b = appendText(append(b, `,"userAgent":`...), r.userAgent)
	b = appendText(append(b, `,"result":`...), r.result)
	b = append(b, `,"changes":`...)
	return append(append(b, r.changes...), '}')
}

func appendUUID(b []byte, id pgtype.UUID) []byte {
	if !id.Valid {
		return append(b, "null"...)
	}
	var text [36]byte
	hex.Encode(text[:8], id.Bytes[:4])
	for i, at := range [...]int{9, 14, 19} {
		text[at-1] = '-'
		hex.Encode(text[at:at+4], id.Bytes[4+2*i:6+2*i])
	}
	text[23] = '-'
	hex.Encode(text[24:], id.Bytes[10:])
	return append(append(append(b, '"'), text[:]...), '"')
}

// appendText writes a JSON string: most need no escaping.
func appendText(b []byte, s string) []byte {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf }) {
		var escaped bytes.Buffer
		enc := json.NewEncoder(&escaped)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			panic("audit: a string that is no JSON: " + err.Error()) // there is none
		}
		return append(b, bytes.TrimSuffix(escaped.Bytes(), []byte("\n"))...)
	}
	return append(append(append(b, '"'), s...), '"')
}

// parseRow reads a canonical line, and nothing that isn't one.
func parseRow(line []byte) (r row, err error) {
	var text struct {
		EventID     *uuid.UUID      `json:"eventId"`
		OccurredAt  string          `json:"occurredAt"`
		WorkspaceID *uuid.UUID      `json:"workspaceId"`
		ActorID     string          `json:"actorId"`
		UserID      *uuid.UUID      `json:"userId"`
		Action      string          `json:"action"`
		TargetType  string          `json:"targetType"`
		TargetID    string          `json:"targetId"`
		RequestID   string          `json:"requestId"`
		IP          string          `json:"ip"`
		UserAgent   string          `json:"userAgent"`
		Result      string          `json:"result"`
		Changes     json.RawMessage `json:"changes"`
	}
	if err := json.Unmarshal(line, &text); err != nil {
		return r, fmt.Errorf("read a row: %w", err)
	}
	id := func(u *uuid.UUID) pgtype.UUID {
		if u == nil {
			return pgtype.UUID{}
		}
		return pgtype.UUID{Bytes: *u, Valid: true}
	}
	r = row{
		eventID: id(text.EventID), workspaceID: id(text.WorkspaceID), actorID: text.ActorID, userID: id(text.UserID), action: text.Action,
		targetType: text.TargetType, targetID: text.TargetID, requestID: text.RequestID, ip: text.IP, userAgent: text.UserAgent,
		result: text.Result, changes: string(text.Changes),
	}
	if r.occurredAt, err = time.Parse(canonicalTime, text.OccurredAt); err != nil {
		return r, fmt.Errorf("read a row: %w", err)
	}
	if !r.eventID.Valid || !bytes.Equal(r.appendTo(nil), line) {
		return r, fmt.Errorf("read a row: not in the canonical form")
	}
	return r, nil
}

// eachRow calls fn for the rows of a table, in the order of the log. line is the canonical form and is used again afterwards.
func eachRow(ctx context.Context, q postgres.Querier, sql string, args []any, fn func(r *row, line []byte) error) error {
	rows, err := q.Query(ctx, `SELECT `+rowColumns+` FROM `+sql+` ORDER BY occurred_at, event_id`, args...)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	var r row
	var line []byte
	_, err = pgx.ForEachRow(rows, r.dest(), func() error {
		line = r.appendTo(line[:0])
		return fn(&r, line)
	})
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	return nil
}
