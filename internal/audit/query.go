package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Entry is a row of the log as people read it.
type Entry struct {
	EventID     string
	OccurredAt  time.Time // UTC, microseconds
	WorkspaceID string    // empty for events of no workspace
	ActorID     string
	UserID      string // empty for events that concern nobody
	Action      string
	TargetType  string
	TargetID    string
	RequestID   string
	IP          string
	UserAgent   string
	Result      string
	Changes     json.RawMessage
}

// Filter selects entries. Zero fields select all.
type Filter struct {
	WorkspaceID string
	From, To    time.Time // To is exclusive
	ActorID     string
	Action      string
}

// bounded moves times from before the log's beginning there: nothing else is older, and events can't tell of such times.
func (f Filter) bounded() Filter {
	for _, t := range []*time.Time{&f.From, &f.To} {
		if !t.IsZero() && t.Before(firstMonth.Start()) {
			*t = firstMonth.Start()
		}
	}
	return f
}

// Position is an entry's place in the log, which is ordered by time and id.
type Position struct {
	At time.Time
	ID string
}

// Log reads audit_logs, newest first. It is safe for concurrent use.
type Log struct{ ob *outbox.Outbox }

// NewLog returns a Log.
func NewLog(ob *outbox.Outbox) *Log { return &Log{ob: ob} }

// Page returns up to limit entries, those older than after when that is not the zero Position, and whether there are more.
func (l *Log) Page(ctx context.Context, f Filter, after Position, limit int) (entries []Entry, more bool, err error) {
	entries, err = page(ctx, l.ob.Pool(), f, after, limit+1)
	if err != nil {
		return nil, false, postgres.Fault(err)
	}
	if more = len(entries) > limit; more {
		entries = entries[:limit]
	}
	return entries, more, nil
}

// Viewed puts on record that somebody has begun to read. Call it before anything is shown.
func (l *Log) Viewed(ctx context.Context, meta events.Meta, f Filter, format string) error {
	meta.WorkspaceID = f.WorkspaceID
	f = f.bounded()
	return l.ob.Tx(ctx, func(tx pgx.Tx) error {
		return outbox.Append(ctx, tx, events.New(meta, "", events.AuditViewed{From: f.From, To: f.To, Format: format}))
	})
}

// exportPage is how many entries an export reads at a time.
const exportPage = 2000

// Export calls each for every entry, newest first, and returns how many there were. It reads a page at a time and holds no connection
// while each works, so a slow reader costs nobody anything. Months that are in the archive make it fail before the first
// entry, with fault.Conflict naming them; one that leaves meanwhile makes it fail then.
//
// It puts on record that there was an export, also one that ended early, with what had gone out by then.
func (l *Log) Export(ctx context.Context, meta events.Meta, f Filter, format string, each func([]Entry) error) (rows int64, err error) {
	f = f.bounded()
	if err := l.complete(ctx, f); err != nil {
		return 0, err
	}
	if err := l.Viewed(ctx, meta, f, format); err != nil {
		return 0, err
	}
	defer func() {
		meta.WorkspaceID = f.WorkspaceID
		recordCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
		defer cancel()
		failed := l.ob.Tx(recordCtx, func(tx pgx.Tx) error {
			return outbox.Append(recordCtx, tx, events.New(meta, "", events.AuditExported{From: f.From, To: f.To, Rows: rows, Format: format}))
		})
		if err == nil {
			err = failed
		}
	}()
	for after := (Position{}); ; {
		entries, err := page(ctx, l.ob.Pool(), f, after, exportPage)
		if err != nil {
			return rows, postgres.Fault(err)
		}
		if len(entries) > 0 {
			rows += int64(len(entries)) // what fails on the way may have arrived
			if err := each(entries); err != nil {
				return rows, err
			}
			after = entries[len(entries)-1].Position()
		}
		if len(entries) < exportPage {
			return rows, l.complete(ctx, f)
		}
	}
}

// recordTime bounds how long the record of an export may take after its end.
const recordTime = 5 * time.Second

// complete reports months of the filter's time that are not in the log but in the archive, or on their way there.
func (l *Log) complete(ctx context.Context, f Filter) error {
	months, err := l.Archived(ctx, f.From, f.To)
	if err != nil || len(months) == 0 {
		return err
	}
	e := fault.New(fault.Conflict, "audit-months-archived", "Part of that time is in the archive: %s. Ask an operator to restore it, "+
		"or ask for another time.", strings.Join(months, ", "))
	e.Extra = map[string]any{"months": months}
	return e
}

