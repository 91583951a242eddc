package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

var update = flag.Bool("update", false, "add the golden files that are missing; those that are there are never changed")

// TestGolden holds the wire to what was once published: a golden file that no longer fits is a breaking change.
func TestGolden(t *testing.T) {
	t.Parallel()
	golden := make(map[string]bool)
	testdata, err := os.OpenRoot("testdata")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, testdata.Close()) })
	for _, ev := range examples {
		file := ev.Type + ".json"
		golden[file] = true
		t.Run(ev.Type, func(t *testing.T) {
			t.Parallel()
			encoded, err := events.Encode(ev)
			require.NoError(t, err)
			if *update {
				addFile(t, testdata, file, append(bytes.Clone(encoded), '\n'))
			}
			want, err := testdata.ReadFile(file)
			require.NoError(t, err, "go test ./events -update adds it")
			require.Equal(t, string(want), string(encoded)+"\n")
			decoded, err := events.Decode(want)
			require.NoError(t, err)
			require.Equal(t, ev, decoded)
		})
	}
	files, err := fs.Glob(testdata.FS(), "*.json")
	require.NoError(t, err)
	for _, file := range files {
		require.True(t, golden[file], "%s belongs to no type: types are never removed", file)
	}
}

func addFile(t *testing.T, dir *os.Root, file string, content []byte) {
	t.Helper()
	f, err := dir.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if os.IsExist(err) {
		return
	}
	require.NoError(t, err)
	_, err = f.Write(content)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestDecodeReadsNewerProducers(t *testing.T) {
	t.Parallel()
	want := exampleOf("sync.completed")
	for name, change := range map[string]func(event, data map[string]any){
		"an extension attribute":      func(event, _ map[string]any) { event["traceparent"] = "00-ab-cd-01" },
		"a numeric extension":         func(event, _ map[string]any) { event["attempt2"] = 3 },
		"a null extension":            func(event, _ map[string]any) { event["tenant"] = nil },
		"a field":                     func(_, data map[string]any) { data["duration"] = map[string]any{"ms": []any{1.5, nil, "x"}} },
		"a field of an inner object":  func(_, data map[string]any) { data["tasks"].(map[string]any)["skipped"] = 4 },
		"a field in different case":   func(_, data map[string]any) { data["JOBID"] = "something else" },
		"a time with an offset":       func(event, _ map[string]any) { event["time"] = "2026-03-01T18:30:15.123456+09:00" },
		"a time with nanoseconds":     func(event, _ map[string]any) { event["time"] = "2026-03-01T09:30:15.123456789Z" },
		"many fields":                 func(_, data map[string]any) { addMany(data, 1000) },
		"an attribute of 64 letters":  func(event, _ map[string]any) { event[strings.Repeat("a", 64)] = true },
		"white space and other order": func(_, _ map[string]any) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := events.Decode(mutate(t, want, change))
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func addMany(data map[string]any, n int) {
	for i := range n {
		data[fmt.Sprintf("x%d", i)] = i
	}
}

// mutate encodes an event, lets change work on it as plain JSON, and encodes that with other white space and order.
func mutate(tb testing.TB, ev events.Event, change func(event, data map[string]any)) []byte {
	tb.Helper()
	b, err := events.Encode(ev)
	require.NoError(tb, err)
	var tree map[string]any
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.UseNumber()
	require.NoError(tb, decoder.Decode(&tree))
	change(tree, tree["data"].(map[string]any))
	b, err = json.MarshalIndent(tree, " ", "\t")
	require.NoError(tb, err)
	return b
}

func TestDecodeOpenWordLists(t *testing.T) {
	t.Parallel()
	got, err := events.Decode(mutate(t, exampleOf("session.revoked"), func(_, data map[string]any) { data["reason"] = "stolen" }))
	require.NoError(t, err)
	require.Equal(t, "stolen", got.Data.(events.SessionRevoked).Reason)
}

// TestDecodeRefuses changes one thing in the text of a good event.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	encoded, err := events.Encode(exampleOf("task.updated"))
	require.NoError(t, err)
	good := string(encoded)

	for _, tt := range []struct{ name, old, with, want string }{
		{"nothing", good, "", `want '{'`},
		{"no object", good, `[]`, `want '{'`},
		{"null", good, `null`, `want '{'`},
		{"an empty object", good, `{}`, "specversion: missing"},
		{"a byte order mark", `{"specversion"`, "\xef\xbb\xbf" + `{"specversion"`, `want '{'`},
		{"the end cut off", `}}`, `}`, `want '}'`},
		{"trailing data", `}}`, `}}{}`, "data after the event"},
		{"a trailing comma", `}}`, `},}`, "want a string"},
		{"a missing comma", `1.0","id"`, `1.0" "id"`, `want '}'`},
		{"a missing colon", `"id":`, `"id"`, `want ':'`},
		{"a missing value", `"1.0"`, ``, "want a string"},

		{"another specversion", `"1.0"`, `"0.3"`, "specversion: want 1.0"},
		{"no type", `"type":"fdc.task.updated.v1",`, ``, "type: missing"},
		{"another schema", `urn:fdc:schema:fdc.task.updated.v1`, `urn:fdc:schema:fdc.task.created.v1`, "dataschema: want"},
		{"another content type", `application/json`, `application/xml`, "datacontenttype: want"},
		{"no data", `,"data":`, `,"dato":`, "want a string, a number or a boolean"},
		{"data that is no object", `"data":{`, `"data":7,"x":{`, "want a string, a number or a boolean"},
		{"binary data", `"data":`, `"data_base64":"aGk=","data":`, "not the name of a CloudEvents attribute"},
		{"an attribute in capitals", `"id":`, `"ID":"x","id":`, "not the name of a CloudEvents attribute"},
		{"an attribute without name", `"id":`, `"":"x","id":`, "not the name of a CloudEvents attribute"},
		{"an attribute of 65 letters", `"id":`, `"` + strings.Repeat("a", 65) + `":"x","id":`, "not the name of a CloudEvents attribute"},
		{"an array as extension", `"id":`, `"ext":["x"],"id":`, "want a string, a number or a boolean"},

		{"an attribute twice", `"actorid":`, `"id":"` + exampleUser + `","actorid":`, `"id": repeated`},
		{"an unknown attribute twice", `"id":`, `"ext":"x","ext":"y","id":`, `"ext": repeated`},
		{"an attribute twice, once escaped", `"actorid":`, `"i\u0064":"` + exampleUser + `","actorid":`, `"id": repeated`},
		{"a field twice", `"version":2`, `"version":2,"version":2`, `"version": repeated`},
		{"one of many fields twice", `"version":2`, `"version":2` + many(100) + `,"x42":1`, `"x42": repeated`},
		{"an unknown field twice", `"version":2`, `"version":2,"x":1,"x":1`, `"x": repeated`},
		{"a field twice in what is skipped", `"version":2`, `"version":2,"x":[{"y":1,"y":1}]`, `"y": repeated`},

		{"a null attribute", `"` + exampleTime.Format(time.RFC3339Nano) + `"`, `null`, "want a string"},
		{"an empty attribute", `"req-7f3a"`, `""`, "empty"},
		{"a null field", `"version":2`, `"version":null`, "want a number"},
		{"a fraction", `"version":2`, `"version":2.0`, "want an integer"},
		{"an exponent", `"version":2`, `"version":2e0`, "want an integer"},
		{"a leading zero", `"version":2`, `"version":02`, "leading zero"},
		{"a plus sign", `"version":2`, `"version":+2`, "want a number"},
		{"65 bits", `"version":2`, `"version":9223372036854775808`, "want an integer of 64 bits"},
		{"a number in a string", `"version":2`, `"version":"2"`, "want a number"},
		{"a string for a list", `["dueDate","title"]`, `"title"`, `want '['`},
		{"a number in a list of strings", `["dueDate"`, `[1`, "want a string"},
		{"null in a list of strings", `["dueDate"`, `[null`, "want a string"},
		{"an empty list", `["dueDate","title"]`, `[]`, "empty"},
		{"a bad escape", `"title"`, `"ti\tle\x"`, "unknown escape"},
		{"an escape cut off", `"title"]`, `"\u12`, "want four hex digits"},
		{"half a surrogate pair", `"title"`, `"\ud83d"`, "half a surrogate pair"},
		{"two first halves", `"title"`, `"\ud83d\ud83d"`, "half a surrogate pair"},
		{"NUL", `"title"`, `"\u0000"`, "NUL"},
		{"a raw control character", `"title"`, "\"ti\ttle\"", "control character"},
		{"an escaped control character", `"title"`, `"ti\ttle"`, "data.changed: want"},
		{"invalid UTF-8", `"title"`, "\"\xff\"", "invalid UTF-8"},
		{"invalid UTF-8 in what is skipped", `"version":2`, "\"version\":2,\"\xc0\xaf\":1", "invalid UTF-8"},
		{"an overlong number of arrays", `"version":2`, `"version":2,"x":` + strings.Repeat("[", 100000), "nested too deeply"},
		{"nonsense in what is skipped", `"version":2`, `"version":2,"x":nul`, "want a value"},

		{"a field missing", `"version":2,`, ``, "version: missing"},
		{"a field in other case only", `"version":2`, `"Version":2`, "version: missing"},
		{"version 0", `"version":2`, `"version":0`, "data.version: want an integer from 1"},
		{"a negative version", `"version":2`, `"version":-2`, "data.version: want an integer from 1"},
		{"an id that is none", `"id":"` + exampleEvent, `"id":"17`, "id: want a UUID"},
		{"an id in capitals", `"id":"` + exampleEvent, `"id":"` + strings.ToUpper(exampleEvent), "id: want a UUID"},
		{"a task id that is none", `"taskId":"` + exampleTask, `"taskId":"*`, "data.taskId: want a UUID"},
		{"the subject of another", `"subject":"` + exampleTask, `"subject":"` + exampleUser, "subject: want the aggregate's id"},
		{"the workspace of another", `"workspaceid":"` + exampleWorkspace, `"workspaceid":"` + exampleUser, "workspaceid: want data.workspaceId"},
		{"no workspace", `"workspaceid":"` + exampleWorkspace + `",`, ``, "scope: want the id of a workspace"},
		{"an actor that is none", `"actorid":"` + exampleUser, `"actorid":"root`, "actorid: want"},
		{"a source that is none", `/fdc/api`, `/fdc/API`, "source: want"},
		{"a source beside /fdc", `/fdc/api`, `/api`, "source: want"},
		{"a subject with a space", `"subject":"` + exampleTask, `"subject":"a task`, "subject: want 1 to 256"},
		{"an address that is none", `203.0.113.7`, `203.0.113.700`, "ip: want"},
		{"an address with a zone", `203.0.113.7`, `fe80::1%eth0`, "ip: want"},
		{"a request id with a line break", `req-7f3a`, `req\n7f3a`, "requestid: want"},
		{"a user agent with a bell", `Mozilla`, `\u0007`, "useragent: want"},
		{"a date for a time", `2026-03-01T09:30:15.123456Z`, `2026-03-01`, "want RFC 3339"},
		{"a time without zone", `2026-03-01T09:30:15.123456Z`, `2026-03-01T09:30:15`, "want RFC 3339"},
		{"the 30th of February", `2026-03-01T`, `2026-02-30T`, "want RFC 3339"},
		{"a leap second", `09:30:15.123456Z`, `23:59:60Z`, "want RFC 3339"},
		{"before the epoch", `2026-03-01T`, `1969-03-01T`, "want RFC 3339"},
		{"year 10000 in UTC", `2026-03-01T09:30:15.123456Z`, `9999-12-31T23:59:59-01:00`, "want RFC 3339"},
		{"a word with a capital", `"user"}`, `"User"}`, "data.origin: want a word"},
		{"an empty optional field", `"user"}`, `""}`, "empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, good, tt.old)
			_, err := events.Decode([]byte(strings.Replace(good, tt.old, tt.with, 1)))
			require.ErrorContains(t, err, tt.want)
			require.Less(t, len(err.Error()), 500, "an error does not quote the event")
		})
	}
}

// many is n unknown fields.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"x%d":1`, i)
	}
	return b.String()
}

