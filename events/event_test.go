package events_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

func TestNew(t *testing.T) {
	t.Parallel()
	before := time.Now().Truncate(time.Microsecond)
	ev := events.New(byUser, exampleTask, events.TaskCreated{TaskID: exampleTask, WorkspaceID: exampleWorkspace, Version: 1})
	after := time.Now()

	require.NoError(t, ev.Validate())
	require.False(t, ev.Time.Before(before) || ev.Time.After(after), "the time is now")
	require.Equal(t, "fdc.task.created.v1", ev.Type)
	require.Equal(t, "task.created", ev.Action())
	require.Equal(t, exampleUser, ev.UserID, "the payload names no user, so it is the request's")
	require.Equal(t, exampleWorkspace, ev.WorkspaceID, "the payload's")
	require.Equal(t, "evt.task.created.v1."+exampleWorkspace, ev.NATSSubject())
	require.Equal(t, "task/"+exampleTask, ev.Aggregate())
	require.Equal(t, int64(1), ev.Version())
	require.NotEqual(t, ev.ID, events.New(byUser, exampleTask, ev.Data).ID)
}

func TestNewPrefersThePayload(t *testing.T) {
	t.Parallel()
	meta := byUser
	meta.WorkspaceID = exampleChat
	ev := events.New(meta, "", events.WorkspaceMemberRemoved{
		WorkspaceID: exampleWorkspace, Version: 4, UserID: exampleMember, Reason: events.MemberRemoved,
	})
	require.NoError(t, ev.Validate())
	require.Equal(t, exampleUser, ev.ActorID)
	require.Equal(t, exampleMember, ev.UserID)
	require.Equal(t, exampleWorkspace, ev.WorkspaceID)
}

func TestNewSubject(t *testing.T) {
	t.Parallel()
	require.Equal(t, exampleTask, events.New(byUser, "", exampleOf("task.created").Data).Subject)
	require.Equal(t, "session_cache", events.New(byOperator, "", exampleOf("flag.changed").Data).Subject)

	own := events.New(byStranger, "", events.AuthLoginFailed{Reason: "state_mismatch"})
	require.Equal(t, own.ID, own.Subject)

	given := events.New(byUser, exampleWorkspace, exampleOf("access.denied").Data)
	require.Equal(t, exampleWorkspace, given.Subject)
	require.NoError(t, given.Validate())
}

// TestNewIsCanonical: what New makes is what Decode gives back.
func TestNewIsCanonical(t *testing.T) {
	t.Parallel()
	tokyo := time.FixedZone("JST", 9*60*60)
	data := events.FlagChanged{Name: "ai_cache", Value: events.FlagOn, Reason: "x", ExpiresAt: exampleTime.Add(789 * time.Nanosecond).In(tokyo)}
	ev := events.New(byOperator, "", data)
	require.NoError(t, ev.Validate())
	require.Equal(t, exampleTime, ev.Data.(events.FlagChanged).ExpiresAt)
	require.Equal(t, tokyo, data.ExpiresAt.Location(), "the caller's payload is left alone")

	empty := events.WorkspaceDataUpdated{WorkspaceID: exampleWorkspace, Version: 1, Changed: []string{}}
	unchanged := events.New(byUser, "", empty)
	require.NoError(t, unchanged.Validate())
	require.Nil(t, unchanged.Data.(events.WorkspaceDataUpdated).Changed)
	require.NotNil(t, empty.Changed)

	data.ExpiresAt = time.Time{}
	require.Equal(t, data, events.New(byOperator, "", data).Data)
}

// TestNewTakesAnyUserAgent: whatever a client sends, the write that it came with goes on.
func TestNewTakesAnyUserAgent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ given, want string }{
		{"", ""},
		{"curl/8.5.0", "curl/8.5.0"},
		{"a\x00b\r\nc\u0085d", "abcd"},
		{"\xff\xfe", ""},
		{strings.Repeat("é", 300), strings.Repeat("é", 256)},
		{"x" + strings.Repeat("é", 300), "x" + strings.Repeat("é", 255)},
	} {
		meta := byUser
		meta.UserAgent = tt.given
		ev := events.New(meta, "", exampleOf("task.created").Data)
		require.Equal(t, tt.want, ev.UserAgent)
		require.True(t, utf8.ValidString(ev.UserAgent))
		require.NoError(t, ev.Validate())
	}
}

func TestNewSpellsAddressesInOneWay(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"": "", "203.0.113.7": "203.0.113.7", "::ffff:203.0.113.7": "203.0.113.7", "2001:DB8:0::7": "2001:db8::7", "fe80::1%eth0": "fe80::1",
	} {
		meta := byUser
		meta.IP = given
		ev := events.New(meta, "", exampleOf("task.created").Data)
		require.Equal(t, want, ev.IP)
		require.NoError(t, ev.Validate())
	}
	meta := byUser
	meta.IP = "203.0.113.7:4711"
	require.ErrorContains(t, events.New(meta, "", exampleOf("task.created").Data).Validate(), "ip: want an IP address")
}

