package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"fdc/internal/audit"
	"fdc/internal/identity"
	"fdc/internal/platform/fault"
	"fdc/internal/workspace"
)

// AuditEntry is an entry of a workspace's audit log.
type AuditEntry struct {
	EventID     string          `json:"eventId"     format:"uuid" doc:"The event that it tells of."`
	OccurredAt  time.Time       `json:"occurredAt"  doc:"When it happened."`
	Action      string          `json:"action"      doc:"What happened, such as task.created."`
	ActorID     string          `json:"actorId"     doc:"Who did it: a user's id, system, operator, operator:NAME or anonymous."`
	UserID      *string         `json:"userId"      doc:"Whom it concerns."`
	WorkspaceID *string         `json:"workspaceId" doc:"Where."`
	Target      AuditTarget     `json:"target"      doc:"To what it happened."`
	IP          *string         `json:"ip"          doc:"From which address."`
	UserAgent   *string         `json:"userAgent"   doc:"With which program."`
	RequestID   *string         `json:"requestId"   doc:"In which request."`
	Result      string          `json:"result"      enum:"ok|denied|failed" doc:"How it ended."`
	Changes     json.RawMessage `json:"changes"     doc:"The event's payload, and callerRequestId if the client sent an X-Request-Id of its own."`
}

// AuditTarget is what an entry is about.
type AuditTarget struct {
	Type string `json:"type" doc:"Its kind, such as task."`
	ID   string `json:"id"   doc:"Its id."`
}

// AuditPage is one page of an audit log.
type AuditPage struct {
	Items          []AuditEntry `json:"items"          doc:"Newest first."`
	NextCursor     *string      `json:"nextCursor"     doc:"Asks for the next page; null on the last one."`
	ArchivedMonths []string     `json:"archivedMonths" doc:"Months (YYYY-MM) of the time asked for whose entries are in the archive and not here."`
}

const (
	ndjsonMedia = "application/x-ndjson"
	csvMedia    = "text/csv"

	// exportTime is how long an export may take.
	exportTime = time.Hour
	// exportStall is how long its reader may take nothing.
	exportStall = 30 * time.Second
)

func auditRoutes() []route {
	moment := func(name, doc string) param {
		return param{name: name, doc: doc, schema: &jsonschema.Schema{Type: "string"}, parse: parseMoment}
	}
	word := func(name, doc string) param {
		return param{name: name, doc: doc, schema: &jsonschema.Schema{Type: "string", MaxLength: new(128)}, parse: textUpTo(128)}
	}
	return []route{{
		method: http.MethodGet, path: "/api/workspaces/{id}/audit-logs", id: "listAuditLog", tag: "audit", timeout: exportTime,
		summary: "A workspace's audit log, newest first; for its owners and admins.",
		query: append(paging(),
			moment("from", "The first moment, an RFC 3339 time or a date."), moment("to", "The moment to stop before."),
			word("actor", "Only what this user did, by id; or system, anonymous, operator:NAME, or operator for all of them."),
			word("action", "Only this action, such as task.created."),
		),
		headers: []header{{"Accept", "application/x-ndjson or text/csv exports all that match; limit and cursor are ignored then."}},
		answers: []answer{
			ok[AuditPage](http.StatusOK, "A page of it.", "Vary"),
			{status: http.StatusOK, doc: "All that match, a JSON object per line.", media: ndjsonMedia},
			{status: http.StatusOK, doc: "All that match, with a header.", media: csvMedia},
		},
		faults: []int{http.StatusForbidden, http.StatusConflict},
		handle: (*api).listAuditLog,
	}}
}

// mayAudit reports what keeps the session's user from the audit log.
func mayAudit(s identity.Session, workspaceID string) error {
	for _, m := range s.Memberships {
		switch {
		case m.WorkspaceID != workspaceID:
		case m.Role == workspace.RoleOwner || m.Role == workspace.RoleAdmin:
			return nil
		default:
			return fault.New(fault.Forbidden, "forbidden", "Only owners and admins of a workspace may read its audit log.")
		}
	}
	return fault.Missing("workspace")
}

func (a *api) listAuditLog(c *call) error {
	if err := mayAudit(c.session, c.path("id")); err != nil {
		return err
	}
	f := audit.Filter{WorkspaceID: c.path("id")}
	f.From, _ = value[time.Time](c, "from")
	f.To, _ = value[time.Time](c, "to")
	f.ActorID, _ = value[string](c, "actor")
	f.Action, _ = value[string](c, "action")
	c.setHeader("Vary", "Accept")
	switch accepted(c.request().Header, jsonMedia, ndjsonMedia, csvMedia) {
	case ndjsonMedia:
		return a.exportAuditLog(c, f, FormatNDJSON, ndjsonMedia)
	case csvMedia:
		return a.exportAuditLog(c, f, FormatCSV, csvMedia+"; charset=utf-8; header=present")
	}
	return a.pageOfAuditLog(c, f)
}

