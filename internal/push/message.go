package push

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

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
	frame  []byte // a whole WebSocket frame, which ends with body
}

// frameHead is the room that the head of a frame takes at most; a message is made behind it.
const frameHead = 10

// newMessage makes a message of frameHead bytes and the JSON behind them.
func newMessage(kind string, buf []byte) *message {
	const final, text = 0x80, 1
	body := buf[frameHead:]
	head := frameHead
	switch n := len(body); {
	case n < 126:
		head -= 2
		buf[head+1] = byte(n)
	case n <= math.MaxUint16:
		head -= 4
		buf[head+1] = 126
		binary.BigEndian.PutUint16(buf[head+2:], uint16(n))
	default:
		head -= 10
		buf[head+1] = 127
		binary.BigEndian.PutUint64(buf[head+2:], uint64(n))
	}
	buf[head] = final | text
	return &message{kind: kind, body: body, frame: buf[head:]}
}

func ready(at Cursor) *message {
	cursor := at.String()
	m := newMessage(kindReady, fmt.Appendf(make([]byte, frameHead, 96), `{"type":"ready","cursor":"%s"}`, cursor))
	m.cursor = cursor
	return m
}

func resync(at Cursor, reason string) *message {
	cursor := at.String()
	m := newMessage(kindResync, fmt.Appendf(make([]byte, frameHead, 96), `{"type":"resync","cursor":"%s","reason":"%s"}`, cursor, reason))
	m.cursor = cursor
	return m
}

// eventMessage makes the message of an event from its bytes as they are in the stream, so that attributes of a newer
// producer arrive too.
func eventMessage(at Cursor, ev events.Event, raw []byte) (*message, error) {
	cursor := at.String()
	body := fmt.Appendf(make([]byte, frameHead, len(raw)+96), `{"type":"event","cursor":"%s","event":`, cursor)
	body, err := appendEvent(body, ev, raw)
	if err != nil {
		return nil, err
	}
	m := newMessage(kindEvent, body)
	m.cursor, m.seq = cursor, at.Sequence
	return m, nil
}

func progressMessage(ev events.Event, raw []byte) (*message, error) {
	body := append(make([]byte, frameHead, len(raw)+64), `{"type":"progress","event":`...)
	body, err := appendEvent(body, ev, raw)
	if err != nil {
		return nil, err
	}
	m := newMessage(kindProgress, body)
	m.topic = ev.Type + "/" + ev.Subject
	return m, nil
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

// withoutOrigin takes the client address and user agent of the actor out of an event that goes to other users: the members of
// a workspace, or the invitee.
func withoutOrigin(ev events.Event, raw []byte) ([]byte, error) {
	scope := scopeOf(ev)
	own := scope == events.ScopeUser && ev.ActorID == ev.UserID
	if (ev.IP == "" && ev.UserAgent == "" && ev.CallerRequestID == "") || own || scope == events.ScopeSystem {
		return raw, nil
	}
	var attributes map[string]json.RawMessage
	if err := json.Unmarshal(raw, &attributes); err != nil {
		return nil, fmt.Errorf("encode event %s: %w", ev.ID, err)
	}
	delete(attributes, "ip")
	delete(attributes, "useragent")
	delete(attributes, "callerrequestid")
	b, err := json.Marshal(attributes)
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", ev.ID, err)
	}
	return b, nil
}
