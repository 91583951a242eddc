package events

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of payload strings and lists.
const (
	maxLabel  = 200
	maxText   = 1000
	maxPath   = 200
	maxPaths  = 100
	maxLabels = 100
)

// everything stands in a changed list for more paths than it may hold.
const everything = "*"

// Field describes one field of a payload. It is read from the struct's tags, and the decoder, the validator, the schema
// and the documents all go by it, so they cannot disagree.
type Field struct {
	Name     string // as in JSON
	Rule     Rule
	Required bool
	Values   []string // of an enum all there are, of a word those in use
	Doc      string
	Fields   []Field // of an object

	index int // in the struct
}

// Rule says what a field holds.
type Rule string

// The rules.
const (
	RuleID      Rule = "id"      // a UUID
	RuleVersion Rule = "version" // an integer from 1
	RuleCount   Rule = "count"   // an integer from 0
	RuleBool    Rule = "bool"
	RuleEmail   Rule = "email"  // an email address, masked
	RuleEnum    Rule = "enum"   // one of a closed list
	RuleWord    Rule = "word"   // a lower-case word of a list that may grow
	RuleMonth   Rule = "month"  // YYYY-MM
	RuleDigest  Rule = "digest" // SHA-256, lower-case hex
	RuleTime    Rule = "time"   // RFC 3339, UTC
	RuleLabel   Rule = "label"  // a name given by code or configuration, one short line
	RuleText    Rule = "text"   // an operator's words, one line
	RulePaths   Rule = "paths"  // names of what changed
	RuleLabels  Rule = "labels" // a list of labels
	RuleObject  Rule = "object"
)

var (
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	monthPattern  = regexp.MustCompile(`^[0-9]{4}-(0[1-9]|1[0-2])$`)
)

// Changed makes the changed list of a payload: sorted, without repetitions. When it would be too long, it is just "*".
func Changed(paths ...string) []string {
	list := slices.Clone(paths)
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) > maxPaths || slices.ContainsFunc(list, func(p string) bool { return !validLine(p, maxPath) }) {
		return []string{everything}
	}
	return list
}

// fieldsOf reads a payload's tags. It panics on a struct that breaks the rules of this package: the program does not
// start, whoever wrote it sees why.
func fieldsOf(t reflect.Type) []Field {
	fields := make([]Field, 0, t.NumField())
	for i := range t.NumField() {
		sf := t.Field(i)
		name, option, _ := strings.Cut(sf.Tag.Get("json"), ",")
		f := Field{
			Name:     name,
			Rule:     Rule(sf.Tag.Get("rule")),
			Required: option == "",
			Doc:      sf.Tag.Get("doc"),
			index:    i,
		}
		if values := sf.Tag.Get("values"); values != "" {
			f.Values = strings.Split(values, "|")
		}
		if f.Rule == RuleObject {
			f.Fields = fieldsOf(sf.Type)
		}
		if name == "" || f.Doc == "" || !f.fits(sf.Type) || (f.Rule == RuleEnum || f.Rule == RuleWord) != (f.Values != nil) {
			panic(fmt.Sprintf("events: %s.%s: bad tags", t.Name(), sf.Name))
		}
		fields = append(fields, f)
	}
	return fields
}

// fits reports whether values of the Go type can hold what the rule says.
func (f *Field) fits(t reflect.Type) bool {
	switch f.Rule {
	case RuleVersion, RuleCount:
		return t.Kind() == reflect.Int64
	case RuleBool:
		return t.Kind() == reflect.Bool
	case RuleID, RuleEmail, RuleEnum, RuleWord, RuleMonth, RuleDigest, RuleLabel, RuleText:
		return t.Kind() == reflect.String
	case RuleTime:
		return t == reflect.TypeFor[time.Time]()
	case RulePaths, RuleLabels:
		return t == reflect.TypeFor[[]string]()
	case RuleObject:
		return t.Kind() == reflect.Struct && f.Required
	default:
		return false
	}
}

// validate says what is wrong with a payload.
func (t *Type) validate(data Payload) []error {
	return checkFields("data", t.Fields, reflect.ValueOf(data), nil)
}

