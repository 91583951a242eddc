package events_test

import (
	"time"

	"fdc/events"
)

const (
	exampleEvent     = "01929000-0000-7000-8000-00000000000e"
	exampleUser      = "01929000-0000-7000-8000-0000000000a1"
	exampleMember    = "01929000-0000-7000-8000-0000000000a2"
	exampleWorkspace = "01929000-0000-7000-8000-0000000000b1"
	exampleSession   = "01929000-0000-7000-8000-0000000000c1"
	exampleTask      = "01929000-0000-7000-8000-0000000000d1"
	exampleJob       = "01929000-0000-7000-8000-0000000000f1"
	exampleInvite    = "01929000-0000-7000-8000-0000000000e1"
	exampleChat      = "01929000-0000-7000-8000-0000000000f2"
	exampleDigest    = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)

var (
	exampleTime = time.Date(2026, 3, 1, 9, 30, 15, 123456000, time.UTC)

	byUser = events.Meta{
		Source: "/fdc/api", ActorID: exampleUser, UserID: exampleUser, RequestID: "req-7f3a",
		IP: "203.0.113.7", UserAgent: "Mozilla/5.0 (X11; Linux x86_64)",
	}
	byMember = events.Meta{
		Source: "/fdc/api", ActorID: exampleUser, UserID: exampleUser, WorkspaceID: exampleWorkspace, RequestID: "req-7f3c",
		IP: "203.0.113.7", UserAgent: "Mozilla/5.0 (X11; Linux x86_64)",
	}
	// toMember is something that a user does for another one.
	toMember = events.Meta{
		Source: "/fdc/api", ActorID: exampleUser, UserID: exampleMember, RequestID: "req-7f3d",
		IP: "203.0.113.7", UserAgent: "Mozilla/5.0 (X11; Linux x86_64)",
	}
	asMember   = events.Meta{Source: "/fdc/api", ActorID: exampleMember, UserID: exampleMember, RequestID: "req-7f3e"}
	byStranger = events.Meta{
		Source: "/fdc/api", ActorID: events.AnonymousActor, RequestID: "req-7f3b", IP: "2001:db8::7", UserAgent: "curl/8.5.0",
	}
	bySyncer   = events.Meta{Source: "/fdc/syncer", ActorID: events.SystemActor}
	byArchiver = events.Meta{Source: "/fdc/audit-archiver", ActorID: events.SystemActor}
	byOperator = events.Meta{Source: "/fdc/fdc", ActorID: events.OperatorActor}
)