func (a *api) pageOfAuditLog(c *call, f audit.Filter) error {
	last, err := c.lastKey()
	if err != nil {
		return err
	}
	var after audit.Position
	if last == "" {
		err = a.Audit.Viewed(c.ctx(), c.meta(), f, "json")
	} else if after, err = audit.ParsePosition(last); err != nil {
		err = badParam("cursor", "one that this list gave")
	}
	if err != nil {
		return err
	}
	limit, _ := value[int](c, "limit")
	entries, more, err := a.Audit.Page(c.ctx(), f, after, limit)
	if err != nil {
		return err
	}
	archived, err := a.Audit.Archived(c.ctx(), f.From, f.To)
	if err != nil {
		return err
	}
	next := ""
	if more {
		next = encodeCursor(c.route.id, entries[len(entries)-1].Position().String())
	}
	p := page(each(entries, auditEntryOf), next)
	return c.json(http.StatusOK, AuditPage{Items: p.Items, NextCursor: p.NextCursor, ArchivedMonths: append([]string{}, archived...)})
}

// exportAuditLog streams. The status goes out with the first entries; what fails after that cuts the connection, so that
// nobody takes a part for the whole.
func (a *api) exportAuditLog(c *call, f audit.Filter, format, media string) error {
	rc := http.NewResponseController(c.gin.Writer)
	lines := AuditLines(format)
	token, err := c.token()
	if err != nil {
		return err
	}
	begun := false
	write := func(entries []audit.Entry) error {
		// An export is long enough to lose the session, or the right.
		session, err := a.Identity.Authenticate(c.ctx(), token)
		if err == nil {
			err = mayAudit(session, c.path("id"))
		}
		if err != nil {
			return err
		}
		b, err := lines(entries)
		if err != nil {
			return err
		}
		if !begun {
			begun = true
			c.protect()
			h := c.gin.Writer.Header()
			h.Set("Content-Type", media)
			h.Set("Content-Disposition", `attachment; filename="audit-log.`+format+`"`)
			c.gin.Status(http.StatusOK)
		}
		if err := rc.SetWriteDeadline(time.Now().Add(exportStall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := c.gin.Writer.Write(b); err != nil {
			return err
		}
		return rc.Flush()
	}
	_, err = a.Audit.Export(c.ctx(), c.meta(), f, format, write)
	if err == nil && !begun {
		return write(nil) // nothing matches: an empty file
	}
	if err != nil && begun {
		a.Log.Warn().Err(err).Str("request_id", c.id).Msg("export broken off")
		panic(http.ErrAbortHandler)
	}
	return err
}

func auditEntryOf(e audit.Entry) AuditEntry {
	return AuditEntry{
		EventID: e.EventID, OccurredAt: e.OccurredAt, Action: e.Action, ActorID: e.ActorID, UserID: optional(e.UserID),
		WorkspaceID: optional(e.WorkspaceID), Target: AuditTarget{Type: e.TargetType, ID: e.TargetID}, IP: optional(e.IP),
		UserAgent: optional(e.UserAgent), RequestID: optional(e.RequestID), Result: e.Result, Changes: e.Changes,
	}
}

// The forms of an export.
const (
	FormatNDJSON = "ndjson"
	FormatCSV    = "csv"
)

// AuditLines writes entries in the form of an export, those of one call behind those of the call before: NDJSON, or RFC 4180 with a
// header before the first.
func AuditLines(format string) func([]audit.Entry) ([]byte, error) {
	first := true
	return func(entries []audit.Entry) ([]byte, error) {
		dtos := each(entries, auditEntryOf)
		if format == FormatCSV {
			header := first
			first = false
			return csvLines(dtos, header), nil
		}
		return ndjsonLines(dtos)
	}
}

func ndjsonLines(entries []AuditEntry) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i := range entries {
		if err := enc.Encode(&entries[i]); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

var csvColumns = []string{
	"eventId", "occurredAt", "action", "actorId", "userId", "workspaceId", "targetType", "targetId", "ip", "userAgent", "requestId",
	"result", "changes",
}

func csvLines(entries []AuditEntry, header bool) []byte {
	var b bytes.Buffer
	if header {
		csvLine(&b, csvColumns)
	}
	for i := range entries {
		e := &entries[i]
		csvLine(&b, []string{
			e.EventID, e.OccurredAt.Format(time.RFC3339Nano), e.Action, e.ActorID, given(e.UserID), given(e.WorkspaceID), e.Target.Type,
			e.Target.ID, given(e.IP), given(e.UserAgent), given(e.RequestID), e.Result, string(e.Changes),
		})
	}
	return b.Bytes()
}

// accepted is the one of the media types that the Accept header likes best, the first of them when it names none
// (RFC 9110, 12.5.1: a server may disregard it).
func accepted(h http.Header, offers ...string) string {
	best, bestQ := offers[0], 0.0
	for part := range strings.SplitSeq(strings.Join(h.Values("Accept"), ","), ",") {
		media, parameters, _ := strings.Cut(part, ";")
		media = strings.ToLower(strings.TrimSpace(media))
		q := 1.0
		for parameter := range strings.SplitSeq(parameters, ";") {
			if text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(parameter)), "q="); ok {
				var err error
				if q, err = strconv.ParseFloat(text, 64); err != nil {
					q = 0
				}
			}
		}
		if q > bestQ && slices.Contains(offers, media) {
			best, bestQ = media, q
		}
	}
	return best
}
