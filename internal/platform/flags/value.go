package flags

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fdc/events"
)

// The flags.
const (
	SessionCache   = "session_cache"
	WorkspaceCache = "workspace_cache"
	AICache        = "ai_cache"
	SyncAsync      = "sync_async"
)

// names is the order in which flags are listed and kept.
var names = [...]string{SessionCache, WorkspaceCache, AICache, SyncAsync}

// Names lists the flags.
func Names() []string { return slices.Clone(names[:]) }

// Known reports whether name is a flag.
func Known(name string) bool { return slices.Contains(names[:], name) }

const (
	// MaxReason bounds a reason, in bytes.
	MaxReason = 500
	maxValue  = 8 << 10
)

// Value is what a flag was set to.
type Value struct {
	Value     string    `json:"value"` // events.FlagOn or events.FlagOff
	Reason    string    `json:"reason"`
	Actor     string    `json:"actor"`
	SetAt     time.Time `json:"setAt"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"` // zero: until somebody changes it
}

// On reports whether the value turns the flag on at that moment: an expired one is the default.
func (v Value) On(now time.Time) bool { return v.Value == events.FlagOn || v.Expired(now) }

// Expired reports whether the value's time is over.
func (v Value) Expired(now time.Time) bool { return !v.ExpiresAt.IsZero() && !now.Before(v.ExpiresAt) }

// Encode writes the value as the bucket holds it.
func (v Value) Encode() ([]byte, error) {
	if err := v.validate(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode flag: %w", err)
	}
	return body, nil
}

// Decode reads what Encode wrote. Members that it does not know it passes over: a newer program may have written them.
func Decode(body []byte) (Value, error) {
	if len(body) > maxValue {
		return Value{}, errors.New("decode flag: too long")
	}
	var v Value
	if err := json.Unmarshal(body, &v); err != nil {
		return Value{}, fmt.Errorf("decode flag: %w", err)
	}
	v.SetAt, v.ExpiresAt = v.SetAt.UTC(), v.ExpiresAt.UTC()
	if err := v.validate(); err != nil {
		return Value{}, fmt.Errorf("decode flag: %w", err)
	}
	return v, nil
}

func (v Value) validate() error {
	switch {
	case v.Value != events.FlagOn && v.Value != events.FlagOff:
		return errors.New("a flag is on or off")
	case v.Reason == "" || strings.TrimSpace(v.Reason) != v.Reason || len(v.Reason) > MaxReason ||
		!utf8.ValidString(v.Reason) || strings.ContainsFunc(v.Reason, unicode.IsControl):
		return fmt.Errorf("a flag wants a reason: one line of up to %d bytes", MaxReason)
	case v.Actor == "":
		return errors.New("a flag wants an actor")
	case !sane(v.SetAt) || !v.ExpiresAt.IsZero() && !sane(v.ExpiresAt):
		return errors.New("a time is out of range")
	}
	return nil
}

// sane keeps out what JSON and PostgreSQL can't hold.
func sane(t time.Time) bool { return 1970 <= t.UTC().Year() && t.UTC().Year() <= 9999 }