// examples holds one event of each type, every field of its payload filled: the golden files are made of them.
var examples = []events.Event{
	example(byUser, events.SessionCreated{SessionID: exampleSession, UserID: exampleUser, Version: 1, Method: "google"}),
	example(byUser, events.SessionRevoked{SessionID: exampleSession, UserID: exampleUser, Version: 2, Reason: events.RevokedLogout}),
	example(byUser, events.SessionRotated{SessionID: exampleSession, UserID: exampleUser, Version: 2, Reason: events.RotatedRoleChange}),
	example(byUser, events.SessionReauthenticated{SessionID: exampleSession, UserID: exampleUser, Version: 3}),
	example(byStranger, events.AuthLoginFailed{Reason: "email_unverified", Email: events.MaskEmail("alice@example.com")}),
	example(byMember, events.AccessDenied{Method: "GET", Route: "/api/workspaces/:id/audit-logs", Reason: "role"}),
	example(byStranger, events.UserCreated{UserID: exampleUser, Version: 1, Email: events.MaskEmail("alice@example.com")}),
	example(byOperator, events.UserRoleChanged{UserID: exampleUser, Version: 2, From: events.SystemRoleUser, To: events.SystemRoleAdmin}),
	example(byOperator, events.UserDisabled{UserID: exampleUser, Version: 3, Reason: "left the company"}),
	example(byOperator, events.UserEnabled{UserID: exampleUser, Version: 4, Reason: "came back"}),
	example(byOperator, events.UserErased{UserID: exampleUser, Version: 7, Reason: "asked by letter"}),
	example(byUser, events.WorkspaceRenamed{WorkspaceID: exampleWorkspace, Version: 6}),
	example(byUser, events.WorkspaceDeleted{
		WorkspaceID: exampleWorkspace, Version: 7, DocumentVersion: 8, PurgeAt: time.Date(2026, time.March, 31, 9, 30, 0, 0, time.UTC),
	}),
	example(byUser, events.WorkspaceRestored{WorkspaceID: exampleWorkspace, Version: 9}),
	example(byUser, events.WorkspaceCreated{WorkspaceID: exampleWorkspace, Version: 1}),
	example(byUser, events.WorkspaceDataUpdated{
		WorkspaceID: exampleWorkspace, Version: 8, Changed: events.Changed("/board/columns", "/board/title"), Bytes: 20480,
	}),
	example(byUser, events.WorkspaceMemberAdded{
		WorkspaceID: exampleWorkspace, Version: 2, UserID: exampleMember, Role: "MEMBER", Status: events.MemberInvited,
		Email: events.MaskEmail("bob@example.com"),
	}),
	example(byUser, events.WorkspaceMemberRoleChanged{
		WorkspaceID: exampleWorkspace, Version: 3, UserID: exampleMember, From: "MEMBER", To: "ADMIN",
	}),
	example(byUser, events.WorkspaceMemberRemoved{
		WorkspaceID: exampleWorkspace, Version: 4, UserID: exampleMember, Reason: events.MemberRemoved,
	}),
	example(byOperator, events.WorkspaceOwnerAppointed{
		WorkspaceID: exampleWorkspace, Version: 6, UserID: exampleMember, Reason: "the only owner left the company",
	}),
	example(toMember, events.InvitationCreated{
		InvitationID: exampleInvite, WorkspaceID: exampleWorkspace, Version: 1, Role: "MEMBER", Email: events.MaskEmail("bob@example.com"),
	}),
	example(toMember, events.InvitationResent{InvitationID: exampleInvite, WorkspaceID: exampleWorkspace, Version: 2}),
	example(toMember, events.InvitationWithdrawn{
		InvitationID: exampleInvite, WorkspaceID: exampleWorkspace, Version: 3, Reason: events.InvitationWithdrawnByMember,
	}),
	example(asMember, events.InvitationAccepted{InvitationID: exampleInvite, WorkspaceID: exampleWorkspace, Version: 3, Role: "MEMBER", UserID: exampleMember}),
	example(asMember, events.InvitationDeclined{InvitationID: exampleInvite, Version: 3, UserID: exampleMember}),
	example(byUser, events.TaskCreated{TaskID: exampleTask, WorkspaceID: exampleWorkspace, Version: 1, Origin: events.OriginUser}),
	example(byUser, events.TaskUpdated{
		TaskID: exampleTask, WorkspaceID: exampleWorkspace, Version: 2, Changed: events.Changed("title", "dueDate"),
		Origin: events.OriginUser,
	}),
	example(bySyncer, events.TaskDeleted{TaskID: exampleTask, WorkspaceID: exampleWorkspace, Version: 3, Origin: events.OriginGoogle}),
	example(byUser, events.GoogleConnected{UserID: exampleUser, Version: 1, Scopes: []string{
		"https://www.googleapis.com/auth/calendar", "https://www.googleapis.com/auth/tasks",
	}}),
	example(byUser, events.GoogleDisconnected{UserID: exampleUser, Version: 3, Reason: "user"}),
	example(bySyncer, events.GoogleReauthRequired{UserID: exampleUser, Version: 2, Reason: "invalid_grant"}),
	example(byUser, events.SyncRequested{
		JobID: exampleJob, UserID: exampleUser, Version: 1, Type: events.SyncFull, Mode: events.SyncIncremental,
		Trigger: events.TriggerUser,
	}),
	example(bySyncer, events.SyncStarted{
		JobID: exampleJob, UserID: exampleUser, Version: 2, Type: events.SyncFull, Mode: events.SyncIncremental, Attempt: 1,
	}),
	example(bySyncer, events.SyncCompleted{
		JobID: exampleJob, UserID: exampleUser, Version: 3, Type: events.SyncFull, Mode: events.SyncIncremental,
		Tasks:    events.SyncCounts{Created: 3, Updated: 2, Deleted: 1, Pushed: 4, Conflicts: 1},
		Calendar: events.SyncCounts{Created: 12, Failed: 1},
		APICalls: 9, Warnings: 1,
	}),
	example(bySyncer, events.SyncFailed{
		JobID: exampleJob, UserID: exampleUser, Version: 3, Type: events.SyncTasks, Mode: events.SyncResync, Attempt: 5,
		Code: "google_unavailable", Retryable: true,
	}),
	example(bySyncer, events.SyncRetried{
		JobID: exampleJob, UserID: exampleUser, Version: 3, Type: events.SyncTasks, Mode: events.SyncIncremental, Attempt: 1,
		Code: "google_unavailable", NotBefore: exampleTime.Add(2 * time.Second),
	}),
	example(byUser, events.SyncCancelled{JobID: exampleJob, UserID: exampleUser, Version: 3}),
	example(bySyncer, events.SyncProgress{JobID: exampleJob, UserID: exampleUser, Phase: "tasks", Done: 100, Total: 200}),
	example(byUser, events.OrgChartUpdated{
		WorkspaceID: exampleWorkspace, Version: 5, Changed: events.Changed(exampleTask), Departments: 4, Positions: 17,
	}),
	example(byUser, events.ChatCompleted{
		ChatID: exampleChat, UserID: exampleUser, Model: "gpt-4o-mini", PromptTokens: 412, CompletionTokens: 96, Cached: true,
	}),
	example(byOperator, events.FlagChanged{
		Name: "session_cache", Value: events.FlagOff, Reason: "stale reads after the upgrade", ExpiresAt: exampleTime.Add(time.Hour),
	}),
	example(byArchiver, events.AuditPartitionCreated{Month: "2026-07"}),
	example(byArchiver, events.AuditPartitionArchived{
		Month: "2024-02", Rows: 1204551, Bytes: 61865984, SHA256: exampleDigest, MerkleRoot: exampleDigest,
	}),
	example(byOperator, events.AuditPartitionRestored{Month: "2024-02", Rows: 1204551}),
	example(byMember, events.AuditExported{
		From: exampleTime.AddDate(0, -1, 0), To: exampleTime, Rows: 5120, Format: "csv",
	}),
	example(byMember, events.AuditViewed{From: exampleTime.AddDate(0, -1, 0), To: exampleTime, Format: "json"}),
	example(byArchiver, events.AuditPartitionsLow{Month: "2026-04", Ahead: 1}),
	example(byOperator, events.OpsReplayed{Consumer: "audit-archiver", Count: 250, FirstSequence: 1001, LastSequence: 1300}),
	example(byOperator, events.OpsDeadLetterRequeued{
		Consumer: "syncer", Sequence: 7, EventID: exampleJob, Reason: "fixed in the new release",
	}),
	example(byOperator, events.OpsDeadLetterDiscarded{
		Consumer: "syncer", Sequence: 8, EventID: exampleJob, Reason: "the account is gone",
	}),
	example(byOperator, events.OpsKeysRotated{Key: "v2", Resealed: 1840}),
}

func example(meta events.Meta, data events.Payload) events.Event {
	ev := events.New(meta, "", data)
	if ev.Subject == ev.ID {
		ev.Subject = exampleEvent
	}
	ev.ID, ev.Time = exampleEvent, exampleTime
	return ev
}

// exampleOf is the example of a type, found by its action, "task.created".
func exampleOf(action string) events.Event {
	for _, ev := range examples {
		if ev.Action() == action {
			return ev
		}
	}
	panic("no example of " + action)
}
