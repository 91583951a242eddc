package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// contract is the OpenAPI document of the running server.
type contract struct {
	paths   map[string]map[string]operation
	schemas json.RawMessage

	mu       sync.Mutex
	resolved map[string]*jsonschema.Resolved
}

type operation struct {
	ID         string `json:"operationId"`
	Parameters []struct {
		Name     string `json:"name"`
		In       string `json:"in"`
		Required bool   `json:"required"`
	} `json:"parameters"`
	Security  *[]any                    `json:"security"`
	Body      map[string]any            `json:"requestBody"`
	Responses map[string]operationReply `json:"responses"`
}

type operationReply struct {
	Headers map[string]struct {
		Required bool `json:"required"`
	} `json:"headers"`
	Content map[string]struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"content"`
}

func readContract(tb testing.TB, address string) *contract {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, address+"/api/openapi.json", nil)
	require.NoError(tb, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, resp.Body.Close()) }()
	var doc struct {
		Paths      map[string]map[string]operation `json:"paths"`
		Components struct {
			Schemas json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	require.NoError(tb, json.NewDecoder(resp.Body).Decode(&doc))
	return &contract{paths: doc.Paths, schemas: doc.Components.Schemas, resolved: make(map[string]*jsonschema.Resolved)}
}

// find is the operation of a request, and whether its path is in the document at all.
func (c *contract) find(method, path string) (op operation, known bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for template, operations := range c.paths {
		if op, ok := operations[strings.ToLower(method)]; ok && matches(template, path) {
			return op, true
		}
	}
	return operation{}, false
}

// matches reports whether a path is one of the template's, which may end in an action: {id}:resend.
func matches(template, path string) bool {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(a, b string) bool {
		_, action, _ := strings.Cut(a, "}")
		return a == b || strings.HasPrefix(a, "{") && b != "" && strings.HasSuffix(b, action)
	})
}

// check says how a body differs from its schema.
func (c *contract) check(schema json.RawMessage, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	resolved := c.resolved[string(schema)]
	if resolved == nil {
		text := fmt.Sprintf(`{"$defs":%s,"allOf":[%s]}`, c.schemas, schema)
		var alone jsonschema.Schema
		if err := json.Unmarshal([]byte(strings.ReplaceAll(text, "#/components/schemas/", "#/$defs/")), &alone); err != nil {
			return err
		}
		var err error
		if resolved, err = alone.Resolve(nil); err != nil {
			return err
		}
		c.resolved[string(schema)] = resolved
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	return resolved.Validate(value)
}

// referee holds every answer of the API against the document, and every answer at all against what all have in common.
type referee struct {
	t    *testing.T
	doc  *contract
	host string
}

func (r *referee) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || req.URL.Host != r.host || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	what := fmt.Sprintf("%s %s → %d", req.Method, req.URL.Path, resp.StatusCode)
	media := strings.TrimSpace(strings.Split(resp.Header.Get("Content-Type"), ";")[0])
	if media == "text/event-stream" {
		return resp, nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if err := resp.Body.Close(); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if id := resp.Header.Get("X-Request-Id"); id == "" {
		r.t.Errorf("%s: no X-Request-Id", what)
	}
	if resp.StatusCode >= 400 && media != "application/problem+json" && media != "text/html" && req.URL.Path != "/api/health/deep" {
		r.t.Errorf("%s: an error that is no problem document: %s", what, body)
	}
	op, known := r.doc.find(req.Method, req.URL.Path)
	if !known && !strings.HasPrefix(req.URL.Path, "/api/") {
		return resp, nil // a page
	}
	if !known {
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			r.t.Errorf("%s: the document has no such operation", what)
		}
		return resp, nil
	}
	if req.Method == http.MethodHead && resp.StatusCode == http.StatusMethodNotAllowed {
		return resp, nil // a stream
	}
	reply, ok := op.Responses[fmt.Sprint(resp.StatusCode)]
	if !ok {
		r.t.Errorf("%s: the document has no such status: %s", what, body)
		return resp, nil
	}
	for name, h := range reply.Headers {
		if h.Required && resp.Header.Get(name) == "" && (media != "application/problem+json" || name == "X-Request-Id") {
			r.t.Errorf("%s: no header %s", what, name)
		}
	}
	switch content, ok := reply.Content[media]; {
	case req.Method == http.MethodHead:
		if len(body) > 0 {
			r.t.Errorf("%s: a body: %s", what, body)
		}
	case media == "" && len(body) == 0 && len(reply.Content) == 0:
	case !ok:
		r.t.Errorf("%s: the document has no body of type %q: %s", what, media, body)
	case media == "text/csv", media == "application/x-ndjson", media == "application/zip", media == "text/html": // no JSON document
	default:
		plain, err := decoded(resp.Header.Get("Content-Encoding"), body)
		if err == nil {
			err = r.doc.check(content.Schema, plain)
		}
		if err != nil {
			r.t.Errorf("%s: %v: %s", what, err, plain)
		}
	}
	return resp, nil
}

// decoded undoes a content coding.
func decoded(coding string, body []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch coding {
	case "":
		return body, nil
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(body)) // the standard library's, which shares nothing with the encoder
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderMaxWindow(8<<20)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		err = fmt.Errorf("unknown content coding %q", coding)
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
