package httpapi

import (
	"net/http"
	"strings"
	"time"

	"fdc/internal/workspace"
)

// NewMember asks to invite an address.
type NewMember struct {
	Email string `json:"email" min:"3" max:"254"         doc:"Address to invite, known or not."`
	Role  string `json:"role"  enum:"OWNER|ADMIN|MEMBER" doc:"Role that acceptance grants."`
}

// Invited is an invitation as its workspace sees it.
type Invited struct {
	InvitationID string `json:"invitationId" format:"uuid"             doc:"The invitation."`
	Email        string `json:"email"        doc:"The invited address, as the inviter spelled it."`
	Role         string `json:"role"         enum:"OWNER|ADMIN|MEMBER" doc:"Role that acceptance grants."`
	Status       string `json:"status"       enum:"invited"            doc:"Always invited, whether the address is a user's or not."`
}

// Invitation is one that the user may accept or decline.
type Invitation struct {
	ID            string    `json:"id"            format:"uuid"             doc:"The invitation."`
	WorkspaceID   string    `json:"workspaceId"   format:"uuid"             doc:"The workspace."`
	WorkspaceName string    `json:"workspaceName" doc:"The workspace's name."`
	Role          string    `json:"role"          enum:"OWNER|ADMIN|MEMBER" doc:"Role that acceptance grants."`
	InvitedBy     string    `json:"invitedBy"     doc:"Address of the inviter; empty if that user is not known any more."`
	ExpiresAt     time.Time `json:"expiresAt"     doc:"End of the invitation."`
}

// Accepted is the membership that an acceptance made.
type Accepted struct {
	WorkspaceID string `json:"workspaceId" format:"uuid"             doc:"The workspace."`
	Role        string `json:"role"        enum:"OWNER|ADMIN|MEMBER" doc:"The user's role in it."`
}

func invitationRoutes() []route {
	const tag = "invitations"
	return []route{
		{
			method: http.MethodPost, path: "/api/workspaces/{id}/members", id: "addMember", tag: tag,
			summary: "Invite an address. For OWNER and ADMIN; only an OWNER invites an OWNER. Nobody is a member before accepting. " +
				"A workspace can have 500 members and send 50 invitations a day; invitations expire after 30 days.",
			body:    jsonBody[NewMember](smallBody),
			answers: []answer{ok[Invited](http.StatusCreated, "The invitation, the same for users and for unknown addresses.", "Location")},
			faults:  []int{http.StatusConflict},
			handle:  (*api).addMember,
		},
		{
			method: http.MethodDelete, path: "/api/workspaces/{id}/invitations/{invitationId}", id: "withdrawInvitation", tag: tag,
			summary: "Withdraw an invitation. For OWNER and ADMIN; only an OWNER withdraws an invitation as OWNER.",
			answers: []answer{empty(http.StatusNoContent, "The invitation has ended.")},
			handle:  (*api).withdrawInvitation,
		},
		{
			method: http.MethodPost, path: "/api/workspaces/{id}/invitations/{invitationId}:resend", id: "resendInvitation", tag: tag,
			summary: "Send an invitation again; it then expires in 30 days. It counts as one of the day's invitations.",
			answers: []answer{ok[Invited](http.StatusOK, "The invitation.")},
			faults:  []int{http.StatusUnprocessableEntity},
			handle:  (*api).resendInvitation,
		},
		{
			method: http.MethodGet, path: "/api/invitations", id: "listInvitations", tag: tag, query: paging(),
			summary: "Open invitations to the user's verified address, oldest first.",
			answers: []answer{ok[Page[Invitation]](http.StatusOK, "A page of invitations.")},
			handle:  (*api).listInvitations,
		},
		{
			method: http.MethodPost, path: "/api/invitations/{id}/accept", id: "acceptInvitation", tag: tag,
			summary: "Accept an invitation and become a member. A user can be in 200 workspaces and own 100.",
			answers: []answer{ok[Accepted](http.StatusOK, "The membership.")},
			faults:  []int{http.StatusUnprocessableEntity},
			handle:  (*api).acceptInvitation,
		},
		{
			method: http.MethodPost, path: "/api/invitations/{id}/decline", id: "declineInvitation", tag: tag,
			summary: "Decline an invitation.",
			answers: []answer{empty(http.StatusNoContent, "The invitation has ended.")},
			handle:  (*api).declineInvitation,
		},
	}
}

func sentOf(i workspace.Invitation) Invited {
	return Invited{InvitationID: i.ID, Email: i.Email, Role: i.Role, Status: "invited"}
}

func receivedOf(r workspace.Received) Invitation {
	return Invitation{
		ID: r.ID, WorkspaceID: r.WorkspaceID, WorkspaceName: r.WorkspaceName, Role: r.Role, InvitedBy: r.InvitedBy, ExpiresAt: r.ExpiresAt.UTC(),
	}
}

func (a *api) addMember(c *call) error {
	var in NewMember
	if err := c.decode(&in); err != nil {
		return err
	}
	i, err := a.Workspaces.Invite(c.ctx(), c.meta(), c.user(), c.path("id"), in.Email, in.Role)
	if err != nil {
		return err
	}
	c.setHeader("Location", "/api/workspaces/"+c.path("id")+"/invitations/"+i.ID)
	return c.json(http.StatusCreated, sentOf(i))
}

func (a *api) withdrawInvitation(c *call) error {
	if err := a.Workspaces.Withdraw(c.ctx(), c.meta(), c.user(), c.path("id"), c.path("invitationId")); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (a *api) resendInvitation(c *call) error {
	i, err := a.Workspaces.Resend(c.ctx(), c.meta(), c.user(), c.path("id"), c.path("invitationId"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, sentOf(i))
}

func (a *api) listInvitations(c *call) error {
	list, err := a.Workspaces.Received(c.ctx(), c.user())
	if err != nil {
		return err
	}
	p, err := paginate(c, each(list, receivedOf), func(i Invitation) string { return i.ID }, strings.Compare)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) acceptInvitation(c *call) error {
	w, err := a.Workspaces.Accept(c.ctx(), c.meta(), c.user(), c.path("id"))
	if err != nil {
		return err
	}
	c.changed(c.user())
	return c.json(http.StatusOK, Accepted{WorkspaceID: w.ID, Role: w.Role})
}

func (a *api) declineInvitation(c *call) error {
	if err := a.Workspaces.Decline(c.ctx(), c.meta(), c.user(), c.path("id")); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}
