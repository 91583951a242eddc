// Package referee judges a conversation with Google's Calendar, Tasks and userinfo APIs by Google's own discovery documents,
// which come with the module google.golang.org/api. It is an http.RoundTripper for tests: requests and answers pass through it
// unchanged, and what the documents do not allow is reported.
//
// Judged are: path and method; each query parameter's name, place, type, enum, range and repetition; each field of request
// and answer down the schema (name, type, format, enum, the fixed value of kind); a body where none belongs; the status of
// success; and the error envelope of everything else. Left alone are paths outside those APIs, HTML errors (Google's front
// end sends them), 304s, and bodies that break off.
package referee

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Referee is a round tripper that reports breaches. It is safe for concurrent use when its report function is.
type Referee struct {
	base    http.RoundTripper
	report  func(format string, args ...any)
	methods []method
}

// New returns a referee in front of base, http.DefaultTransport when nil. Breaches go to report: a test's t.Errorf.
// It fails when the discovery documents can't be found, for which it asks the go command.
func New(base http.RoundTripper, report func(format string, args ...any)) (*Referee, error) {
	methods, err := discovered()
	if err != nil {
		return nil, err
	}
	if base == nil {
		base = http.DefaultTransport
	}
	return &Referee{base: base, report: report, methods: methods}, nil
}

// document is a discovery document.
type document struct {
	ServicePath string               `json:"servicePath"`
	Parameters  map[string]*schema   `json:"parameters"`
	Schemas     map[string]*schema   `json:"schemas"`
	Resources   map[string]*resource `json:"resources"`
}

type resource struct {
	Methods   map[string]*method   `json:"methods"`
	Resources map[string]*resource `json:"resources"`
}

type method struct {
	ID         string             `json:"id"`
	HTTPMethod string             `json:"httpMethod"`
	Path       string             `json:"path"`
	Parameters map[string]*schema `json:"parameters"`
	Request    *schema            `json:"request"`
	Response   *schema            `json:"response"`

	doc     *document
	pattern *regexp.Regexp
}

// schema describes a value: a parameter, a field, an object.
type schema struct {
	Ref         string             `json:"$ref"`
	Type        string             `json:"type"`
	Format      string             `json:"format"`
	Location    string             `json:"location"`
	Required    bool               `json:"required"`
	Repeated    bool               `json:"repeated"`
	Minimum     string             `json:"minimum"`
	Maximum     string             `json:"maximum"`
	Default     string             `json:"default"`
	Description string             `json:"description"`
	Enum        []string           `json:"enum"`
	Properties  map[string]*schema `json:"properties"`
	Additional  *schema            `json:"additionalProperties"`
	Items       *schema            `json:"items"`
}

// discovered reads the documents once per process.
var discovered = sync.OnceValues(func() ([]method, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/api").Output()
	if err != nil {
		return nil, fmt.Errorf("find module google.golang.org/api: %w", err)
	}
	var all []method
	for _, name := range []string{"calendar/v3/calendar-api.json", "tasks/v1/tasks-api.json", "oauth2/v2/oauth2-api.json"} {
		b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(name)))
		if err != nil {
			return nil, fmt.Errorf("read discovery document: %w", err)
		}
		var doc document
		if err := json.Unmarshal(b, &doc); err != nil {
			return nil, fmt.Errorf("read discovery document %s: %w", name, err)
		}
		if all, err = doc.collect(doc.Resources, all); err != nil {
			return nil, fmt.Errorf("read discovery document %s: %w", name, err)
		}
	}
	return all, nil
})

var placeholder = regexp.MustCompile(`\\\{[^}]*\\\}`)