// An operator's name is what the operating system or a person made of it; the actor id is always a valid one.
func TestNamedOperator(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "operator", "alice@host": "operator:alice@host", `CORP\Alice Doe@host.example`: "operator:CORP_Alice_Doe@host.example",
		"アリス@host": "operator:___@host", "a\n\x00b": "operator:a__b", "\xff": "operator:_", "a:b": "operator:a_b",
		strings.Repeat("a", 1000): "operator:" + strings.Repeat("a", 128),
	} {
		got := events.NamedOperator(name)
		require.Equal(t, want, got)
		ev := events.New(events.Meta{Source: "/fdc/cli", ActorID: got}, "", exampleOf("flag.changed").Data)
		require.NoError(t, ev.Validate())
		body, err := events.Encode(ev)
		require.NoError(t, err)
		decoded, err := events.Decode(body)
		require.NoError(t, err)
		require.Equal(t, got, decoded.ActorID)
	}
	for _, actor := range []string{"operator:", "operator:a b", "operator:a:b", "operator:é", "operator:" + strings.Repeat("a", 129), "operators", "system:a"} {
		ev := events.New(events.Meta{Source: "/fdc/cli", ActorID: actor}, "", exampleOf("flag.changed").Data)
		require.ErrorContains(t, ev.Validate(), "actorid", actor)
	}
}

func TestAggregates(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"session.created":               "session/" + exampleSession,
		"session.revoked":               "session/" + exampleSession,
		"session.rotated":               "session/" + exampleSession,
		"session.reauthenticated":       "session/" + exampleSession,
		"user.created":                  "user/" + exampleUser,
		"user.role_changed":             "user/" + exampleUser,
		"user.disabled":                 "user/" + exampleUser,
		"user.enabled":                  "user/" + exampleUser,
		"user.erased":                   "user/" + exampleUser,
		"workspace.renamed":             "workspace/" + exampleWorkspace,
		"workspace.deleted":             "workspace/" + exampleWorkspace,
		"workspace.restored":            "workspace/" + exampleWorkspace,
		"workspace.created":             "workspace/" + exampleWorkspace,
		"workspace.member_added":        "workspace/" + exampleWorkspace,
		"workspace.member_role_changed": "workspace/" + exampleWorkspace,
		"workspace.member_removed":      "workspace/" + exampleWorkspace,
		"workspace.owner_appointed":     "workspace/" + exampleWorkspace,
		"invitation.created":            "invitation/" + exampleInvite,
		"invitation.resent":             "invitation/" + exampleInvite,
		"invitation.withdrawn":          "invitation/" + exampleInvite,
		"invitation.accepted":           "invitation/" + exampleInvite,
		"invitation.declined":           "invitation/" + exampleInvite,
		"workspace.data_updated":        "workspace_data/" + exampleWorkspace,
		"task.created":                  "task/" + exampleTask,
		"task.updated":                  "task/" + exampleTask,
		"task.deleted":                  "task/" + exampleTask,
		"google.connected":              "google/" + exampleUser,
		"google.disconnected":           "google/" + exampleUser,
		"google.reauth_required":        "google/" + exampleUser,
		"sync.requested":                "sync_job/" + exampleJob,
		"sync.started":                  "sync_job/" + exampleJob,
		"sync.completed":                "sync_job/" + exampleJob,
		"sync.failed":                   "sync_job/" + exampleJob,
		"sync.retried":                  "sync_job/" + exampleJob,
		"sync.cancelled":                "sync_job/" + exampleJob,
		"org.chart_updated":             "org_chart/" + exampleWorkspace,
	}
	for _, ev := range examples {
		typ, ok := events.TypeOf(ev.Data)
		require.True(t, ok)
		if aggregate, ordered := want[ev.Action()]; ordered {
			require.Equal(t, aggregate, ev.Aggregate())
			require.Equal(t, aggregate, typ.OrderedBy+"/"+ev.Subject)
			continue
		}
		require.Empty(t, typ.OrderedBy, ev.Type)
		require.Equal(t, typ.Aggregate+"/"+ev.ID, ev.Aggregate(), "it stands alone")
		require.Equal(t, int64(1), ev.Version())
	}
}

// An invitation to an address that is no user's goes to the operators; the payload does not tell the difference.
func TestInvitationsToUnknownAddresses(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"invitation.created", "invitation.resent", "invitation.withdrawn"} {
		known := exampleOf(action)
		require.Equal(t, "evt."+action+".v1."+exampleMember, known.NATSSubject())
		meta := toMember
		meta.UserID = ""
		unknown := events.New(meta, "", known.Data)
		require.NoError(t, unknown.Validate())
		require.Equal(t, "evt."+action+".v1.system", unknown.NATSSubject())
		subject, err := events.Subject(unknown.Type, events.SystemScope)
		require.NoError(t, err)
		require.Equal(t, unknown.NATSSubject(), subject)
	}
}

func TestEventWithoutPayload(t *testing.T) {
	t.Parallel()
	for _, data := range []events.Payload{nil, (*events.TaskCreated)(nil), &events.TaskCreated{}} {
		ev := events.New(byUser, "", data)
		require.Empty(t, ev.Type)
		require.Empty(t, ev.Action())
		require.Empty(t, ev.ScopeID())
		require.Empty(t, ev.NATSSubject())
		require.Empty(t, ev.Aggregate())
		require.Zero(t, ev.Version())
		require.ErrorIs(t, ev.Validate(), events.ErrUnknownType)
		_, ok := events.TypeOf(data)
		require.False(t, ok)
	}
}
