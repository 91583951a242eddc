// Package fault says what kind of failure an error is, at the place where its meaning is known. Transports map the
// kind to their own vocabulary (httpapi: the status of a problem document); everything without a kind is internal and
// its text is never shown to a user.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the stable class of a failure.
type Kind int

// The kinds, in no order. Internal is the zero value: an error nobody classified.
const (
	Internal           Kind = iota
	Malformed               // the request can't be understood: bad JSON, bad cursor
	Unauthenticated         // no valid session
	Forbidden               // a known object without the right
	NotFound                // unknown, or another tenant's
	Conflict                // the state forbids it, e.g. a stale version
	PreconditionFailed      // If-Match doesn't hold
	TooLarge                // over a size limit
	UnsupportedMedia        // wrong Content-Type
	Invalid                 // understood and wrong: types, ranges, references
	RateLimited             // try later, see RetryAfter
	Unavailable             // a dependency is down, see RetryAfter
)

// Field is one thing wrong with a body: an RFC 6901 pointer and what to do about it.
type Field struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// Error is a failure with a kind. Detail is a sentence for people and safe to show; Code is stable and for programs.
type Error struct {
	Kind       Kind
	Code       string         // kebab-case, e.g. "google-not-connected"; empty: the kind's own
	Detail     string         // shown to users
	Fields     []Field        // validation only
	Extra      map[string]any // further members of the problem document, e.g. currentVersion
	RetryAfter time.Duration
	Err        error // the cause; logged, never shown
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Detail + ": " + e.Err.Error()
	}
	return e.Detail
}

func (e *Error) Unwrap() error { return e.Err }

// New returns an error of a kind whose detail is safe to show.
func New(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Wrap gives err a kind and a detail that is safe to show. Wrap of nil is nil.
func Wrap(err error, kind Kind, code, detail string) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Code: code, Detail: detail, Err: err}
}

// Missing is the answer for an object that does not exist or belongs to another tenant: the two look the same.
func Missing(what string) *Error {
	return New(NotFound, "not-found", "There is no such %s.", what)
}

// Wrong reports the fields of a body that are wrong; nil when there are none.
func Wrong(fields ...Field) error {
	if len(fields) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Code: "invalid", Detail: "Some values are wrong; see errors.", Fields: fields}
}

// KindOf returns the kind of the outermost Error in err's chain, Internal when there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
