package httpapi

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"

	"fdc/internal/platform/fault"
)

// param is a query parameter: what the document says of it and how its text is read.
type param struct {
	name     string
	doc      string
	required bool
	fallback string // read when the parameter is not given
	schema   *jsonschema.Schema
	parse    func(string) (any, error) // the error's text follows "must be "
}

const (
	defaultLimit = 50
	maxLimit     = 200
	maxCursor    = 1024
)

// paging are the parameters of every list.
func paging() []param {
	return []param{
		{
			name: "limit", doc: "How many items to return at most.", fallback: strconv.Itoa(defaultLimit),
			schema: &jsonschema.Schema{
				Type: "integer", Minimum: new(1.0), Maximum: new(float64(maxLimit)),
				Default: []byte(strconv.Itoa(defaultLimit)),
			},
			parse: func(s string) (any, error) {
				n, err := strconv.Atoi(s)
				if err != nil || n < 1 || n > maxLimit || s[0] == '+' {
					return nil, wants("an integer from 1 to " + strconv.Itoa(maxLimit))
				}
				return n, nil
			},
		},
		{
			name: "cursor", doc: "The nextCursor of the page before; without it, the first page.",
			schema: &jsonschema.Schema{Type: "string", MaxLength: new(maxCursor)},
			parse:  textUpTo(maxCursor),
		},
	}
}

// wants is the error of a parse function.
type wants string

func (w wants) Error() string { return string(w) }

// textUpTo reads 1 to longest characters without control characters.
func textUpTo(longest int) func(string) (any, error) {
	return func(s string) (any, error) {
		if s == "" || utf8.RuneCountInString(s) > longest || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			return nil, wants("text of 1 to " + strconv.Itoa(longest) + " characters")
		}
		return s, nil
	}
}

func parseBool(s string) (any, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return nil, wants("true or false")
	}
}

// parseMoment reads an RFC 3339 time or, as midnight UTC, a date.
func parseMoment(s string) (any, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil && t.Year() >= 1 {
			return t.UTC(), nil
		}
	}
	return nil, wants("an RFC 3339 time or a date, YYYY-MM-DD")
}

// parseQuery reads the declared parameters. Others are ignored, as on the web at large; a declared one that is repeated
// or wrong is refused.
func parseQuery(raw string, params []param) (map[string]any, error) {
	if len(params) == 0 {
		return nil, nil //nolint:nilnil // reading from a nil map is fine
	}
	given, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fault.Wrap(err, fault.Malformed, "bad-query", "The query string can't be read.")
	}
	values := make(map[string]any, len(params))
	for _, p := range params {
		texts := given[p.name]
		switch {
		case len(texts) > 1:
			return nil, badParam(p.name, "given once")
		case len(texts) == 1:
		case p.required:
			return nil, badParam(p.name, "given")
		case p.fallback != "":
			texts = []string{p.fallback}
		default:
			continue
		}
		value, err := p.parse(texts[0])
		if err != nil {
			return nil, badParam(p.name, err.Error())
		}
		values[p.name] = value
	}
	return values, nil
}

func badParam(name, want string) error {
	return fault.New(fault.Malformed, "bad-query", "The query parameter %q must be %s.", name, want)
}

// Page is one page of a list.
type Page[T any] struct {
	Items      []T     `json:"items"      doc:"In a stable order."`
	NextCursor *string `json:"nextCursor" doc:"Asks for the next page; null on the last one."`
}

// page makes a page of what a feature paged.
func page[T any](items []T, next string) Page[T] {
	p := Page[T]{Items: items}
	if items == nil {
		p.Items = []T{}
	}
	if next != "" {
		p.NextCursor = &next
	}
	return p
}

// paginate cuts a page out of a whole list, for features whose lists are short. It sorts the list by key in the direction
// of compare; the cursor is the last key served, so that items that come and go between pages shift nothing.
func paginate[T any](c *call, items []T, key func(T) string, compare func(a, b string) int) (Page[T], error) {
	slices.SortFunc(items, func(a, b T) int { return compare(key(a), key(b)) })
	last, err := c.lastKey()
	if err != nil {
		return Page[T]{}, err
	}
	if last != "" {
		from := slices.IndexFunc(items, func(item T) bool { return compare(key(item), last) > 0 })
		if from < 0 {
			from = len(items)
		}
		items = items[from:]
	}
	return firstOf(c, items, key), nil
}

// paginateInOrder is paginate for lists whose order is somebody else's. A cursor whose item has gone is refused: nothing
// says any more where the page would begin.
func paginateInOrder[T any](c *call, items []T, key func(T) string) (Page[T], error) {
	last, err := c.lastKey()
	if err != nil {
		return Page[T]{}, err
	}
	if last != "" {
		at := slices.IndexFunc(items, func(item T) bool { return key(item) == last })
		if at < 0 {
			return Page[T]{}, badParam("cursor", "one of the list as it is now; start again without it")
		}
		items = items[at+1:]
	}
	return firstOf(c, items, key), nil
}

// firstOf is the page that starts a list.
func firstOf[T any](c *call, items []T, key func(T) string) Page[T] {
	limit, _ := value[int](c, "limit")
	if len(items) <= limit {
		return page(items, "")
	}
	return page(items[:limit], encodeCursor(c.route.id, key(items[limit-1])))
}

// lastKey is the last key that the client was served, empty on the first page.
func (c *call) lastKey() (string, error) {
	cursor, ok := value[string](c, "cursor")
	if !ok {
		return "", nil
	}
	return decodeCursor(c.route.id, cursor)
}

// A cursor is the list's name and the last key served. It is opaque to clients and grants nothing: every page is
// authorized by the session.
func encodeCursor(list, key string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(list + "\x00" + key))
}

func decodeCursor(list, cursor string) (key string, err error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	name, key, ok := strings.Cut(string(text), "\x00")
	if err != nil || !ok || name != list || key == "" || !utf8.ValidString(key) {
		return "", badParam("cursor", "one that this list gave")
	}
	return key, nil
}
