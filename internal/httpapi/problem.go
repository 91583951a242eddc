package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"

	"fdc/internal/platform/fault"
)

const problemMedia = "application/problem+json"

// Problem is the body of every answer that is an error (RFC 9457). Further members depend on the type, such as
// currentVersion.
type Problem struct {
	Type      string        `json:"type"             doc:"Stable: urn:fdc:problem:CODE."`
	Title     string        `json:"title"            doc:"The type in words."`
	Status    int           `json:"status"           doc:"The status code."`
	Detail    string        `json:"detail"           doc:"What is wrong this time, for people."`
	Instance  string        `json:"instance"         doc:"The path that was asked for."`
	RequestID string        `json:"requestId"        doc:"Names this request in logs, traces and events."`
	Errors    []fault.Field `json:"errors,omitempty" doc:"What is wrong with the body, each with a JSON pointer (RFC 6901)."`

	extra map[string]any
}

// statusClientGone is logged, never sent: the client left before there was an answer.
const statusClientGone = 499

// statuses is the one table from kinds to status codes, with the code of a fault that names none.
var statuses = map[fault.Kind]struct {
	status int
	code   string
}{
	fault.Internal:           {http.StatusInternalServerError, "internal"},
	fault.Malformed:          {http.StatusBadRequest, "malformed"},
	fault.Unauthenticated:    {http.StatusUnauthorized, "unauthenticated"},
	fault.Forbidden:          {http.StatusForbidden, "forbidden"},
	fault.NotFound:           {http.StatusNotFound, "not-found"},
	fault.Conflict:           {http.StatusConflict, "conflict"},
	fault.PreconditionFailed: {http.StatusPreconditionFailed, "precondition-failed"},
	fault.TooLarge:           {http.StatusRequestEntityTooLarge, "too-large"},
	fault.UnsupportedMedia:   {http.StatusUnsupportedMediaType, "unsupported-media-type"},
	fault.Invalid:            {http.StatusUnprocessableEntity, "invalid"},
	fault.RateLimited:        {http.StatusTooManyRequests, "rate-limited"},
	fault.Unavailable:        {http.StatusServiceUnavailable, "unavailable"},
}

// errNoMethod is the answer to a known path asked with another method; the router has set Allow.
var errNoMethod = errors.New("method not allowed")

// problemOf says what a user is told of err.
func problemOf(err error) (p Problem, retryAfter int) {
	if errors.Is(err, errNoMethod) {
		return Problem{
			Status: http.StatusMethodNotAllowed, Type: problemType("method-not-allowed"), Title: "Method Not Allowed",
			Detail: "This path has no such method; see the Allow header.",
		}, 0
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok && errors.Is(err, context.DeadlineExceeded) {
		f, ok = fault.New(fault.Unavailable, "timeout", "It took too long; try again in a moment."), true
	}
	if !ok || f.Kind == fault.Internal {
		f = fault.New(fault.Internal, "internal", "Something went wrong on our side; the request id finds it in our logs.")
	}
	known, ok := statuses[f.Kind]
	if !ok {
		known = statuses[fault.Internal]
	}
	p = Problem{Status: known.status, Detail: f.Detail, Errors: f.Fields, extra: f.Extra}
	switch f.Code {
	case "", known.code:
		p.Type, p.Title = problemType(known.code), http.StatusText(known.status)
	default:
		p.Type, p.Title = problemType(f.Code), titleOf(f.Code)
	}
	if f.Kind == fault.Unavailable || f.Kind == fault.RateLimited {
		retryAfter = max(1, int(math.Ceil(f.RetryAfter.Seconds())))
	}
	return p, retryAfter
}

func problemType(code string) string { return "urn:fdc:problem:" + code }

// titleOf spells a code in words: "google-not-connected" is "Google not connected".
func titleOf(code string) string {
	words := strings.ReplaceAll(code, "-", " ")
	return strings.ToUpper(words[:1]) + words[1:]
}

// MarshalJSON adds the members that only this type of problem has; they can't replace the standard ones.
func (p Problem) MarshalJSON() ([]byte, error) {
	members := make(map[string]any, len(p.extra)+7)
	maps.Copy(members, p.extra)
	delete(members, "errors")
	members["type"], members["title"], members["status"] = p.Type, p.Title, p.Status
	members["detail"], members["instance"], members["requestId"] = p.Detail, p.Instance, p.RequestID
	if len(p.Errors) > 0 {
		members["errors"] = p.Errors
	}
	return json.Marshal(members)
}

// fail answers with the problem that err is. It runs at most once per request, at its end.
func (c *call) fail(err error) {
	c.failure = err
	if errors.Is(c.ctx().Err(), context.Canceled) || errors.Is(err, http.ErrAbortHandler) {
		c.status = statusClientGone
		return
	}
	if c.gin.Writer.Written() {
		return // too late for another answer; the log line has the error
	}
	p, retryAfter := problemOf(err)
	p.Instance = c.request().URL.EscapedPath()
	p.RequestID = c.id
	h := c.gin.Writer.Header()
	h.Del("ETag")
	h.Del("Location")
	h["Cache-Control"] = noStore
	if retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Cookie realm="fdc", cookie-name="`+c.api.sessionName+`"`)
	}
	c.problemType = p.Type
	body, encodeErr := json.Marshal(p)
	if encodeErr != nil {
		c.failure = errors.Join(err, encodeErr)
		c.gin.Status(p.Status)
		return
	}
	c.failure = errors.Join(err, c.write(p.Status, problemMedia, body))
}
