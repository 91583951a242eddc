package archive

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

	"fdc/internal/audit"
	"fdc/internal/platform/postgres"
)

const rowColumns = `event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id, request_id, ip, user_agent,
	result, changes::text`

// scanTargets returns the fields that rowColumns are scanned into.
func scanTargets(r *audit.Row) []any {
	return []any{
		&r.EventID, &r.OccurredAt, &r.WorkspaceID, &r.ActorID, &r.UserID, &r.Action, &r.TargetType, &r.TargetID, &r.RequestID, &r.IP,
		&r.UserAgent, &r.Result, &r.Changes,
	}
}

const canonicalTime = "2006-01-02T15:04:05.000000Z"

// appendRow appends the canonical form: one line of JSON with the members in this order, times in UTC with six digits of a second, what is
// NULL as null, and changes as PostgreSQL's jsonb writes it. The line break is the caller's.
func appendRow(b []byte, r *audit.Row) []byte {
	b = appendUUID(append(b, `{"eventId":`...), r.EventID)
	b = append(r.OccurredAt.UTC().AppendFormat(append(b, `,"occurredAt":"`...), canonicalTime), '"')
	b = appendUUID(append(b, `,"workspaceId":`...), r.WorkspaceID)
	b = appendText(append(b, `,"actorId":`...), r.ActorID)
	b = appendUUID(append(b, `,"userId":`...), r.UserID)
	b = appendText(append(b, `,"action":`...), r.Action)
	b = appendText(append(b, `,"targetType":`...), r.TargetType)
	b = appendText(append(b, `,"targetId":`...), r.TargetID)
	b = appendText(append(b, `,"requestId":`...), r.RequestID)
	b = appendText(append(b, `,"ip":`...), r.IP)
	b = appendText(append(b, `,"userAgent":`...), r.UserAgent)
	b = appendText(append(b, `,"result":`...), r.Result)
	b = append(b, `,"changes":`...)
	return append(append(b, r.Changes...), '}')
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
func parseRow(line []byte) (r audit.Row, err error) {
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
	r = audit.Row{
		EventID: id(text.EventID), WorkspaceID: id(text.WorkspaceID), ActorID: text.ActorID, UserID: id(text.UserID), Action: text.Action,
		TargetType: text.TargetType, TargetID: text.TargetID, RequestID: text.RequestID, IP: text.IP, UserAgent: text.UserAgent,
		Result: text.Result, Changes: string(text.Changes),
	}
	if r.OccurredAt, err = time.Parse(canonicalTime, text.OccurredAt); err != nil {
		return r, fmt.Errorf("read a row: %w", err)
	}
	if !r.EventID.Valid || !bytes.Equal(appendRow(nil, &r), line) {
		return r, fmt.Errorf("read a row: not in the canonical form")
	}
	return r, nil
}

// eachRow calls fn for the rows of a table, in the order of the log. line is the canonical form and is used again afterwards.
func eachRow(ctx context.Context, q postgres.Querier, sql string, args []any, fn func(r *audit.Row, line []byte) error) error {
	rows, err := q.Query(ctx, `SELECT `+rowColumns+` FROM `+sql+` ORDER BY occurred_at, event_id`, args...)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	var r audit.Row
	var line []byte
	_, err = pgx.ForEachRow(rows, scanTargets(&r), func() error {
		line = appendRow(line[:0], &r)
		return fn(&r, line)
	})
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	return nil
}
