package replay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
)

// lineBuffer is how much of an export waits to be written. Large writes cost less each.
const lineBuffer = 256 << 10

// LineWriter writes events as NDJSON: {"sequence":N,"subject":S,"time":T,"event":{…}}. An event whose body is no JSON has
// null for it, and the body as base64 behind.
type LineWriter struct {
	w    io.Writer
	line []byte

	Lines       int64
	First, Last uint64 // sequences
}

// NewLineWriter returns a writer that gathers lines; Flush writes what is left.
func NewLineWriter(w io.Writer) *LineWriter { return &LineWriter{w: w} }

// Write adds an event.
func (l *LineWriter) Write(s Stored) error {
	l.line = appendLine(l.line, s)
	l.Lines++
	if l.First == 0 {
		l.First = s.Sequence
	}
	l.Last = s.Sequence
	if len(l.line) < lineBuffer {
		return nil
	}
	return l.Flush()
}

// Flush writes all complete lines.
func (l *LineWriter) Flush() error {
	if len(l.line) == 0 {
		return nil
	}
	_, err := l.w.Write(l.line)
	l.line = l.line[:0]
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	return nil
}

// appendLine puts the event's bytes through as they are: to decode and encode them would cost time and could change them.
func appendLine(b []byte, s Stored) []byte {
	b = append(b, `{"sequence":`...)
	b = strconv.AppendUint(b, s.Sequence, 10)
	b = append(b, `,"subject":`...)
	b = appendText(b, s.Subject)
	b = append(b, `,"time":"`...)
	b = s.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","event":`...)
	if isPlain(s.Body) {
		b = append(b, s.Body...)
	} else {
		b = appendBody(b, s.Body)
	}
	return append(b, '}', '\n')
}

// appendBody takes any body: JSON on one line as it is, JSON on several without white space, and null with base64 behind for what is no JSON.
func appendBody(b, body []byte) []byte {
	switch {
	case !json.Valid(body):
		b = append(b, `null,"body":"`...)
		b = base64.StdEncoding.AppendEncode(b, body)
		return append(b, '"')
	case bytes.IndexByte(body, '\n') >= 0:
		var compact bytes.Buffer
		_ = json.Compact(&compact, body) // it is valid
		return append(b, compact.Bytes()...)
	default:
		return append(b, body...)
	}
}

// appendText quotes a subject, which may hold anything but spaces.
func appendText(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(text) // a string always has a form
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}
