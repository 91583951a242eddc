package service_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/identity"
	"fdc/internal/platform/bus"
)

// What a request does to the model.
type action string

const (
	nothing    action = ""
	signIn     action = "sign in"
	getData    action = "GET data"
	putData    action = "PUT data"
	patchData  action = "PATCH data"
	getSession action = "GET session"
	endSession action = "end session"
	setMember  action = "set member"
)

// request is one line of the history: what was asked of which node, when, and what it answered.
type request struct {
	id        string // X-Request-Id, the callerrequestid of its events
	what      action
	node      int
	session   *session
	email     string
	workspace string
	value     string // document, patch or role
	expect    int64  // the version that a writer expects or a reader has seen; -1: none

	call, ret time.Duration
	renewed   bool // the answer brought a new token
	status    int
	header    http.Header
	body      []byte
	err       error
}

func (r request) String() string {
	who := r.email
	if r.session != nil {
		who = r.session.email + "/" + r.session.id
	}
	words := []string{
		fmt.Sprintf("%.3f–%.3f s, node %d, %s,", r.call.Seconds(), r.ret.Seconds(), r.node, who), string(r.what), r.workspace, r.value, "→",
		strconv.Itoa(r.status), r.header.Get("ETag"), r.header.Get("Cache-Status"), fmt.Sprintf("%.200s", r.body),
	}
	if r.err != nil {
		words = append(words, r.err.Error())
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

// answered reports whether the outcome is known.
func (r request) answered() bool { return r.err == nil && r.status < 500 }

func (r request) version() int64 {
	version, err := strconv.ParseInt(strings.Trim(r.header.Get("ETag"), `"`), 10, 64)
	if err != nil {
		return unknown
	}
	return version
}

// window is a time in which something was broken.
type window struct {
	from, to time.Duration
	what     string
}

const (
	// The bounds that contract.md and the packages nearcache and identity state for a node that was not told itself.
	calmBound  = time.Second
	faultBound = 3 * time.Second
	// margin is for the last check of a beat and the way of the answer.
	margin = 500 * time.Millisecond
	// settling is how long after its end a fault still counts: connections come back within it.
	settling = 3 * time.Second

	forever = time.Duration(math.MaxInt64 / 2)
	unknown = int64(-1)
	// everywhere is the node of what all nodes know by themselves.
	everywhere = -1
)

// register is something that has one value at a time: a document, a session's life, a role. Its states are versioned.
type state struct {
	version int64
	value   string
}

// op is what one request did to, or learned of, one register.
type op struct {
	do    string // set, merge, read, refused
	value string // what is set or merged or was read; "" when it isn't known
	// version is the one that was made or read, and expect the one that the writer wanted to replace; unknown when not told.
	version, expect int64
	request         request
	call, ret       time.Duration
	node            int
	strict          bool // a read of the primary, which is bound by no cache
}

func (o op) writes() bool { return o.do == "set" || o.do == "merge" }

func (o op) String() string {
	if o.version == unknown {
		return fmt.Sprintf("%s %s: %s", o.do, o.value, o.request)
	}
	return fmt.Sprintf("%s %s, version %d: %s", o.do, o.value, o.version, o.request)
}

// registerModel is the sequential register that every history is held against.
func registerModel(initial state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return initial },
		Step: func(before, in, _ any) (bool, any) {
			s, o := before.(state), in.(op)
			told := func(version int64) bool { return o.version == unknown || o.version == version }
			switch o.do {
			case "set", "merge":
				next := state{s.version + 1, o.value}
				if o.do == "merge" {
					next.value = merged(s.value, o.value)
				}
				return (o.expect == unknown || o.expect == s.version) && told(next.version), next
			case "refused":
				return o.expect != s.version && told(s.version), s
			default:
				return told(s.version) && (o.value == "" || o.value == s.value || o.value == "some role" && s.value != noRole), s
			}
		},
		DescribeOperation: func(in, _ any) string { return in.(op).String() },
		DescribeState:     func(s any) string { return fmt.Sprintf("%d: %s", s.(state).version, s.(state).value) },
	}
}

