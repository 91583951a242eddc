package seal

// Secret is a value that must not reach a log, an error or a page: every way of formatting it prints a placeholder. Reveal is the one
// way to the text.
type Secret string

const redacted = "[redacted]"

// String returns a placeholder.
func (Secret) String() string { return redacted }

// GoString returns a placeholder.
func (Secret) GoString() string { return redacted }

// MarshalText returns a placeholder, so that JSON and zerolog print one.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Reveal returns the text.
func (s Secret) Reveal() string { return string(s) }