func TestDecodeUnknownType(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"fdc.task.created.v2", "task.created", "com.example.created"} {
		b := mutate(t, exampleOf("task.created"), func(event, data map[string]any) {
			event["type"], event["dataschema"] = name, "urn:fdc:schema:"+name
			clear(data)
		})
		_, err := events.Decode(b)
		require.ErrorIs(t, err, events.ErrUnknownType)
		require.ErrorContains(t, err, name)
	}
}

func TestDecodeSizeBound(t *testing.T) {
	t.Parallel()
	b, err := events.Encode(exampleOf("task.created"))
	require.NoError(t, err)
	padded := append(b, bytes.Repeat([]byte(" "), events.MaxSize-len(b))...)
	_, err = events.Decode(padded)
	require.NoError(t, err)
	_, err = events.Decode(append(padded, ' '))
	require.ErrorIs(t, err, events.ErrTooLarge)
}

// TestLargestEventFits keeps the promise that Encode needs no size check.
func TestLargestEventFits(t *testing.T) {
	t.Parallel()
	paths := make([]string, 100)
	for i := range paths {
		paths[i] = strings.Repeat("<", 199) + string(rune('\u4e00'+i)) // < takes six bytes in JSON
	}
	meta := byUser
	meta.RequestID, meta.UserAgent = strings.Repeat("<", 256), strings.Repeat("<", 512)
	b, err := events.Encode(events.New(meta, "", events.WorkspaceDataUpdated{
		WorkspaceID: exampleWorkspace, Version: 1, Changed: events.Changed(paths...),
	}))
	require.NoError(t, err)
	require.Greater(t, len(b), 100<<10)
	require.Less(t, len(b), events.MaxSize)
	_, err = events.Decode(b)
	require.NoError(t, err)
}