// Archived lists the months (YYYY-MM) between two times, the second exclusive and either zero for no bound, whose entries are in the
// archive, or on their way there, and not in the log.
func (l *Log) Archived(ctx context.Context, from, to time.Time) ([]string, error) {
	list, err := Partitions(ctx, l.ob.Pool())
	if err != nil {
		return nil, postgres.Fault(err)
	}
	var months []string
	attached := attachedMonths(list)
	for _, p := range list {
		m, err := ParseMonth(p.Month)
		if err != nil {
			return nil, err
		}
		if !attached[p.Month] && (to.IsZero() || m.Start().Before(to)) && (from.IsZero() || m.Add(1).Start().After(from)) {
			months = append(months, p.Month)
		}
	}
	return months, nil
}

// Position is where the entry stands.
func (e *Entry) Position() Position { return Position{At: e.OccurredAt, ID: e.EventID} }

// String is the position as text, for a cursor.
func (p Position) String() string { return p.At.UTC().Format(positionTime) + "/" + p.ID }

const positionTime = "20060102T150405.000000Z"

// ParsePosition reads what String wrote.
func ParsePosition(s string) (Position, error) {
	at, id, _ := strings.Cut(s, "/")
	t, err := time.Parse(positionTime, at)
	if err != nil || !events.ValidID(id) {
		return Position{}, fmt.Errorf("%q is no position in the audit log", s)
	}
	return Position{At: t, ID: id}, nil
}

// page reads entries. Each condition is written only when it is there, so that the planner sees which index serves.
func page(ctx context.Context, pool *pgxpool.Pool, f Filter, after Position, limit int) ([]Entry, error) {
	sql, args := f.query(after, limit)
	// Planned for its values each time: a plan for anybody would take the actor's index for one who does a quarter of all that is done.
	rows, err := pool.Query(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	for i := range entries {
		entries[i].OccurredAt = entries[i].OccurredAt.UTC()
	}
	return entries, nil
}

const selectEntries = `SELECT event_id::text, occurred_at, coalesce(workspace_id::text, ''), actor_id, coalesce(user_id::text, ''), action, target_type,
	target_id, request_id, ip, user_agent, result, changes FROM audit_logs`

// OfRequest lists what the log has of one request, oldest first. Months in the archive are not looked at.
func OfRequest(ctx context.Context, q postgres.Querier, requestID string) ([]Entry, error) {
	rows, err := q.Query(ctx, selectEntries+` WHERE request_id = $1 AND request_id <> '' ORDER BY audit_logs.occurred_at, audit_logs.event_id`, requestID)
	if err != nil {
		return nil, fmt.Errorf("look for request %.64q in the audit log: %w", requestID, err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
	if err != nil {
		return nil, fmt.Errorf("look for request %.64q in the audit log: %w", requestID, err)
	}
	for i := range entries {
		entries[i].OccurredAt = entries[i].OccurredAt.UTC()
	}
	return entries, nil
}

func (f Filter) query(after Position, limit int) (sql string, args []any) {
	var where []string
	add := func(condition string, values ...any) {
		numbers := make([]any, len(values))
		for i, v := range values {
			args = append(args, v)
			numbers[i] = len(args)
		}
		where = append(where, fmt.Sprintf(condition, numbers...))
	}
	if f.WorkspaceID != "" {
		add("workspace_id = $%d", f.WorkspaceID)
	}
	if !f.From.IsZero() {
		add("occurred_at >= $%d", f.From)
	}
	if !f.To.IsZero() {
		add("occurred_at < $%d", f.To)
	}
	switch f.ActorID {
	case "":
	case events.OperatorActor: // all of them, with and without a name
		add(`(actor_id = $%[1]d OR actor_id LIKE $%[1]d || ':%%')`, f.ActorID)
	default:
		add("actor_id = $%d", f.ActorID)
	}
	if f.Action != "" {
		add("action = $%d", f.Action)
	}
	if after != (Position{}) {
		// The first condition is in the second, but only the first tells which months need not be looked at.
		add("occurred_at <= $%[1]d AND (occurred_at, event_id) < ($%[1]d, $%[2]d)", after.At, after.ID)
	}
	sql = selectEntries
	if len(where) > 0 {
		sql += ` WHERE ` + strings.Join(where, " AND ")
	}
	// The columns of the table: the bare name would be the text that is selected under it, which no index has.
	return sql + fmt.Sprintf(` ORDER BY audit_logs.occurred_at DESC, audit_logs.event_id DESC LIMIT %d`, limit), args
}