func checkFields(path string, fields []Field, v reflect.Value, problems []error) []error {
	for i := range fields {
		f := &fields[i]
		value := v.Field(f.index)
		switch {
		case f.Rule == RuleObject:
			problems = checkFields(path+"."+f.Name, f.Fields, value, problems)
		case !f.Required && value.IsZero():
		case !f.accepts(value):
			problems = append(problems, fmt.Errorf("%s.%s: want %s", path, f.Name, f.want()))
		}
	}
	return problems
}

func (f *Field) accepts(v reflect.Value) bool {
	switch f.Rule {
	case RuleVersion:
		return v.Int() >= 1
	case RuleCount:
		return v.Int() >= 0
	case RuleBool:
		return true
	case RuleTime:
		return validTime(v.Interface().(time.Time))
	case RulePaths:
		return validLines(v, maxPaths, maxPath)
	case RuleLabels:
		return validLines(v, maxLabels, maxLabel)
	default:
		return f.acceptsString(v.String())
	}
}

func (f *Field) acceptsString(s string) bool {
	switch f.Rule {
	case RuleID:
		return ValidID(s)
	case RuleEmail:
		return isMasked(s)
	case RuleEnum:
		return slices.Contains(f.Values, s)
	case RuleWord:
		return isToken(s, "_-")
	case RuleMonth:
		return monthPattern.MatchString(s)
	case RuleDigest:
		return digestPattern.MatchString(s)
	case RuleLabel:
		return validLine(s, maxLabel)
	case RuleText:
		return validLine(s, maxText)
	default:
		return false
	}
}

func validLines(v reflect.Value, most, longest int) bool {
	for i := range v.Len() {
		if !validLine(v.Index(i).String(), longest) {
			return false
		}
	}
	return 0 < v.Len() && v.Len() <= most
}

func validLine(s string, longest int) bool {
	return s != "" && utf8.RuneCountInString(s) <= longest && isText(s)
}

// want says in words what the rule accepts.
func (f *Field) want() string {
	switch f.Rule {
	case RuleID:
		return "a UUID"
	case RuleVersion:
		return "an integer from 1"
	case RuleCount:
		return "an integer from 0"
	case RuleBool:
		return "true or false"
	case RuleEmail:
		return "a masked email address, such as a***@example.com"
	case RuleEnum:
		return "one of " + strings.Join(f.Values, ", ")
	case RuleWord:
		return "a word of a-z, 0-9, _ and -"
	case RuleMonth:
		return "a month, YYYY-MM"
	case RuleDigest:
		return "64 lower-case hex digits"
	case RuleTime:
		return "an RFC 3339 time in UTC with at most microseconds"
	case RuleLabel:
		return "a line of 1 to 200 characters"
	case RuleText:
		return "a line of 1 to 1000 characters"
	case RulePaths, RuleLabels:
		return "1 to 100 lines of 1 to 200 characters"
	case RuleObject:
		return "an object"
	default:
		return "nothing known"
	}
}

// canonical is the payload as the wire holds it and [Decode] gives it back: its times cut, its empty lists nil.
func (t *Type) canonical(data Payload) Payload {
	given := reflect.ValueOf(data)
	var canon reflect.Value // a copy, made once it has to differ
	for i := range t.Fields {
		f := &t.Fields[i]
		value := given.Field(f.index)
		switch f.Rule {
		case RuleTime:
			at := value.Interface().(time.Time)
			if at.IsZero() || validTime(at) {
				continue
			}
			value = reflect.ValueOf(canonicalTime(at))
		case RulePaths, RuleLabels:
			if value.IsNil() || value.Len() > 0 {
				continue
			}
			value = reflect.Zero(value.Type())
		default:
			continue
		}
		if !canon.IsValid() {
			canon = reflect.New(t.payload).Elem()
			canon.Set(given)
		}
		canon.Field(f.index).Set(value)
	}
	if !canon.IsValid() {
		return data
	}
	return canon.Interface().(Payload)
}