func (d *document) collect(resources map[string]*resource, all []method) ([]method, error) {
	for _, r := range resources {
		for _, m := range r.Methods {
			path := placeholder.ReplaceAllString(regexp.QuoteMeta("/"+d.ServicePath+m.Path), `([^/]+)`)
			pattern, err := regexp.Compile("^" + path + "$")
			if err != nil {
				return nil, fmt.Errorf("path of %s: %w", m.ID, err)
			}
			m.doc, m.pattern = d, pattern
			all = append(all, *m)
		}
		var err error
		if all, err = d.collect(r.Resources, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// RoundTrip passes the request on and judges both directions.
func (r *Referee) RoundTrip(req *http.Request) (*http.Response, error) {
	m := r.find(req)
	if m != nil {
		sent, err := restore(&req.Body)
		if err != nil {
			return nil, err
		}
		m.judgeQuery(req.URL.Query(), r.breach(m, "request"))
		m.judgeBody(sent, m.Request, r.breach(m, "request"))
	}
	res, err := r.base.RoundTrip(req)
	if err != nil || m == nil {
		return res, err
	}
	got, err := restore(&res.Body)
	if err != nil {
		return res, nil //nolint:nilerr // the body broke off, and breaks off for the caller at the same place
	}
	m.judgeAnswer(res, got, r.breach(m, "answer"))
	return res, nil
}

// breach is a report function that says where.
func (r *Referee) breach(m *method, side string) func(string, ...any) {
	return func(format string, args ...any) { r.report("%s: %s: %s", m.ID, side, fmt.Sprintf(format, args...)) }
}

// restore reads a body and puts back one that reads the same, its error too.
func restore(body *io.ReadCloser) ([]byte, error) {
	if *body == nil {
		return nil, nil
	}
	b, err := io.ReadAll(*body)
	if closeErr := (*body).Close(); err == nil {
		err = closeErr
	}
	again := io.Reader(bytes.NewReader(b))
	if err != nil {
		again = io.MultiReader(again, failing{err})
	}
	*body = io.NopCloser(again)
	return b, err
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// find is the method for a request; nil, and a breach, when the path is of these APIs but of none of their methods.
func (r *Referee) find(req *http.Request) *method {
	path := strings.ReplaceAll(req.URL.EscapedPath(), "%40me/", "@me/")
	for i := range r.methods {
		if m := &r.methods[i]; m.HTTPMethod == req.Method && m.pattern.MatchString(path) {
			return m
		}
	}
	for _, prefix := range []string{"/calendar/", "/tasks/", "/oauth2/v2/"} {
		if strings.HasPrefix(path, prefix) {
			r.report("%s %s is no method of Google's", req.Method, path)
		}
	}
	return nil
}

func (m *method) judgeQuery(query url.Values, breach func(string, ...any)) {
	for name, values := range query {
		p, ok := m.Parameters[name]
		if !ok || p.Location != "query" {
			if p, ok = m.doc.Parameters[name]; !ok {
				breach("parameter %q does not exist", name)
				continue
			}
		}
		if len(values) > 1 && !p.Repeated {
			breach("parameter %q is repeated", name)
		}
		for _, v := range values {
			if problem := p.judgeText(v); problem != "" {
				breach("parameter %s=%q: %s", name, v, problem)
			}
		}
	}
	for name, p := range m.Parameters {
		if p.Required && p.Location == "query" && !query.Has(name) {
			breach("parameter %q is missing", name)
		}
	}
}

// judgeText judges a value written as text.
func (s *schema) judgeText(v string) string {
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return fmt.Sprintf("not one of %v", s.Enum)
	}
	switch s.Type {
	case "boolean":
		if v != "true" && v != "false" {
			return "no boolean"
		}
	case "integer":
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return "no integer"
		}
		if low, err := strconv.ParseInt(s.Minimum, 10, 64); err == nil && n < low {
			return "below the minimum " + s.Minimum
		}
		if high, err := strconv.ParseInt(s.Maximum, 10, 64); err == nil && n > high {
			return "above the maximum " + s.Maximum
		}
	}
	return judgeFormat(s.Format, v)
}

func judgeFormat(format, v string) string {
	var err error
	switch format {
	case "date-time":
		_, err = time.Parse(time.RFC3339, v)
	case "date":
		_, err = time.Parse("2006-01-02", v)
	case "int64":
		_, err = strconv.ParseInt(v, 10, 64)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func (m *method) judgeBody(body []byte, want *schema, breach func(string, ...any)) {
	switch {
	case want == nil && len(bytes.TrimSpace(body)) > 0:
		breach("a body where none belongs: %.200s", body)
	case want != nil && len(body) == 0:
		breach("no body")
	case want != nil:
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			breach("body: %v", err)
			return
		}
		m.doc.judge("", v, want, breach)
	}
}

// always finds the fixed value that prose gives where the schema has no default.
var always = regexp.MustCompile(`This is always "([^"]+)"`)

// judge compares a JSON value with its schema. Nulls are left alone: a patch removes with them.
func (d *document) judge(at string, v any, s *schema, breach func(string, ...any)) {
	if s.Ref != "" {
		s = d.Schemas[s.Ref]
	}
	if v == nil || s == nil || s.Type == "any" {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if s.Type != "object" {
			breach("%s is an object, not %s", at, s.Type)
			return
		}
		for name, field := range v {
			inner := s.Properties[name]
			if inner == nil {
				inner = s.Additional
			}
			if inner == nil {
				breach("%s.%s does not exist", at, name)
				continue
			}
			if fixed := inner.fixed(); name == "kind" && fixed != "" && field != fixed {
				breach("%s.kind is %v, not %s", at, field, fixed)
			}
			if name == "dateTime" && v["timeZone"] != nil && isLocal(field) {
				continue // the prose allows a time without an offset beside a zone; the format does not
			}
			d.judge(at+"."+name, field, inner, breach)
		}
	case []any:
		if s.Type != "array" {
			breach("%s is an array, not %s", at, s.Type)
			return
		}
		for i, item := range v {
			d.judge(fmt.Sprintf("%s[%d]", at, i), item, s.Items, breach)
		}
	case string:
		if s.Type != "string" {
			breach("%s is a string, not %s", at, s.Type)
		} else if problem := s.judgeText(v); problem != "" {
			breach("%s=%q: %s", at, v, problem)
		}
	case bool:
		if s.Type != "boolean" {
			breach("%s is a boolean, not %s", at, s.Type)
		}
	case float64:
		if s.Type != "number" && (s.Type != "integer" || v != float64(int64(v))) {
			breach("%s is the number %v, not %s", at, v, s.Type)
		}
	}
}

func isLocal(v any) bool {
	s, _ := v.(string)
	_, err := time.Parse("2006-01-02T15:04:05", s)
	return err == nil
}

func (s *schema) fixed() string {
	if s.Default != "" {
		return s.Default
	}
	if found := always.FindStringSubmatch(s.Description); found != nil {
		return found[1]
	}
	return ""
}

// judgeAnswer judges success by the method and failure by the envelope.
func (m *method) judgeAnswer(res *http.Response, body []byte, breach func(string, ...any)) {
	kind := res.Header.Get("Content-Type")
	switch {
	case strings.HasPrefix(kind, "text/html"):
	case res.StatusCode == http.StatusNotModified:
		if len(body) > 0 {
			breach("a 304 with a body")
		}
	case res.StatusCode >= 400:
		if err := judgeEnvelope(res.StatusCode, body); err != nil {
			breach("error envelope: %v: %.300s", err, body)
		}
	case m.Response == nil:
		if res.StatusCode != http.StatusNoContent {
			breach("status %d, not 204", res.StatusCode)
		}
		m.judgeBody(body, nil, breach)
	default:
		if res.StatusCode != http.StatusOK {
			breach("status %d, not 200", res.StatusCode)
		}
		if !strings.HasPrefix(kind, "application/json") {
			breach("content type %q", kind)
		}
		m.judgeBody(body, m.Response, breach)
	}
}

// judgeEnvelope checks {"error":{"code","message","errors":[{"domain","reason","message"}],"status"}}.
func judgeEnvelope(status int, body []byte) error {
	var envelope struct {
		Error *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
			Status  string `json:"status"`
			Errors  []struct {
				Domain       string `json:"domain"`
				Reason       string `json:"reason"`
				Message      string `json:"message"`
				Location     string `json:"location"`
				LocationType string `json:"locationType"`
			} `json:"errors"`
			Details []any `json:"details"`
		} `json:"error"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&envelope); err != nil {
		return err
	}
	e := envelope.Error
	switch {
	case e == nil:
		return errors.New("no error object")
	case e.Code != status:
		return fmt.Errorf("code %d under status %d", e.Code, status)
	case e.Message == "":
		return errors.New("no message")
	case len(e.Errors) == 0:
		return errors.New("no errors")
	}
	for _, one := range e.Errors {
		if one.Domain == "" || one.Reason == "" || one.Message == "" {
			return fmt.Errorf("incomplete entry %+v", one)
		}
	}
	return nil
}
