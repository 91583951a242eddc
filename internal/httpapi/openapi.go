package httpapi

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"fdc/events"
	"fdc/internal/platform/fault"
)

const (
	schemaMedia = "application/schema+json"
	htmlMedia   = "text/html"
)

func documentRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/api/openapi.json", id: "getOpenAPI", tag: "documents", public: true,
			summary: "This document.",
			answers: []answer{{status: http.StatusOK, doc: "OpenAPI 3.1.", media: jsonMedia, headers: []string{"Cache-Control"}}},
			handle: func(a *api, c *call) error {
				c.setHeader("Cache-Control", "public, max-age=300")
				return c.write(http.StatusOK, jsonMedia, a.document)
			},
		},
		{
			method: http.MethodGet, path: "/api/schemas/{eventType}", id: "getEventSchema", tag: "documents", public: true,
			summary: "The JSON Schema of an event type, such as fdc.task.created.v1.",
			answers: []answer{{status: http.StatusOK, doc: "JSON Schema 2020-12.", media: schemaMedia, headers: []string{"Cache-Control"}}},
			handle: func(_ *api, c *call) error {
				schema, ok := events.Schema(c.path("eventType"))
				if !ok {
					return fault.Missing("event type")
				}
				c.setHeader("Cache-Control", "public, max-age=300")
				return c.write(http.StatusOK, schemaMedia, schema)
			},
		},
	}
}

// The parts of an OpenAPI 3.1 document that this API needs.
type (
	openAPI struct {
		OpenAPI    string                          `json:"openapi"`
		Info       map[string]any                  `json:"info"`
		Servers    []map[string]string             `json:"servers"`
		Security   []map[string][]string           `json:"security"`
		Paths      map[string]map[string]operation `json:"paths"`
		Components map[string]any                  `json:"components"`
	}
	operation struct {
		ID         string                 `json:"operationId"`
		Summary    string                 `json:"summary"`
		About      string                 `json:"description,omitempty"`
		Tags       []string               `json:"tags"`
		Security   *[]map[string][]string `json:"security,omitempty"`
		Parameters []parameter            `json:"parameters,omitempty"`
		Body       *requestBody           `json:"requestBody,omitempty"`
		Responses  map[string]response    `json:"responses"`
	}
	parameter struct {
		Name        string             `json:"name"`
		In          string             `json:"in"`
		Description string             `json:"description,omitempty"`
		Required    bool               `json:"required,omitempty"`
		Schema      *jsonschema.Schema `json:"schema"`
	}
	requestBody struct {
		Description string               `json:"description,omitempty"`
		Required    bool                 `json:"required"`
		Content     map[string]mediaType `json:"content"`
	}
	response struct {
		Description string                    `json:"description"`
		Headers     map[string]responseHeader `json:"headers,omitempty"`
		Content     map[string]mediaType      `json:"content,omitempty"`
	}
	responseHeader struct {
		Required bool               `json:"required"`
		Schema   *jsonschema.Schema `json:"schema"`
	}
	mediaType struct {
		Schema *jsonschema.Schema `json:"schema"`
	}
)

