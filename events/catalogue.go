package events

import (
	"errors"
	"reflect"
)

// ErrUnknownType is in the chain of the error for an event type that is not in the catalogue: one of a newer producer,
// or nonsense.
var ErrUnknownType = errors.New("unknown event type")

// Scope says to whom an event belongs, and so which id ends its subject.
type Scope string

// The scopes.
const (
	ScopeWorkspace Scope = "workspace" // its members
	ScopeUser      Scope = "user"      // that user
	ScopeSystem    Scope = "system"    // the operators
)

// Type is an entry of the catalogue.
type Type struct {
	Name        string // "fdc.task.created.v1"
	Aggregate   string // "task"
	Fact        string // "created"
	Version     int    // 1
	Scope       Scope
	MayLackUser bool   // of scope user, the user may be unknown: then it goes to the operators, and its scope id is "system"
	Stored      bool   // on the stream EVENTS; else it passes over core NATS once
	OrderedBy   string // the kind of aggregate that orders it, often Aggregate; empty when it stands alone
	Summary     string // one sentence
	Fields      []Field

	prefix  string // its subjects without the scope id
	payload reflect.Type
}

// Action is the name without its namespace and version: "task.created".
func (t *Type) Action() string { return t.Aggregate + "." + t.Fact }

// catalogue is every event type there is.
var catalogue = [...]Type{
	define[SessionCreated]("session", "created", ScopeUser, "A user signed in on a device."),
	define[SessionRevoked]("session", "revoked", ScopeUser, "A session ended; its token is dead."),
	define[SessionRotated]("session", "rotated", ScopeUser, "A session got a new token in the place of the one it had."),
	define[SessionReauthenticated]("session", "reauthenticated", ScopeUser, "The user of a session signed in with Google again."),
	define[AuthLoginFailed]("auth", "login_failed", ScopeSystem, "A sign-in was refused."),
	define[AccessDenied]("access", "denied", ScopeSystem, "A request was refused for want of a right."),

	define[UserCreated]("user", "created", ScopeUser, "A user signed in for the first time."),
	define[UserRoleChanged]("user", "role_changed", ScopeUser, "A user's system role changed."),
	define[UserDisabled]("user", "disabled", ScopeUser, "An operator shut a user out; all the user's sessions end."),
	define[UserEnabled]("user", "enabled", ScopeUser, "An operator let a disabled user sign in again."),

	define[UserErased]("user", "erased", ScopeUser, "A user was erased: nothing of the person is left but the id."),

	define[WorkspaceCreated]("workspace", "created", ScopeWorkspace, "A workspace was made."),
	define[WorkspaceDataUpdated]("workspace", "data_updated", ScopeWorkspace, "A workspace's document was saved."),
	define[WorkspaceMemberAdded]("workspace", "member_added", ScopeWorkspace, "A user became a member of a workspace."),
	define[WorkspaceMemberRoleChanged]("workspace", "member_role_changed", ScopeWorkspace, "A member's role in a workspace changed."),
	define[WorkspaceMemberRemoved]("workspace", "member_removed", ScopeWorkspace, "A member left a workspace or was removed from it."),
	define[WorkspaceOwnerAppointed]("workspace", "owner_appointed", ScopeWorkspace, "An operator made a user OWNER of a workspace; member_added or member_role_changed comes before it."),

	mayLackUser(define[InvitationCreated]("invitation", "created", ScopeUser, "An address was invited to a workspace.")),
	mayLackUser(define[InvitationResent]("invitation", "resent", ScopeUser, "An invitation was sent again and expires later.")),
	mayLackUser(define[InvitationWithdrawn]("invitation", "withdrawn", ScopeUser, "An invitation ended without an answer.")),
	define[InvitationAccepted]("invitation", "accepted", ScopeUser, "A user accepted an invitation; workspace.member_added follows."),
	define[InvitationDeclined]("invitation", "declined", ScopeUser, "A user declined an invitation."),

	define[WorkspaceRenamed]("workspace", "renamed", ScopeWorkspace, "A workspace got another name."),
	define[WorkspaceDeleted]("workspace", "deleted", ScopeWorkspace, "A workspace was deleted; its memberships end, each with an event."),
	define[WorkspaceRestored]("workspace", "restored", ScopeWorkspace, "A deleted workspace was restored; its members return, each with an event."),

	define[TaskCreated]("task", "created", ScopeWorkspace, "A task was made."),
	define[TaskUpdated]("task", "updated", ScopeWorkspace, "A task changed."),
	define[TaskDeleted]("task", "deleted", ScopeWorkspace, "A task was deleted."),

	define[GoogleConnected]("google", "connected", ScopeUser, "A user gave FDC access to Google Tasks or Calendar."),
	define[GoogleDisconnected]("google", "disconnected", ScopeUser, "A user's access to Google ended; the tokens are erased."),
	define[GoogleReauthRequired]("google", "reauth_required", ScopeUser, "Google refuses a user's tokens; only the user can renew the consent."),

	define[SyncRequested]("sync", "requested", ScopeUser, "A sync with Google was queued."),
	define[SyncStarted]("sync", "started", ScopeUser, "A sync with Google began, or began again after its worker died."),
	define[SyncCompleted]("sync", "completed", ScopeUser, "A sync with Google ended with all its changes committed."),
	define[SyncFailed]("sync", "failed", ScopeUser, "A sync with Google ended without result."),
	define[SyncRetried]("sync", "retried", ScopeUser, "An attempt at a sync failed; another follows."),
	define[SyncCancelled]("sync", "cancelled", ScopeUser, "A sync with Google was cancelled by its user."),
	live(define[SyncProgress]("sync", "progress", ScopeUser, "A sync with Google is under way.")),

	define[OrgChartUpdated]("org", "chart_updated", ScopeWorkspace, "A workspace's organisation chart was saved."),
	define[ChatCompleted]("chat", "completed", ScopeUser, "The assistant answered a user."),

	define[FlagChanged]("flag", "changed", ScopeSystem, "An operator set or cleared a live flag."),

	define[AuditPartitionCreated]("audit", "partition_created", ScopeSystem, "A month's partition of the audit log was made."),
	define[AuditPartitionArchived]("audit", "partition_archived", ScopeSystem, "A month's partition of the audit log went to the archive."),
	define[AuditPartitionRestored]("audit", "partition_restored", ScopeSystem, "A month's partition of the audit log came back from the archive."),
	define[AuditExported]("audit", "exported", ScopeSystem, "Someone exported a part of the audit log."),
	define[AuditViewed]("audit", "viewed", ScopeSystem, "Someone began to read the audit log."),
	define[AuditPartitionsLow]("audit", "partitions_low", ScopeSystem, "Fewer than two months after the current one have their partition: the audit log is about to have nowhere to go."),

	define[OpsReplayed]("ops", "replayed", ScopeSystem, "An operator fed stored events to a consumer again."),
	define[OpsDeadLetterRequeued]("ops", "dead_letter_requeued", ScopeSystem, "An operator gave a dead letter to its consumer again."),
	define[OpsDeadLetterDiscarded]("ops", "dead_letter_discarded", ScopeSystem, "An operator discarded a dead letter."),
	define[OpsKeysRotated]("ops", "keys_rotated", ScopeSystem, "An operator had all that is sealed sealed under the newest key."),
}

