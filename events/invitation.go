package events

// Why an invitation ended that was not answered, for [InvitationWithdrawn].
const (
	InvitationWithdrawnByMember = "withdrawn" // by an OWNER or ADMIN
	InvitationExpired           = "expired"
	InvitationInviterLeft       = "inviter_left"     // the inviter left, or may not grant the role any more
	InvitationSuperseded        = "already_a_member" // an operator appointed the invitee
)

// Before the answer, the payloads of invitations name no user: a workspace's audit log must not tell whether an address has
// an account. The envelope's userid is the invitee, if the address is a user's.

// InvitationCreated is the data of invitation.created.
type InvitationCreated struct {
	InvitationID string `json:"invitationId" rule:"id"      doc:"The invitation."`
	WorkspaceID  string `json:"workspaceId"  rule:"id"      doc:"The workspace."`
	Version      int64  `json:"version"      rule:"version" doc:"The invitation's version after the fact."`
	Role         string `json:"role"         rule:"enum"    values:"OWNER|ADMIN|MEMBER" doc:"The role that acceptance grants."`
	Email        string `json:"email"        rule:"email"   doc:"The invited address, masked."`
}

func (p InvitationCreated) key() key { return invitationKey(p.InvitationID, p.Version, p.WorkspaceID) }

// InvitationResent is the data of invitation.resent.
type InvitationResent struct {
	InvitationID string `json:"invitationId" rule:"id"      doc:"The invitation."`
	WorkspaceID  string `json:"workspaceId"  rule:"id"      doc:"The workspace."`
	Version      int64  `json:"version"      rule:"version" doc:"The invitation's version after the fact."`
}

func (p InvitationResent) key() key { return invitationKey(p.InvitationID, p.Version, p.WorkspaceID) }

// InvitationWithdrawn is the data of invitation.withdrawn.
type InvitationWithdrawn struct {
	InvitationID string `json:"invitationId" rule:"id"      doc:"The invitation."`
	WorkspaceID  string `json:"workspaceId"  rule:"id"      doc:"The workspace."`
	Version      int64  `json:"version"      rule:"version" doc:"The invitation's version after the fact."`
	Reason       string `json:"reason"       rule:"word"    values:"withdrawn|expired|inviter_left|already_a_member" doc:"Why the invitation ended."`
}

func (p InvitationWithdrawn) key() key {
	return invitationKey(p.InvitationID, p.Version, p.WorkspaceID)
}

// InvitationAccepted is the data of invitation.accepted.
type InvitationAccepted struct {
	InvitationID string `json:"invitationId" rule:"id"      doc:"The invitation."`
	WorkspaceID  string `json:"workspaceId"  rule:"id"      doc:"The workspace."`
	Version      int64  `json:"version"      rule:"version" doc:"The invitation's version after the fact."`
	Role         string `json:"role"         rule:"enum"    values:"OWNER|ADMIN|MEMBER" doc:"The role that the user has since."`
	UserID       string `json:"userId"       rule:"id"      doc:"The invitee."`
}

func (p InvitationAccepted) key() key {
	k := invitationKey(p.InvitationID, p.Version, p.WorkspaceID)
	k.user = p.UserID
	return k
}

// InvitationDeclined is the data of invitation.declined. It names no workspace: the audit log of a workspace would hold
// the client address of somebody who wants nothing to do with it.
type InvitationDeclined struct {
	InvitationID string `json:"invitationId" rule:"id"      doc:"The invitation."`
	Version      int64  `json:"version"      rule:"version" doc:"The invitation's version after the fact."`
	UserID       string `json:"userId"       rule:"id"      doc:"The invitee."`
}

func (p InvitationDeclined) key() key {
	return key{aggregate: "invitation", id: p.InvitationID, version: p.Version, user: p.UserID}
}

func invitationKey(id string, version int64, workspace string) key {
	return key{aggregate: "invitation", id: id, version: version, workspace: workspace}
}
