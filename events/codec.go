package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// ContentType is the media type of an encoded event.
const ContentType = "application/cloudevents+json"

// MaxSize is the largest event that [Decode] takes, in bytes. The bounds of its parts keep what [Encode] gives well below.
const MaxSize = 256 << 10

const (
	specVersion     = "1.0"
	dataContentType = "application/json"
	schemaPrefix    = "urn:fdc:schema:"
)

// ErrTooLarge is in the chain of the error for what is longer than [MaxSize].
var ErrTooLarge = errors.New("event too large")

// envelope is the JSON of an event; its order is the order on the wire.
type envelope struct {
	Specversion     string  `json:"specversion"`
	ID              string  `json:"id"`
	Type            string  `json:"type"`
	Source          string  `json:"source"`
	Subject         string  `json:"subject"`
	Time            string  `json:"time"`
	Datacontenttype string  `json:"datacontenttype"`
	Dataschema      string  `json:"dataschema"`
	Actorid         string  `json:"actorid"`
	Userid          string  `json:"userid,omitempty"`
	Workspaceid     string  `json:"workspaceid,omitempty"`
	Requestid       string  `json:"requestid,omitempty"`
	Callerrequestid string  `json:"callerrequestid,omitempty"`
	IP              string  `json:"ip,omitempty"`
	Useragent       string  `json:"useragent,omitempty"`
	Data            Payload `json:"data"`
}

// Encode validates the event and gives its structured-mode JSON.
func Encode(e Event) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("encode %w", err)
	}
	b, err := json.Marshal(envelope{
		Specversion:     specVersion,
		ID:              e.ID,
		Type:            e.Type,
		Source:          e.Source,
		Subject:         e.Subject,
		Time:            e.Time.Format(time.RFC3339Nano),
		Datacontenttype: dataContentType,
		Dataschema:      schemaPrefix + e.Type,
		Actorid:         e.ActorID,
		Userid:          e.UserID,
		Workspaceid:     e.WorkspaceID,
		Requestid:       e.RequestID,
		Callerrequestid: e.CallerRequestID,
		IP:              e.IP,
		Useragent:       e.UserAgent,
		Data:            e.Data,
	})
	if err != nil {
		return nil, fmt.Errorf("encode event %s %s: %w", e.Type, e.ID, err)
	}
	return b, nil
}

// Decode reads structured-mode JSON and validates what it says. It keeps nothing of b. An unknown type is
// [ErrUnknownType], whatever else may be wrong with its data.
func Decode(b []byte) (Event, error) {
	if len(b) > MaxSize {
		return Event{}, fmt.Errorf("decode event: %w: %d bytes", ErrTooLarge, len(b))
	}
	p := parser{s: string(b)} // one copy, which all strings of the event share
	env, data, err := p.envelope()
	if err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	t, ok := byName[env.Type]
	if !ok {
		return Event{}, fmt.Errorf("decode event: %w: %.64q", ErrUnknownType, env.Type)
	}
	if env.Dataschema != schemaPrefix+env.Type {
		return Event{}, fmt.Errorf("decode event %s: dataschema: want %s", t.Name, schemaPrefix+env.Type)
	}
	at, err := parseTime(env.Time)
	if err != nil {
		return Event{}, fmt.Errorf("decode event %s: time: %w", t.Name, err)
	}
	payload := reflect.New(t.payload).Elem()
	p.i = data
	if err := p.fields(t.Fields, payload); err != nil {
		return Event{}, fmt.Errorf("decode event %s: data: %w", t.Name, err)
	}
	e := Event{
		ID:              env.ID,
		Type:            env.Type,
		Source:          env.Source,
		Subject:         env.Subject,
		Time:            at,
		ActorID:         env.Actorid,
		UserID:          env.Userid,
		WorkspaceID:     env.Workspaceid,
		RequestID:       env.Requestid,
		CallerRequestID: env.Callerrequestid,
		IP:              env.IP,
		UserAgent:       env.Useragent,
		Data:            payload.Interface().(Payload),
	}
	if err := e.Validate(); err != nil {
		return Event{}, fmt.Errorf("decode %w", err)
	}
	return e, nil
}

// MarshalJSON is [Encode].
func (e Event) MarshalJSON() ([]byte, error) { return Encode(e) }

