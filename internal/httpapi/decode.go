package httpapi

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fdc/internal/platform/fault"
)

// Media types of bodies.
const (
	jsonMedia       = "application/json"
	mergePatchMedia = "application/merge-patch+json"
)

// Limits of bodies, in bytes.
const (
	smallBody    = 64 << 10
	documentBody = 1<<20 + 4<<10 // a document of 1 MiB and what it is wrapped in
)

// maxErrors bounds the list of what is wrong with one body.
const maxErrors = 20

// readBody returns a request's body, checked to be of the media type and I-JSON within the limit.
func readBody(w http.ResponseWriter, r *http.Request, media string, limit int64) ([]byte, error) {
	if err := checkMedia(r.Header, media); err != nil {
		return nil, err
	}
	tooLarge := fault.New(fault.TooLarge, "too-large", "The body is larger than %d bytes.", limit)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, tooLarge
		}
		return nil, fault.Wrap(err, fault.Malformed, "malformed", "The body could not be read to its end.")
	}
	return body, checkJSON(body)
}

func checkMedia(h http.Header, want string) error {
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fault.New(fault.UnsupportedMedia, "", "Send the body without a Content-Encoding.")
	}
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != want {
		return fault.New(fault.UnsupportedMedia, "", "Send the body with Content-Type: %s.", want)
	}
	if charset, given := params["charset"]; given && !strings.EqualFold(charset, "utf-8") {
		return fault.New(fault.UnsupportedMedia, "", "Send the body in UTF-8.")
	}
	return nil
}

// decodeJSON stores body, which checkJSON has passed, in the struct that dst points to. It is stricter than
// encoding/json: names match exactly, unknown ones are refused, fields without omitempty are required, only pointers take
// null, and the tags' rules hold. All that is wrong is reported at once.
func decodeJSON(body []byte, dst any) error {
	d := decoder{}
	d.value("", body, reflect.ValueOf(dst).Elem(), fieldRules{})
	return fault.Wrong(d.wrong...)
}

type decoder struct {
	wrong []fault.Field
}

func (d *decoder) refuse(at, format string, args ...any) {
	if len(d.wrong) < maxErrors {
		d.wrong = append(d.wrong, fault.Field{Pointer: at, Detail: fmt.Sprintf(format, args...)})
	}
}

func (d *decoder) value(at string, text json.RawMessage, dst reflect.Value, rules fieldRules) {
	if dst.Type() == rawType {
		if text[0] != '{' {
			d.refuse(at, "Want an object.")
			return
		}
		dst.SetBytes(slices.Clone(text))
		return
	}
	if dst.Type() == timeType {
		d.time(at, text, dst)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		if string(text) == "null" {
			return
		}
		dst.Set(reflect.New(dst.Type().Elem()))
		d.value(at, text, dst.Elem(), rules)
	case reflect.Struct:
		d.object(at, text, dst)
	case reflect.Slice:
		d.array(at, text, dst, rules)
	case reflect.String:
		d.string(at, text, dst, rules)
	case reflect.Bool:
		if err := unmarshal(text, dst); err != nil {
			d.refuse(at, "Want true or false.")
		}
	case reflect.Int, reflect.Int64:
		if err := unmarshal(text, dst); err != nil {
			d.refuse(at, "Want an integer.")
		} else if n := dst.Int(); !rules.holds(n) {
			d.refuse(at, "Want an integer: %s.", rules.span())
		}
	default:
		panic("httpapi: a body can't have a field of type " + dst.Type().String())
	}
}

// unmarshal is json.Unmarshal that does not take null for a zero.
func unmarshal(text json.RawMessage, dst reflect.Value) error {
	if string(text) == "null" {
		return errors.New("null")
	}
	return json.Unmarshal(text, dst.Addr().Interface())
}

func (d *decoder) object(at string, text json.RawMessage, dst reflect.Value) {
	var members map[string]json.RawMessage
	if err := unmarshal(text, reflect.ValueOf(&members).Elem()); err != nil {
		d.refuse(at, "Want an object.")
		return
	}
	for i := range dst.NumField() {
		f := dst.Type().Field(i)
		name, optional := jsonName(f)
		member, given := members[name]
		delete(members, name)
		switch {
		case given:
			d.value(pointer(at, name), member, dst.Field(i), rulesOf(f))
		case !optional:
			d.refuse(pointer(at, name), "This is required.")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		d.refuse(pointer(at, name), "There is no such field here.")
	}
}

func (d *decoder) array(at string, text json.RawMessage, dst reflect.Value, rules fieldRules) {
	var items []json.RawMessage
	if err := unmarshal(text, reflect.ValueOf(&items).Elem()); err != nil {
		d.refuse(at, "Want an array.")
		return
	}
	if !rules.holds(int64(len(items))) {
		d.refuse(at, "Want %s items.", rules.span())
		return
	}
	dst.Set(reflect.MakeSlice(dst.Type(), len(items), len(items)))
	for i, item := range items {
		d.value(pointer(at, strconv.Itoa(i)), item, dst.Index(i), fieldRules{})
	}
}

func (d *decoder) time(at string, text json.RawMessage, dst reflect.Value) {
	var s string
	err := json.Unmarshal(text, &s)
	t, parseErr := time.Parse(time.RFC3339, s)
	if err != nil || parseErr != nil {
		d.refuse(at, "Want an RFC 3339 time, such as 2026-03-01T09:00:00Z.")
		return
	}
	dst.Set(reflect.ValueOf(t))
}

func (d *decoder) string(at string, text json.RawMessage, dst reflect.Value, rules fieldRules) {
	if err := unmarshal(text, dst); err != nil {
		d.refuse(at, "Want a string.")
		return
	}
	switch s := dst.String(); {
	case rules.enum != nil && !slices.Contains(rules.enum, s):
		d.refuse(at, "Want one of %s.", strings.Join(rules.enum, ", "))
	case !rules.holds(int64(utf8.RuneCountInString(s))):
		d.refuse(at, "Want %s characters.", rules.span())
	}
}

// fieldRules are what a DTO field's tags say of its values.
type fieldRules struct {
	doc, format string
	enum        []string
	min, max    *int64
}

// rulesOf reads the tags. A tag that can't be read is a mistake in a DTO: the program does not start.
func rulesOf(f reflect.StructField) fieldRules {
	bound := func(tag string) *int64 {
		text, ok := f.Tag.Lookup(tag)
		if !ok {
			return nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			panic(fmt.Sprintf("httpapi: field %s: tag %s: %v", f.Name, tag, err))
		}
		return &n
	}
	r := fieldRules{doc: f.Tag.Get("doc"), format: f.Tag.Get("format"), min: bound("min"), max: bound("max")}
	if enum := f.Tag.Get("enum"); enum != "" {
		r.enum = strings.Split(enum, "|")
	}
	return r
}

func (r fieldRules) holds(n int64) bool {
	return (r.min == nil || n >= *r.min) && (r.max == nil || n <= *r.max)
}

func (r fieldRules) span() string {
	switch {
	case r.min != nil && r.max != nil:
		return fmt.Sprintf("%d to %d", *r.min, *r.max)
	case r.min != nil:
		return fmt.Sprintf("at least %d", *r.min)
	case r.max != nil:
		return fmt.Sprintf("at most %d", *r.max)
	default:
		return "any number of"
	}
}

// jsonName is a field's name on the wire, and whether it may be left out.
func jsonName(f reflect.StructField) (name string, optional bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return cmp.Or(name, f.Name), options != ""
}

var rawType = reflect.TypeFor[json.RawMessage]()