// document describes the table.
func document(table []route, origin, cookie string) []byte {
	types := make(typeSchemas)
	doc := openAPI{
		OpenAPI: "3.1.0",
		Info: map[string]any{
			"title": "FDC", "version": "1",
			"description": "Errors are RFC 9457 problem documents whose type is urn:fdc:problem:CODE. " +
				"An object that doesn't exist and one of another tenant look the same: 404.",
			"license": map[string]string{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		Servers:  []map[string]string{{"url": origin}},
		Security: []map[string][]string{{"session": {}}},
		Paths:    make(map[string]map[string]operation),
	}
	for i := range table {
		r := &table[i]
		if r.isPage() {
			continue
		}
		if doc.Paths[r.path] == nil {
			doc.Paths[r.path] = make(map[string]operation)
		}
		doc.Paths[r.path][strings.ToLower(r.method)] = r.operation(types)
	}
	doc.Components = map[string]any{
		"schemas": types.components(),
		"securitySchemes": map[string]any{
			"session": map[string]string{"type": "apiKey", "in": "cookie", "name": cookie},
		},
	}
	text, err := json.Marshal(doc)
	if err != nil {
		panic("httpapi: OpenAPI document: " + err.Error())
	}
	return text
}

func (r *route) operation(types typeSchemas) operation {
	op := operation{ID: r.id, Summary: r.summary, Tags: []string{r.tag}, Responses: make(map[string]response)}
	if r.reauth != nil {
		op.About = strings.TrimSpace("Needs a sign-in with Google within the last 10 minutes "+r.reauth.when) +
			"; else 403 reauthentication-required, whose loginUrl leads to Google and back."
	}
	if r.public {
		op.Security = &[]map[string][]string{}
	}
	for _, name := range r.pathParams() {
		s := &jsonschema.Schema{Type: "string"}
		if name != "eventType" {
			s.Format = "uuid"
		}
		op.Parameters = append(op.Parameters, parameter{Name: name, In: "path", Required: true, Schema: s})
	}
	for _, p := range r.query {
		op.Parameters = append(op.Parameters, parameter{Name: p.name, In: "query", Description: p.doc, Required: p.required, Schema: p.schema})
	}
	for _, h := range r.headers {
		op.Parameters = append(op.Parameters, parameter{Name: h.name, In: "header", Description: h.doc, Schema: &jsonschema.Schema{Type: "string"}})
	}
	if b := r.body; b != nil {
		s := &jsonschema.Schema{Type: "object"}
		if b.dto != nil {
			s = types.of(b.dto)
		}
		op.Body = &requestBody{Description: b.doc, Required: !b.optional, Content: map[string]mediaType{b.media: {s}}}
		if b.merge {
			op.Body.Content[mergePatchMedia] = mediaType{s}
		}
	}
	for _, a := range r.answers {
		s := &jsonschema.Schema{}
		if a.dto != nil {
			s = types.of(a.dto)
		}
		op.respond(a.status, a.doc, a.media, s, append(r.limitHeaders(), a.headers...))
		for _, name := range a.may {
			op.Responses[strconv.Itoa(a.status)].Headers[name] = responseHeader{Schema: &jsonschema.Schema{Type: "string"}}
		}
	}
	for _, status := range r.problems() {
		var headers []string
		if status == http.StatusTooManyRequests {
			headers = append(r.limitHeaders(), "Retry-After")
		}
		op.respond(status, http.StatusText(status)+".", problemMedia, types.of(reflect.TypeFor[Problem]()), headers)
	}
	if r.reauth != nil && !r.unsafe() {
		op.respond(http.StatusForbidden, "Forbidden.", htmlMedia, &jsonschema.Schema{}, nil)
	}
	return op
}

// respond adds an answer; one status may have several, told apart by their media.
func (op *operation) respond(status int, doc, media string, s *jsonschema.Schema, headers []string) {
	key := strconv.Itoa(status)
	res, there := op.Responses[key]
	if !there {
		res = response{Description: doc, Headers: map[string]responseHeader{}}
	} else if res.Description != doc {
		res.Description += " " + doc
	}
	if media != "" {
		if res.Content == nil {
			res.Content = make(map[string]mediaType)
		}
		if other, there := res.Content[media]; there {
			s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{other.Schema, s}}
		}
		res.Content[media] = mediaType{s}
	}
	for _, name := range append([]string{"X-Request-Id"}, headers...) {
		res.Headers[name] = responseHeader{Required: true, Schema: &jsonschema.Schema{Type: "string"}}
	}
	op.Responses[key] = res
}

// problems lists the statuses of the problems that the route can answer: what its entry names and what follows from it.
func (r *route) problems() []int {
	statuses := append([]int{http.StatusInternalServerError, http.StatusServiceUnavailable}, r.faults...)
	if !r.public {
		statuses = append(statuses, http.StatusUnauthorized)
	}
	if r.limitKey() != "" {
		statuses = append(statuses, http.StatusTooManyRequests)
	}
	if r.unsafe() || r.reauth != nil {
		statuses = append(statuses, http.StatusForbidden) // from another origin, or without a recent sign-in
	}
	if len(r.pathParams()) > 0 {
		statuses = append(statuses, http.StatusNotFound)
	}
	if len(r.query) > 0 {
		statuses = append(statuses, http.StatusBadRequest)
	}
	if r.body != nil {
		statuses = append(statuses, http.StatusBadRequest, http.StatusRequestEntityTooLarge,
			http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity)
	}
	slices.Sort(statuses)
	return slices.Compact(statuses)
}

// typeSchemas holds the schema of every DTO met so far. Structs are components; everything that holds one refers to it.
type typeSchemas map[reflect.Type]*jsonschema.Schema

// of returns the schema of a DTO: a reference for a struct.
func (t typeSchemas) of(dto reflect.Type) *jsonschema.Schema {
	t.add(dto)
	return t.infer(dto, t.references(nil))
}

// add makes the components of dto and of everything in it.
func (t typeSchemas) add(dto reflect.Type) {
	switch dto.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		t.add(dto.Elem())
	case reflect.Struct:
		if t[dto] != nil || dto == timeType {
			return
		}
		t[dto] = &jsonschema.Schema{} // met, so that a second one inside doesn't start again
		for f := range dto.Fields() {
			if f.IsExported() {
				t.add(f.Type)
			}
		}
		s := t.infer(dto, t.references(dto))
		for f := range dto.Fields() {
			if f.IsExported() {
				name, _ := jsonName(f)
				s.Properties[name] = describe(s.Properties[name], f)
			}
		}
		if dto == reflect.TypeFor[Problem]() {
			s.AdditionalProperties = nil // some types have more members
		}
		t[dto] = s
	default:
	}
}

