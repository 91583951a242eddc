package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"fdc/events"
)

// maxLine is above the largest line that LineWriter makes.
const maxLine = 2 << 20

// Line is an event of a file that LineWriter has written.
type Line struct {
	Number   int    // in the file, from 1 on
	Sequence uint64 // it had in EVENTS; 0 when the file doesn't say
	Subject  string
	Time     time.Time
	Event    events.Event
	Body     []byte // the event's bytes; valid until the next line is read
}

// LineError says what is wrong with which line of a file.
type LineError struct {
	Number int
	Err    error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Number, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// ReadLines calls each for every line of a file that LineWriter has written. A line that is none is a *LineError; an error of each
// ends it.
func ReadLines(r io.Reader, each func(Line) error) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, 64<<10), maxLine)
	n := 0
	for scanner.Scan() {
		n++
		line, err := parseLine(scanner.Bytes())
		if err != nil {
			return &LineError{n, err}
		}
		line.Number = n
		if err := each(line); err != nil {
			return err
		}
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		return &LineError{n + 1, fmt.Errorf("longer than %d bytes", maxLine)}
	} else if err != nil {
		return fmt.Errorf("read after line %d: %w", n, err)
	}
	return nil
}

// exported is a line's form.
type exported struct {
	Sequence uint64          `json:"sequence"`
	Subject  string          `json:"subject"`
	Time     time.Time       `json:"time"`
	Event    json.RawMessage `json:"event"`
	Body     string          `json:"body,omitempty"` // of what is no event
}

// parseLine reads one line, whose event must be one that the catalogue has, on the subject that is its own.
func parseLine(b []byte) (Line, error) {
	var e exported
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&e); err != nil {
		if errors.Is(err, io.EOF) {
			return Line{}, errors.New("empty")
		}
		return Line{}, fmt.Errorf("want a line of fdc events export: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Line{}, errors.New("want one JSON object a line")
	}
	switch {
	case len(e.Event) == 0:
		return Line{}, errors.New("event: missing")
	case e.Body != "" || bytes.Equal(e.Event, []byte("null")):
		return Line{}, errors.New("event: it could not be read when it was exported; take the line out")
	}
	ev, err := events.Decode(e.Event)
	if err != nil {
		return Line{}, fmt.Errorf("event: %w", err)
	}
	if want := ev.NATSSubject(); e.Subject != want {
		return Line{}, fmt.Errorf("subject: want %s, the event's own, got %.128q", want, e.Subject)
	}
	if t, _ := events.TypeOf(ev.Data); !t.Stored {
		return Line{}, fmt.Errorf("event: %s is told once and not stored", t.Action())
	}
	return Line{Sequence: e.Sequence, Subject: e.Subject, Time: e.Time, Event: ev, Body: e.Event}, nil
}

// Truncate cuts a file that LineWriter was writing behind its last whole line, moves to its end and returns that line's sequence; 0 for a
// file without one.
func Truncate(f *os.File) (uint64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	// The last line and the one that may be cut off behind it are in the last bytes.
	from := max(info.Size()-2*maxLine, 0)
	tail := make([]byte, info.Size()-from)
	if _, err := f.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	var last struct {
		Sequence uint64 `json:"sequence"`
	}
	if end > 0 {
		line := tail[bytes.LastIndexByte(tail[:end-1], '\n')+1 : end]
		if err := json.Unmarshal(line, &last); err != nil || last.Sequence == 0 {
			return 0, errors.New("its last line is none of fdc events export")
		}
	} else if from > 0 {
		return 0, errors.New("it is no file of fdc events export")
	}
	if err := f.Truncate(from + int64(end)); err != nil {
		return 0, err
	}
	_, err = f.Seek(0, io.SeekEnd)
	return last.Sequence, err
}
