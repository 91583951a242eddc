package events

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

const (
	idPattern      = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
	wordPattern    = "^[a-z][a-z0-9_-]{0,63}$"
	maskedPattern  = `^(\*{3}|[^@*\s]?\*{3}@[^@\s]+)$`
	timePattern    = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$`
	subjectPattern = "^[A-Za-z0-9_.:/-]{1,256}$"
)

// Schema gives the JSON Schema (draft 2020-12) of the whole event of a type, found by its full name,
// "fdc.task.created.v1". It says what [Decode] accepts as far as JSON Schema can: like Decode it allows what it does not
// know.
func Schema(typeName string) ([]byte, bool) {
	t, ok := byName[typeName]
	if !ok {
		return nil, false
	}
	b, err := json.MarshalIndent(t.schema(), "", "  ")
	if err != nil {
		panic(err) // strings and numbers alone
	}
	return append(b, '\n'), true
}

func (t *Type) schema() schema {
	required := []string{"specversion", "id", "type", "source", "subject", "time", "datacontenttype", "dataschema", "actorid", "data"}
	for i := range t.Fields { // what the payload names, the envelope repeats
		if name := t.Fields[i].Name; name == "userId" || name == "workspaceId" {
			required = append(required, strings.ToLower(name))
		}
	}
	subject := schema{{"type", "string"}, {"pattern", subjectPattern}}
	if t.OrderedBy != "" {
		subject = idSchema()
	}
	return schema{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"$id", schemaPrefix + t.Name},
		{"title", t.Name},
		{"description", t.Summary},
		{"type", "object"},
		{"properties", schema{
			{"specversion", schema{{"const", specVersion}, {"description", "The version of CloudEvents."}}},
			{"id", idSchema().with("description", "The event; also the message id that the bus deduplicates by.")},
			{"type", schema{{"const", t.Name}, {"description", "What happened."}}},
			{"source", schema{{"type", "string"}, {"pattern", "^/fdc/[a-z][a-z0-9-]{0,63}$"}, {"description", "The service that states the fact."}}},
			{"subject", subject.with("description", "The aggregate's id; of a fact that stands alone, what it is about.")},
			{"time", timeSchema().with("description", "When it happened.")},
			{"datacontenttype", schema{{"const", dataContentType}, {"description", "The form of the data."}}},
			{"dataschema", schema{{"const", schemaPrefix + t.Name}, {"description", "The JSON Schema of the type."}}},
			{"actorid", schema{
				{"anyOf", []schema{idSchema(), {{"enum", []string{SystemActor, OperatorActor, AnonymousActor}}}, {{"type", "string"}, {"pattern", "^operator:[A-Za-z0-9._@+-]{1,128}$"}}}},
				{"description", "Who did it: a user, system (background work), operator:NAME (the fdc command), operator (the same, without a name) or anonymous (nobody signed in)."},
			}},
			{"userid", idSchema().with("description", "The user whom it concerns, if any.")},
			{"workspaceid", idSchema().with("description", "The workspace where it happened, if any.")},
			{"requestid", schema{{"type", "string"}, {"pattern", "^[!-~]{1,256}$"}, {"description", "The HTTP request behind it, if any."}}},
			{"callerrequestid", schema{{"type", "string"}, {"pattern", "^[!-~]{1,256}$"}, {"description", "The client's own name for that request, from its X-Request-Id, if it sent one."}}},
			{"ip", schema{{"type", "string"}, {"minLength", 1}, {"anyOf", []schema{{{"format", "ipv4"}}, {{"format", "ipv6"}}}}, {"description", "The request's client address, if known."}}},
			{"useragent", schema{{"type", "string"}, {"minLength", 1}, {"maxLength", maxUserAgent}, {"description", "The request's client, if known."}}},
			{"data", objectSchema(t.Fields).with("description", "The payload.")},
		}},
		{"required", required},
		{"propertyNames", schema{{"pattern", "^[a-z0-9]{1,64}$"}}},
	}
}

func objectSchema(fields []Field) schema {
	var properties schema
	required := []string{} // "required": null is no schema
	for i := range fields {
		f := &fields[i]
		properties = properties.with(f.Name, f.schema().with("description", f.Doc))
		if f.Required {
			required = append(required, f.Name)
		}
	}
	return schema{{"type", "object"}, {"properties", properties}, {"required", required}}
}

func (f *Field) schema() schema {
	str := schema{{"type", "string"}}
	switch f.Rule {
	case RuleID:
		return idSchema()
	case RuleVersion:
		return schema{{"type", "integer"}, {"minimum", 1}}
	case RuleCount:
		return schema{{"type", "integer"}, {"minimum", 0}}
	case RuleBool:
		return schema{{"type", "boolean"}}
	case RuleEmail:
		return str.with("pattern", maskedPattern)
	case RuleEnum:
		return str.with("enum", f.Values)
	case RuleWord:
		return str.with("pattern", wordPattern).with("examples", f.Values)
	case RuleMonth:
		return str.with("pattern", monthPattern.String())
	case RuleDigest:
		return str.with("pattern", digestPattern.String())
	case RuleTime:
		return timeSchema()
	case RuleLabel:
		return lineSchema(maxLabel)
	case RuleText:
		return lineSchema(maxText)
	case RulePaths:
		return listSchema(maxPaths, maxPath)
	case RuleLabels:
		return listSchema(maxLabels, maxLabel)
	case RuleObject:
		return objectSchema(f.Fields)
	default:
		return nil
	}
}

func idSchema() schema {
	return schema{{"type", "string"}, {"format", "uuid"}, {"pattern", idPattern}}
}

func timeSchema() schema {
	return schema{{"type", "string"}, {"format", "date-time"}, {"pattern", timePattern}}
}

func listSchema(most, longest int) schema {
	return schema{{"type", "array"}, {"items", lineSchema(longest)}, {"minItems", 1}, {"maxItems", most}}
}

func lineSchema(longest int) schema {
	return schema{{"type", "string"}, {"minLength", 1}, {"maxLength", longest}}
}

// schema is a JSON object that keeps its order, so that a schema reads like the event it describes.
type schema []member

type member struct {
	name  string
	value any
}

func (s schema) with(name string, value any) schema {
	return append(slices.Clip(s), member{name, value})
}

// MarshalJSON writes the members in their order.
func (s schema) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