func (t typeSchemas) infer(dto reflect.Type, known map[reflect.Type]*jsonschema.Schema) *jsonschema.Schema {
	s, err := jsonschema.ForType(dto, &jsonschema.ForOptions{TypeSchemas: known})
	if err != nil {
		panic("httpapi: OpenAPI document: " + err.Error())
	}
	return s
}

// references are the schemas to use inside of the one of a type: references to the other components.
func (t typeSchemas) references(within reflect.Type) map[reflect.Type]*jsonschema.Schema {
	known := map[reflect.Type]*jsonschema.Schema{
		timeType: {Type: "string", Format: "date-time"},
		rawType:  {Type: "object"},
	}
	for dto := range t {
		if dto != within {
			known[dto] = &jsonschema.Schema{Ref: "#/components/schemas/" + componentName(dto)}
		}
	}
	return known
}

func (t typeSchemas) components() map[string]*jsonschema.Schema {
	named := make(map[string]*jsonschema.Schema, len(t))
	for dto, s := range t {
		name := componentName(dto)
		if named[name] != nil {
			panic("httpapi: OpenAPI document: two DTOs are called " + name)
		}
		named[name] = s
	}
	return named
}

// componentName is a DTO's name in the document: Task; Page[Task] is TaskPage.
func componentName(dto reflect.Type) string {
	outer, inner, generic := strings.Cut(strings.TrimSuffix(dto.Name(), "]"), "[")
	if !generic {
		return outer
	}
	return inner[strings.LastIndexByte(inner, '.')+1:] + outer
}

// describe adds to the schema of a field's type what the field's tags say.
func describe(s *jsonschema.Schema, f reflect.StructField) *jsonschema.Schema {
	r := rulesOf(f)
	kind, nullable := f.Type, false
	if kind.Kind() == reflect.Pointer {
		kind, nullable = kind.Elem(), true
	}
	switch {
	case nullable && s.Ref != "":
		s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Ref: s.Ref}, {Type: "null"}}}
	case kind == rawType:
	case kind.Kind() == reflect.Slice:
		s.Type, s.Types = "array", nil // never null: an empty one is []
		s.MinItems, s.MaxItems = count(r.min), count(r.max)
	case kind.Kind() == reflect.String:
		s.MinLength, s.MaxLength, s.Format = count(r.min), count(r.max), r.format
		for _, word := range r.enum {
			s.Enum = append(s.Enum, word)
		}
		if nullable && s.Enum != nil {
			s.Enum = append(s.Enum, nil)
		}
	case kind.Kind() == reflect.Int, kind.Kind() == reflect.Int64:
		s.Minimum, s.Maximum = number(r.min), number(r.max)
	}
	s.Description = r.doc
	return s
}

func count(n *int64) *int {
	if n == nil {
		return nil
	}
	return new(int(*n))
}

func number(n *int64) *float64 {
	if n == nil {
		return nil
	}
	return new(float64(*n))
}

var timeType = reflect.TypeFor[time.Time]()
