package events

import "time"

// A member's status, for [WorkspaceMemberAdded].
const (
	MemberActive  = "active"
	MemberInvited = "invited" // in events from before invitations had events of their own
)

// How a membership ended, for [WorkspaceMemberRemoved].
const (
	MemberRemoved = "removed"
	MemberLeft    = "left"

	MemberWorkspaceDeleted = "workspace_deleted"
)

// WorkspaceCreated is the data of workspace.created.
type WorkspaceCreated struct {
	WorkspaceID string `json:"workspaceId" rule:"id"      doc:"The workspace."`
	Version     int64  `json:"version"     rule:"version" doc:"The workspace's version after the fact."`
}

func (p WorkspaceCreated) key() key { return workspaceKey(p.WorkspaceID, p.Version, "") }

// WorkspaceMemberAdded is the data of workspace.member_added.
type WorkspaceMemberAdded struct {
	WorkspaceID string `json:"workspaceId"     rule:"id"      doc:"The workspace."`
	Version     int64  `json:"version"         rule:"version" doc:"The workspace's version after the fact."`
	UserID      string `json:"userId"          rule:"id"      doc:"The member."`
	Role        string `json:"role"            rule:"enum"    values:"OWNER|ADMIN|MEMBER" doc:"The member's role."`
	Status      string `json:"status"          rule:"enum"    values:"active|invited" doc:"Always active; invited in events from before invitation.created."`
	Email       string `json:"email,omitempty" rule:"email"   doc:"The invited address, masked, where the status is invited."`
}

func (p WorkspaceMemberAdded) key() key { return workspaceKey(p.WorkspaceID, p.Version, p.UserID) }

// WorkspaceMemberRoleChanged is the data of workspace.member_role_changed.
type WorkspaceMemberRoleChanged struct {
	WorkspaceID string `json:"workspaceId" rule:"id"      doc:"The workspace."`
	Version     int64  `json:"version"     rule:"version" doc:"The workspace's version after the fact."`
	UserID      string `json:"userId"      rule:"id"      doc:"The member."`
	From        string `json:"from"        rule:"enum"    values:"OWNER|ADMIN|MEMBER" doc:"The role before."`
	To          string `json:"to"          rule:"enum"    values:"OWNER|ADMIN|MEMBER" doc:"The role since."`
}

func (p WorkspaceMemberRoleChanged) key() key {
	return workspaceKey(p.WorkspaceID, p.Version, p.UserID)
}

// WorkspaceMemberRemoved is the data of workspace.member_removed.
type WorkspaceMemberRemoved struct {
	WorkspaceID string `json:"workspaceId" rule:"id"      doc:"The workspace."`
	Version     int64  `json:"version"     rule:"version" doc:"The workspace's version after the fact."`
	UserID      string `json:"userId"      rule:"id"      doc:"Who is a member no longer."`
	Reason      string `json:"reason"      rule:"word"    values:"removed|left|workspace_deleted" doc:"Whose doing it was."`
}

func (p WorkspaceMemberRemoved) key() key { return workspaceKey(p.WorkspaceID, p.Version, p.UserID) }

// WorkspaceOwnerAppointed is the data of workspace.owner_appointed.
type WorkspaceOwnerAppointed struct {
	WorkspaceID string `json:"workspaceId" rule:"id"      doc:"The workspace."`
	Version     int64  `json:"version"     rule:"version" doc:"The workspace's version after the fact."`
	UserID      string `json:"userId"      rule:"id"      doc:"The new OWNER."`
	Reason      string `json:"reason"      rule:"text"    doc:"Why, in the operator's words."`
}

func (p WorkspaceOwnerAppointed) key() key { return workspaceKey(p.WorkspaceID, p.Version, p.UserID) }

// WorkspaceRenamed is the data of workspace.renamed.
type WorkspaceRenamed struct {
	WorkspaceID string `json:"workspaceId" rule:"id"      doc:"The workspace."`
	Version     int64  `json:"version"     rule:"version" doc:"The workspace's version after the fact."`
}

func (p WorkspaceRenamed) key() key { return workspaceKey(p.WorkspaceID, p.Version, "") }

// WorkspaceDeleted is the data of workspace.deleted.
type WorkspaceDeleted struct {
	WorkspaceID     string    `json:"workspaceId"     rule:"id"      doc:"The workspace."`
	Version         int64     `json:"version"         rule:"version" doc:"The workspace's version after the fact."`
	DocumentVersion int64     `json:"documentVersion" rule:"count"   doc:"The version of its document."`
	PurgeAt         time.Time `json:"purgeAt"         rule:"time"    doc:"Until when it can be restored."`
}

func (p WorkspaceDeleted) key() key { return workspaceKey(p.WorkspaceID, p.Version, "") }

// WorkspaceRestored is the data of workspace.restored.
type WorkspaceRestored struct {
	WorkspaceID string `json:"workspaceId" rule:"id"      doc:"The workspace."`
	Version     int64  `json:"version"     rule:"version" doc:"The workspace's version after the fact."`
}

func (p WorkspaceRestored) key() key { return workspaceKey(p.WorkspaceID, p.Version, "") }

func workspaceKey(id string, version int64, user string) key {
	return key{aggregate: "workspace", id: id, version: version, workspace: id, user: user}
}

// WorkspaceDataUpdated is the data of workspace.data_updated. The document counts its own versions, so it is an aggregate
// of its own beside the workspace.
type WorkspaceDataUpdated struct {
	WorkspaceID string   `json:"workspaceId"       rule:"id"      doc:"The workspace."`
	Version     int64    `json:"version"           rule:"version" doc:"The document's version after the fact."`
	Changed     []string `json:"changed,omitempty" rule:"paths"   doc:"What changed, as JSON pointers; * when too much did."`
	Bytes       int64    `json:"bytes"             rule:"count"   doc:"The document's size."`
}

func (p WorkspaceDataUpdated) key() key {
	return key{aggregate: "workspace_data", id: p.WorkspaceID, version: p.Version, workspace: p.WorkspaceID}
}