// TestDecodeKeepsNothing changes the input after decoding.
func TestDecodeKeepsNothing(t *testing.T) {
	t.Parallel()
	want := exampleOf("task.updated")
	b, err := events.Encode(want)
	require.NoError(t, err)
	got, err := events.Decode(b)
	require.NoError(t, err)
	for i := range b {
		b[i] = 'x'
	}
	require.Equal(t, want, got)
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		ev   events.Event
		want string
	}{
		{"no payload", events.Event{}, "unknown event type: payload <nil>"},
		{"a nil pointer", events.Event{Data: (*events.TaskCreated)(nil)}, "unknown event type: payload *events.TaskCreated"},
		{"a pointer", events.New(byUser, "", &events.TaskCreated{}), "unknown event type: payload *events.TaskCreated"},
		{"no source", events.New(events.Meta{ActorID: exampleUser}, "", exampleOf("task.created").Data), "source: want /fdc/<service>"},
		{"a bare source", events.New(events.Meta{ActorID: exampleUser, Source: "api"}, "", exampleOf("task.created").Data), "source: want /fdc/<service>"},
		{"no actor", events.New(events.Meta{Source: "/fdc/api"}, "", exampleOf("task.created").Data), "actorid: want"},
		{"another subject", events.New(byUser, exampleUser, exampleOf("task.created").Data), "subject: want the aggregate's id"},
		{"a clear address", events.New(byUser, "", events.UserCreated{UserID: exampleUser, Version: 1, Email: "alice@example.com"}), "data.email: want a masked email address"},
		{"a clear address, optional", events.New(byStranger, "", events.AuthLoginFailed{Reason: "x", Email: "alice@example.com"}), "data.email: want a masked email address"},
		{"no required text", events.New(byOperator, "", events.OpsDeadLetterDiscarded{Consumer: "syncer"}), "data.reason: want a line"},
		{"a word that is none", events.New(byUser, "", events.GoogleDisconnected{UserID: exampleUser, Version: 1, Reason: "by the user"}), "data.reason: want a word"},
		{"a value off the list", events.New(byUser, "", events.UserRoleChanged{UserID: exampleUser, Version: 1, From: "USER", To: "ROOT"}), "data.to: want one of SA, USER"},
		{"a month that is none", events.New(byOperator, "", events.AuditPartitionCreated{Month: "2026-13"}), "data.month: want a month"},
		{"a digest that is none", events.New(byOperator, "", events.AuditPartitionArchived{Month: "2026-01", SHA256: exampleDigest, MerkleRoot: "0"}), "data.merkleRoot: want 64"},
		{"a negative count inside", events.New(bySyncer, "", events.SyncCompleted{JobID: exampleJob, UserID: exampleUser, Version: 1, Type: "full", Mode: "resync", Tasks: events.SyncCounts{Pushed: -1}}), "data.tasks.pushed: want an integer from 0"},
		{"invalid UTF-8", events.New(byOperator, "", events.OpsDeadLetterDiscarded{Consumer: "syncer", Reason: "\xff"}), "data.reason: want a line"},
		{"an overlong line", events.New(byOperator, "", events.OpsDeadLetterDiscarded{Consumer: "syncer", Reason: strings.Repeat("é", 1001)}), "data.reason: want a line"},
		{"an empty list", events.New(byUser, "", events.TaskUpdated{TaskID: exampleTask, WorkspaceID: exampleWorkspace, Version: 2}), "data.changed: want"},
		{"an overlong list", events.New(byUser, "", events.GoogleConnected{UserID: exampleUser, Version: 2, Scopes: strings.Split(strings.Repeat("a ", 101), " ")}), "data.scopes: want"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := events.Encode(tt.ev)
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, b)
		})
	}
}

func TestEncodeNamesAllProblems(t *testing.T) {
	t.Parallel()
	_, err := events.Encode(events.Event{Data: events.TaskCreated{}})
	for _, want := range []string{"id: ", "type: ", "source: ", "subject: ", "time: ", "actorid: ", "scope: ", "data.taskId: ", "data.workspaceId: ", "data.version: "} {
		require.ErrorContains(t, err, want)
	}
}

func TestEventIsJSON(t *testing.T) {
	t.Parallel()
	want := exampleOf("sync.progress")
	b, err := json.Marshal(map[string]any{"type": "progress", "event": want})
	require.NoError(t, err)
	var message struct {
		Event events.Event `json:"event"`
	}
	require.NoError(t, json.Unmarshal(b, &message))
	require.Equal(t, want, message.Event)
	require.Error(t, json.Unmarshal([]byte(`{"event":{"id":"x"}}`), &message))
	require.Equal(t, want, message.Event, "a failed decoding leaves the event alone")
}