var (
	byName    = indexBy(func(t *Type) string { return t.Name })
	byPayload = indexBy(func(t *Type) reflect.Type { return t.payload })
)

func define[P Payload](aggregate, fact string, scope Scope, summary string) Type {
	name := typeName(aggregate, fact, 1)
	payload := reflect.TypeFor[P]()
	var zero P
	return Type{
		Name:      name,
		Aggregate: aggregate,
		Fact:      fact,
		Version:   1,
		Scope:     scope,
		Stored:    true,
		OrderedBy: zero.key().aggregate,
		Summary:   summary,
		Fields:    fieldsOf(payload),
		prefix:    storedRoot + "." + aggregate + "." + fact + ".v1.",
		payload:   payload,
	}
}

// live marks a type as told once and not stored.
func live(t Type) Type {
	t.Stored = false
	t.prefix = liveRoot + "." + t.Aggregate + "." + t.Fact + ".v1."
	return t
}

// mayLackUser marks a type of scope user whose user may be unknown.
func mayLackUser(t Type) Type {
	t.MayLackUser = true
	return t
}

// takesScope reports whether events of the type may have the scope id.
func (t *Type) takesScope(id string) bool {
	if id == SystemScope {
		return t.Scope == ScopeSystem || t.MayLackUser
	}
	return t.Scope != ScopeSystem && ValidID(id)
}

func indexBy[K comparable](of func(*Type) K) map[K]*Type {
	index := make(map[K]*Type, len(catalogue))
	for i := range catalogue {
		index[of(&catalogue[i])] = &catalogue[i]
	}
	return index
}

// Types returns the catalogue in its order. The lists in it are shared: read them only.
func Types() []Type {
	return append([]Type(nil), catalogue[:]...)
}

// TypeByName finds an event type by its full name, "fdc.task.created.v1".
func TypeByName(name string) (Type, bool) {
	t, ok := byName[name]
	if !ok {
		return Type{}, false
	}
	return *t, true
}

// TypeOf finds the event type that a payload belongs to.
func TypeOf(data Payload) (Type, bool) {
	t := typeOf(data)
	if t == nil {
		return Type{}, false
	}
	return *t, true
}

// typeOf is nil for nil and for a pointer to a payload.
func typeOf(data Payload) *Type {
	return byPayload[reflect.TypeOf(data)]
}
