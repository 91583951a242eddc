package workspace

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"fdc/internal/platform/fault"
)

// MaxDocument is the largest document, in bytes without insignificant white space.
const MaxDocument = 1 << 20

// Document is a workspace's document at one version.
type Document struct {
	WorkspaceID  string
	Data         json.RawMessage // an object
	Stored       json.RawMessage // the same, byte for byte as every read of this version gives it
	Version      int64           // how many times it was written
	LastModified time.Time
}

// Expect is what a writer believes the current version to be; nil for whatever it is.
type Expect struct {
	Version *int64  // from the body: fault.Conflict when it is another
	IfMatch []int64 // from the header: fault.PreconditionFailed when it is none of them
}

// check compares the expectation with the version that is locked.
func (e Expect) check(current int64) error {
	switch {
	case e.IfMatch != nil && !slices.Contains(e.IfMatch, current):
		return stale(fault.PreconditionFailed, "precondition-failed", current)
	case e.Version != nil && *e.Version != current:
		return stale(fault.Conflict, "stale-version", current)
	default:
		return nil
	}
}

func stale(kind fault.Kind, code string, current int64) error {
	err := fault.New(kind, code, "The document is at version %d, not at the one expected.", current)
	err.Extra = map[string]any{"currentVersion": current}
	return err
}

func tooLarge(size int) error {
	return fault.New(fault.TooLarge, "too-large", "The document would have %d bytes; %d are the most.", size, MaxDocument)
}

// pointer is the JSON pointer (RFC 6901) of a top-level member.
func pointer(name string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// parseObject reads what has to be an object; base is the pointer of data in the body that it came in.
func parseObject(data []byte, base string) (value, error) {
	v, err := parse(data, base)
	if err != nil {
		return value{}, err
	}
	if !v.object {
		return value{}, fault.Wrong(fault.Field{Pointer: base, Detail: "Want an object."})
	}
	return v, nil
}

// encode writes v compactly. Numbers with exponents are counted at the length that Postgres gives them.
func encode(v value, expansion int) (json.RawMessage, error) {
	data := v.append(nil)
	if size := len(data) + expansion; size > MaxDocument {
		return nil, tooLarge(size)
	}
	return data, nil
}