// UnmarshalJSON is [Decode].
func (e *Event) UnmarshalJSON(b []byte) error {
	decoded, err := Decode(b)
	if err != nil {
		return err
	}
	*e = decoded
	return nil
}

// envelope reads the attributes and finds the data, which can only be read once the type is known.
func (p *parser) envelope() (env envelope, data int, err error) {
	attributes := []struct {
		name     string
		value    *string
		required bool
	}{
		{"specversion", &env.Specversion, true},
		{"id", &env.ID, true},
		{"type", &env.Type, true},
		{"source", &env.Source, true},
		{"subject", &env.Subject, true},
		{"time", &env.Time, true},
		{"datacontenttype", &env.Datacontenttype, true},
		{"dataschema", &env.Dataschema, true},
		{"actorid", &env.Actorid, true},
		{"userid", &env.Userid, false},
		{"workspaceid", &env.Workspaceid, false},
		{"requestid", &env.Requestid, false},
		{"callerrequestid", &env.Callerrequestid, false},
		{"ip", &env.IP, false},
		{"useragent", &env.Useragent, false},
	}
	err = p.object(func(name string) error {
		if name == "data" {
			data = p.i
			return p.skip()
		}
		for i := range attributes {
			if a := &attributes[i]; a.name == name {
				*a.value, err = p.text()
				return err
			}
		}
		if !validAttribute(name) {
			return errors.New("not the name of a CloudEvents attribute")
		}
		return p.skipScalar()
	})
	if err == nil {
		err = p.end()
	}
	if err != nil {
		return envelope{}, 0, err
	}
	for i := range attributes {
		if a := &attributes[i]; a.required && *a.value == "" {
			return envelope{}, 0, fmt.Errorf("%s: missing", a.name)
		}
	}
	switch {
	case data == 0:
		return envelope{}, 0, errors.New("data: missing")
	case env.Specversion != specVersion:
		return envelope{}, 0, fmt.Errorf("specversion: want %s", specVersion)
	case env.Datacontenttype != dataContentType:
		return envelope{}, 0, fmt.Errorf("datacontenttype: want %s", dataContentType)
	}
	return env, data, nil
}

// validAttribute reports whether an attribute that this version does not know may be one of a later version.
func validAttribute(name string) bool {
	return name != "" && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// fields reads a payload, or an object in one, into the struct v. Fields that it does not know are skipped.
func (p *parser) fields(fields []Field, v reflect.Value) error {
	var seen uint64 // bit i: fields[i]
	err := p.object(func(name string) error {
		for i := range fields {
			if fields[i].Name == name {
				seen |= 1 << i
				return p.field(&fields[i], v.Field(fields[i].index))
			}
		}
		return p.skip()
	})
	if err != nil {
		return err
	}
	for i := range fields {
		if fields[i].Required && seen&(1<<i) == 0 {
			return fmt.Errorf("%s: missing", fields[i].Name)
		}
	}
	return nil
}

func (p *parser) field(f *Field, v reflect.Value) error {
	switch f.Rule {
	case RuleObject:
		return p.fields(f.Fields, v)
	case RuleVersion, RuleCount:
		n, err := p.integer()
		v.SetInt(n)
		return err
	case RuleBool:
		b, err := p.boolean()
		v.SetBool(b)
		return err
	case RuleTime:
		s, err := p.text()
		if err != nil {
			return err
		}
		at, err := parseTime(s)
		v.Set(reflect.ValueOf(at))
		return err
	case RulePaths, RuleLabels:
		list, err := p.texts()
		if err == nil && list == nil {
			err = p.errorf("empty")
		}
		v.Set(reflect.ValueOf(list))
		return err
	default:
		s, err := p.text()
		v.SetString(s)
		return err
	}
}

// parseTime reads an RFC 3339 time, however the producer writes it, as the moment that the wire holds.
func parseTime(s string) (time.Time, error) {
	var t time.Time
	if err := t.UnmarshalText([]byte(s)); err != nil || !validTime(canonicalTime(t)) {
		return time.Time{}, fmt.Errorf("%.64q: want RFC 3339, a year from 1970 to 9999", s)
	}
	return canonicalTime(t), nil
}