// merged is RFC 7396 for flat objects.
func merged(document, patch string) string {
	var members, changes map[string]any
	if json.Unmarshal([]byte(document), &members) != nil || json.Unmarshal([]byte(patch), &changes) != nil {
		return "unreadable"
	}
	for name, value := range changes {
		if value == nil {
			delete(members, name)
		} else {
			members[name] = value
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		return "unwritable"
	}
	return string(text)
}

const (
	live   = "live"
	ended  = "ended"
	noRole = "no role"
)

// history is what happened, by register.
type history struct {
	t         *testing.T
	registers map[string][]op
	faults    []window
	stall     time.Duration // the longest time that the machine stood still for
}

func (h *history) add(register string, o op) {
	if o.ret == 0 {
		o.call, o.ret, o.node = o.request.call, o.request.ret, o.request.node
		if o.writes() && !o.request.answered() {
			o.ret = forever // it may have taken effect after the client gave up
		}
	}
	h.registers[register] = append(h.registers[register], o)
}

// historyOf sorts what was recorded into registers. Which writes took effect, and as which version, the events say: they commit
// with them, and they name the request. A writer that got no answer is no riddle, therefore.
func (c *cluster) historyOf(faults []window, stall time.Duration) *history {
	h := &history{t: c.t, registers: map[string][]op{}, faults: faults, stall: stall}
	facts := c.facts()
	c.mu.Lock()
	defer c.mu.Unlock()
	sessions, workspaces := map[string][]string{}, map[string]bool{} // by user
	for _, r := range c.history {
		if r.session != nil && !slices.Contains(sessions[r.session.user], r.session.id) {
			sessions[r.session.user] = append(sessions[r.session.user], r.session.id)
		}
		if r.workspace != "" {
			workspaces[r.workspace] = true
		}
	}
	for _, r := range c.history {
		c.lawful(r)
		written := int64(0)
		for _, e := range facts[r.id] {
			role := func(workspace, role string) {
				for _, s := range sessions[e.UserID] {
					h.add("role in "+workspace+" of "+s, op{do: "set", value: role, version: unknown, expect: unknown, request: r})
					h.add("access to "+workspace+" of "+s, op{do: "set", value: role, version: unknown, expect: unknown, request: r})
				}
			}
			switch data := e.Data.(type) {
			case events.WorkspaceDataUpdated:
				o := op{do: "set", value: r.value, version: data.Version, expect: r.expect, request: r}
				if r.what == patchData {
					o.do = "merge"
				} else {
					o.value = canonical(json.RawMessage(r.value))
				}
				written = data.Version
				h.add("document "+data.WorkspaceID, o)
			case events.SessionRevoked:
				h.add("session "+data.SessionID, op{do: "set", value: ended, version: unknown, expect: unknown, request: r})
			case events.SessionRotated:
				if !r.renewed { // the browser has not learned of its new token, and loses the session with the old one
					h.add("session "+data.SessionID, op{
						do: "set", value: ended, version: unknown, expect: unknown, request: r, call: r.call + identity.ReplacedGrace, ret: forever, node: everywhere,
					})
				}
			case events.WorkspaceCreated:
				role(data.WorkspaceID, "OWNER")
			case events.WorkspaceMemberAdded:
				role(data.WorkspaceID, data.Role)
			case events.WorkspaceMemberRoleChanged:
				role(data.WorkspaceID, data.To)
			case events.WorkspaceMemberRemoved:
				role(data.WorkspaceID, noRole)
			}
		}
		if (r.what == putData || r.what == patchData) && r.status == http.StatusOK && r.version() != written {
			c.t.Errorf("the event says version %d: %s", written, r)
		}
		if r.session == nil || !r.answered() {
			continue
		}
		if r.status == http.StatusUnauthorized {
			h.add("session "+r.session.id, op{do: "read", value: ended, version: unknown, request: r})
			continue
		}
		h.add("session "+r.session.id, op{do: "read", value: live, version: unknown, request: r})
		switch r.what {
		case getData:
			h.addRead(r)
		case putData, patchData:
			var refusal struct {
				CurrentVersion *int64 `json:"currentVersion"`
			}
			if r.status == http.StatusConflict || r.status == http.StatusPreconditionFailed {
				if err := json.Unmarshal(r.body, &refusal); err != nil || refusal.CurrentVersion == nil {
					c.t.Errorf("no currentVersion: %s", r)
					continue
				}
				h.add("document "+r.workspace, op{do: "refused", version: *refusal.CurrentVersion, expect: r.expect, request: r, strict: true})
			}
		case getSession:
			roles := rolesIn(r)
			for w := range workspaces {
				h.add("role in "+w+" of "+r.session.id, op{do: "read", value: cmp.Or(roles[w], noRole), version: unknown, request: r})
			}
		case nothing, signIn, endSession, setMember:
		}
	}
	return h
}

func rolesIn(r request) map[string]string {
	var answer struct {
		Workspaces []struct{ ID, Role string }
	}
	roles := map[string]string{}
	if json.Unmarshal(r.body, &answer) == nil {
		for _, w := range answer.Workspaces {
			roles[w.ID] = w.Role
		}
	}
	return roles
}

func (h *history) addRead(r request) {
	access := "access to " + r.workspace + " of " + r.session.id
	if r.status == http.StatusNotFound {
		h.add(access, op{do: "read", value: noRole, version: unknown, request: r})
		return
	}
	if r.status != http.StatusOK && r.status != http.StatusNotModified {
		return
	}
	h.add(access, op{do: "read", value: "some role", version: unknown, request: r})
	o := op{do: "read", version: r.version(), request: r, strict: r.header.Get("Cache-Status") == "fdc-db; fwd=bypass"}
	if r.status == http.StatusOK {
		var document struct {
			Version int64
			Data    json.RawMessage
		}
		if err := json.Unmarshal(r.body, &document); err != nil || document.Version != o.version {
			h.t.Errorf("the ETag is not the body's version: %s", r)
		}
		o.value = canonical(document.Data)
	}
	h.add("document "+r.workspace, o)
}

// lawful checks what holds for every answer alone.
func (c *cluster) lawful(r request) {
	switch {
	case r.status >= 500 && r.status != http.StatusServiceUnavailable:
		c.t.Errorf("an internal error: %s", r)
	case r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") == "":
		c.t.Errorf("503 without Retry-After: %s", r)
	case r.what == getData && r.expect > 0 && (r.status == http.StatusOK || r.status == http.StatusNotModified) && r.version() < r.expect:
		c.t.Errorf("a reader who has version %d got an older one: %s", r.expect, r)
	}
}

// facts reads the stream of events, by the request that each names.
func (c *cluster) facts() map[string][]events.Event {
	c.t.Helper()
	js, err := bus.JetStream(natstest.Connect(c.t, c.broker, "ops"))
	require.NoError(c.t, err)
	stream, err := js.Stream(c.t.Context(), bus.Events)
	require.NoError(c.t, err)
	consumer, err := stream.OrderedConsumer(c.t.Context(), jetstream.OrderedConsumerConfig{})
	require.NoError(c.t, err)
	found := map[string][]events.Event{}
	for range stream.CachedInfo().State.Msgs {
		msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
		require.NoError(c.t, err)
		e, err := events.Decode(msg.Data())
		require.NoError(c.t, err)
		found[e.CallerRequestID] = append(found[e.CallerRequestID], e)
	}
	return found
}

// check reports every view of the history that no order of its operations explains.
func (h *history) check(nodes int) {
	h.t.Helper()
	for _, v := range h.views(nodes) {
		model := registerModel(v.initial)
		result, info := porcupine.CheckOperationsVerbose(model, v.seen, patience)
		if result == porcupine.Ok {
			continue
		}
		h.t.Errorf("%s: %s\n%s", v.name, result, offence(info, v.seen))
		path := filepath.Join(h.t.ArtifactDir(), strings.ReplaceAll(v.name, " ", "-")+".html")
		if err := porcupine.VisualizePath(model, info, path); err != nil {
			h.t.Error(err)
		}
		h.t.Logf("drawn in %s (kept with go test -artifacts)", path)
	}
}

// view is what must be the history of one sequential register.
type view struct {
	name    string
	initial state
	seen    []porcupine.Operation
}

// views makes of each register several: of a document the writes and what the primary answered, as they were; and of everything,
// for each node, its own requests together with the writes of the others, which may take as long to arrive as the bound allows.
// So a node's view is legal only if it reads its own writes, never goes back, and learns in time.
func (h *history) views(nodes int) (views []view) {
	for _, register := range slices.Sorted(maps.Keys(h.registers)) {
		initial := state{value: noRole}
		switch {
		case strings.HasPrefix(register, "document "):
			initial.value = "{}"
			v := view{name: register + " in the database", initial: initial}
			for _, o := range h.registers[register] {
				if o.writes() || o.strict {
					v.see(o)
				}
			}
			views = append(views, v)
		case strings.HasPrefix(register, "session "):
			initial.value = live
		}
		for node := range nodes {
			v := view{name: fmt.Sprintf("%s on node %d", register, node), initial: initial}
			for _, o := range h.registers[register] {
				switch {
				case o.node == node && !o.strict, o.node == everywhere:
					v.see(o)
				case o.writes():
					if o.ret < forever {
						o.ret += h.bound(o)
					}
					v.see(o)
				}
			}
			views = append(views, v)
		}
	}
	return views
}

func (v *view) see(o op) {
	v.seen = append(v.seen, porcupine.Operation{ClientId: max(0, o.node), Input: o, Call: int64(o.call), Return: int64(o.ret)})
}

// bound is how long a write may take to reach a node that was not told itself.
func (h *history) bound(o op) time.Duration {
	for _, f := range h.faults {
		if f.from <= o.ret+calmBound && o.call <= f.to+settling {
			return faultBound + margin + h.stall
		}
	}
	return calmBound + h.stall
}

// offence names the first operation that no order explains, and what the longest order ends with.
func offence(info porcupine.LinearizationInfo, seen []porcupine.Operation) string {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	explained := map[string]bool{}
	key := func(o porcupine.Operation) string { return fmt.Sprint(o.Call, o.Return, o.Input) }
	for _, o := range longest {
		explained[key(o)] = true
	}
	slices.SortFunc(seen, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	var text strings.Builder
	for _, o := range longest[max(0, len(longest)-4):] {
		fmt.Fprintf(&text, "  after     %s\n", o.Input)
	}
	for _, o := range seen {
		if !explained[key(o)] {
			fmt.Fprintf(&text, "  no place for %s\n", o.Input)
			break
		}
	}
	return text.String()
}

// What the model is there for: it refuses what the caches must never do, and nothing else.
func TestTheModelTellsCoherentFromIncoherent(t *testing.T) {
	t.Parallel()
	at := func(from, to time.Duration, o op) op {
		o.call, o.ret = from*time.Millisecond, to*time.Millisecond
		return o
	}
	write := func(node int, version, expect int64, value string) op {
		return op{do: "set", node: node, version: version, expect: expect, value: value}
	}
	merge := func(version int64, patch string) op {
		return op{do: "merge", version: version, expect: unknown, value: patch}
	}
	read := func(node int, version int64, value string) op {
		return op{do: "read", node: node, version: version, value: value}
	}
	first := at(100, 200, write(0, 1, unknown, `{"a":1}`))
	lost := first
	lost.ret = forever
	for name, c := range map[string]struct {
		ops    []op
		faults []window
		legal  bool
	}{
		"late elsewhere":           {ops: []op{first, at(1190, 1195, read(1, 0, "{}"))}, legal: true},
		"too late elsewhere":       {ops: []op{first, at(1205, 1210, read(1, 0, "{}"))}},
		"late in a fault":          {ops: []op{first, at(3690, 3695, read(1, 0, "{}"))}, faults: []window{{to: time.Second}}, legal: true},
		"too late in a fault":      {ops: []op{first, at(3705, 3710, read(1, 0, "{}"))}, faults: []window{{to: time.Second}}},
		"own write unread":         {ops: []op{first, at(201, 202, read(0, 0, "{}"))}},
		"own write under way":      {ops: []op{first, at(150, 151, read(0, 1, "")), at(152, 300, read(0, 1, `{"a":1}`))}, legal: true},
		"back":                     {ops: []op{first, at(210, 220, read(1, 1, `{"a":1}`)), at(230, 240, read(1, 0, "{}"))}},
		"another node is behind":   {ops: []op{first, at(210, 220, read(1, 1, `{"a":1}`)), at(230, 240, read(2, 0, "{}"))}, legal: true},
		"another content":          {ops: []op{first, at(210, 220, read(1, 1, `{"a":2}`))}},
		"from the future":          {ops: []op{first, at(10, 20, read(1, 1, `{"a":1}`))}},
		"no answer, and it counts": {ops: []op{lost, at(5000, 5001, read(0, 0, "{}")), at(6000, 6001, read(0, 1, `{"a":1}`))}, legal: true},
		"one version twice":        {ops: []op{first, at(300, 400, write(1, 1, unknown, `{"b":1}`))}},
		"a lost update":            {ops: []op{first, at(300, 400, write(1, 2, 0, `{"b":1}`))}},
		"expected":                 {ops: []op{first, at(300, 400, write(1, 2, 1, `{"b":1}`))}, legal: true},
		"refused for nothing":      {ops: []op{first, at(300, 400, op{do: "refused", version: 1, expect: 1, strict: true})}},
		"merged":                   {ops: []op{first, at(300, 400, merge(2, `{"b":1}`)), at(410, 420, read(0, 2, `{"a":1,"b":1}`))}, legal: true},
		"overwritten by a merge":   {ops: []op{first, at(300, 400, merge(2, `{"b":1}`)), at(410, 420, read(0, 2, `{"b":1}`))}},
	} {
		h := &history{t: t, registers: map[string][]op{"document d": c.ops}, faults: c.faults}
		legal := true
		for _, v := range h.views(3) {
			legal = legal && porcupine.CheckOperations(registerModel(v.initial), v.seen)
		}
		require.Equal(t, c.legal, legal, name)
	}
}
