// Package events is the wire contract of FDC: every fact that one service tells another, its payload, its envelope, its
// subject on the bus and its codec. It imports the standard library only, so that anything can import it.
//
// A fact is an [Event]: a CloudEvents 1.0 envelope around one payload struct. The payload's Go type decides everything
// else: the event type, the scope, the ordering key and the version, as the catalogue (catalogue.go, [Types]) says.
//
//	ev := events.New(meta, taskID, events.TaskCreated{TaskID: taskID, WorkspaceID: workspaceID, Version: 1})
//	body, err := events.Encode(ev)      // structured-mode JSON, application/cloudevents+json
//	subject := ev.NATSSubject()         // evt.task.created.v1.<workspace id>
//
// # Guarantees
//
//   - What [Encode] accepts, [Decode] accepts and gives back equal; encoding that again gives the same bytes.
//   - [Decode] is strict about what it knows (grammar, UTF-8, repeated keys, types, required fields, ids, times, the
//     agreement of type, schema, subject and scope with the payload) and blind to what it does not know: extension
//     attributes and payload fields added later are skipped, so an older consumer reads a newer producer. Encoding what was
//     decoded therefore drops them: whoever forwards an event forwards its bytes.
//   - A payload holds ids, versions, changed paths and counts, never content, and email addresses only as [MaskEmail]
//     leaves them: Encode refuses a clear one.
//   - Both are functions of their argument alone. An error of either is permanent: retrying cannot help.
//
// # Change
//
// Within v1 a payload may gain optional fields and a word list may gain words; nothing may be removed, renamed, retyped
// or made required, and a closed list (enum) stays closed. Anything else is a new type ending in .v2, published beside
// the old one. The golden files in testdata and the generated README.md, asyncapi.json and schemas show every change.
package events

//go:generate go run ./internal/gen
