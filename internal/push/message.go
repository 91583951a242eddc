package push

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/gorilla/websocket"

	"fdc/events"
)

// Types of a message to a client.
const (
	kindReady    = "ready"
	kindEvent    = "event"
	kindProgress = "progress"
	kindResync   = "resync"
)

// Reasons of a resync.
const (
	reasonExpired = "expired" // the stream no longer holds what came after the cursor
	reasonReset   = "reset"   // the cursor is of another stream, or of a future that the stream lost
)

// message is what one or many clients are told. It does not change once it is made.
type message struct {
	kind   string
	cursor string // empty for progress
	seq    uint64 // an event's, in EVENTS; 0 for everything else
	topic  string // a queued message of the same topic is replaced: progress
	body   []byte // JSON

	shared bool // by many sockets: its frame is made once
	once   sync.Once
	frame  *websocket.PreparedMessage
	err    error
}

// prepared is the message as a WebSocket frame.
func (m *message) prepared() (*websocket.PreparedMessage, error) {
	m.once.Do(func() { m.frame, m.err = websocket.NewPreparedMessage(websocket.TextMessage, m.body) })
	return m.frame, m.err
}

func ready(at Cursor) *message {
	cursor := at.String()
	return &message{kind: kindReady, cursor: cursor, body: fmt.Appendf(nil, `{"type":"ready","cursor":"%s"}`, cursor)}
}

func resync(at Cursor, reason string) *message {
	cursor := at.String()
	return &message{
		kind: kindResync, cursor: cursor,
		body: fmt.Appendf(nil, `{"type":"resync","cursor":"%s","reason":"%s"}`, cursor, reason),
	}
}

// eventMessage makes the message of an event from its bytes as they are in the stream, so that attributes of a newer
// producer arrive too.
func eventMessage(at Cursor, ev events.Event, raw []byte) (*message, error) {
	cursor := at.String()
	body := fmt.Appendf(make([]byte, 0, len(raw)+96), `{"type":"event","cursor":"%s","event":`, cursor)
	body, err := appendEvent(body, ev, raw)
	if err != nil {
		return nil, err
	}
	return &message{kind: kindEvent, cursor: cursor, seq: at.Sequence, body: body}, nil
}

func progressMessage(ev events.Event, raw []byte) (*message, error) {
	body, err := appendEvent([]byte(`{"type":"progress","event":`), ev, raw)
	if err != nil {
		return nil, err
	}
	return &message{kind: kindProgress, topic: ev.Type + "/" + ev.Subject, body: body}, nil
}

// appendEvent adds the event and the bracket that closes the message.
func appendEvent(body []byte, ev events.Event, raw []byte) ([]byte, error) {
	raw, err := withoutOrigin(ev, raw)
	if err != nil {
		return nil, err
	}
	// Compact: a line break would end an SSE field.
	buf := bytes.NewBuffer(body)
	if err := json.Compact(buf, raw); err != nil {
		return nil, fmt.Errorf("encode event %s: %w", ev.ID, err)
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

// withoutOrigin takes the client address and user agent out of an event that goes to all members of a workspace.
func withoutOrigin(ev events.Event, raw []byte) ([]byte, error) {
	if (ev.IP == "" && ev.UserAgent == "") || scopeOf(ev) != events.ScopeWorkspace {
		return raw, nil
	}
	var attributes map[string]json.RawMessage
	if err := json.Unmarshal(raw, &attributes); err != nil {
		return nil, fmt.Errorf("encode event %s: %w", ev.ID, err)
	}
	delete(attributes, "ip")
	delete(attributes, "useragent")
	b, err := json.Marshal(attributes)
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", ev.ID, err)
	}
	return b, nil
}
