package httpapi

import (
	"net/http"
	"strings"
	"time"

	"fdc/internal/workspace"
)

// Workspace is one that the user is in, or was in as its OWNER when it was deleted.
type Workspace struct {
	ID        string    `json:"id"        format:"uuid"             doc:"The workspace."`
	Name      string    `json:"name"      doc:"Its name."`
	Role      string    `json:"role"      enum:"OWNER|ADMIN|MEMBER" doc:"The user's role in it."`
	CreatedAt time.Time `json:"createdAt" doc:"When it was made."`

	DeletedAt *time.Time `json:"deletedAt,omitempty" doc:"When it was deleted; in the list of deleted ones only."`
	PurgeAt   *time.Time `json:"purgeAt,omitempty"   doc:"Until when it can be restored; in the list of deleted ones only."`
}

// WorkspaceName asks for a workspace to be renamed, or confirms which one is deleted.
type WorkspaceName struct {
	Name string `json:"name" min:"1" max:"200" doc:"The new name, in one line; of a workspace that is deleted, its name."`
}

// NewWorkspace asks for a workspace.
type NewWorkspace struct {
	Name string `json:"name" min:"1" max:"200" doc:"Its name: one line."`
}

// Member is a member of a workspace, or an open invitation to it.
type Member struct {
	UserID       *string    `json:"userId"       format:"uuid"             doc:"The member; null for an invitation."`
	InvitationID *string    `json:"invitationId" format:"uuid"             doc:"The invitation; null for a member."`
	Email        string     `json:"email"        doc:"The member's address, or the invited one as the inviter spelled it."`
	Name         string     `json:"name"         doc:"The member's name; empty for an invitation."`
	Role         string     `json:"role"         enum:"OWNER|ADMIN|MEMBER" doc:"The member's role, or the one that acceptance grants."`
	Status       string     `json:"status"       enum:"active|invited"     doc:"Active for a member, invited for an invitation."`
	ExpiresAt    *time.Time `json:"expiresAt"    doc:"End of the invitation; null for a member."`
}

// MemberRole asks to change a role.
type MemberRole struct {
	Role string `json:"role" enum:"OWNER|ADMIN|MEMBER" doc:"What they may do."`
}

func workspaceRoutes() []route {
	const tag = "workspaces"
	return []route{
		{
			method: http.MethodGet, path: "/api/workspaces", id: "listWorkspaces", tag: tag, query: append(paging(),
				flagParam("deleted", "Instead, the deleted ones that the user can restore.")),
			summary: "The workspaces that the user is in, oldest first.",
			answers: []answer{ok[Page[Workspace]](http.StatusOK, "A page of them.")},
			handle:  (*api).listWorkspaces,
		},
		{
			method: http.MethodPost, path: "/api/workspaces", id: "createWorkspace", tag: tag,
			summary: "Make a workspace; the user becomes its OWNER. A user can own 100 workspaces and be in 200.",
			body:    jsonBody[NewWorkspace](smallBody),
			answers: []answer{ok[Workspace](http.StatusCreated, "It.")},
			handle:  (*api).createWorkspace,
		},
		{
			method: http.MethodPatch, path: "/api/workspaces/{id}", id: "renameWorkspace", tag: tag,
			summary: "Rename a workspace. For OWNER.",
			body:    jsonBody[WorkspaceName](smallBody).orMerge(),
			answers: []answer{ok[Workspace](http.StatusOK, "The workspace.")},
			handle:  (*api).renameWorkspace,
		},
		{
			method: http.MethodDelete, path: "/api/workspaces/{id}", id: "deleteWorkspace", tag: tag,
			summary: "Delete a workspace, whose name the body repeats. For OWNER, who can restore it for 30 days.",
			body:    jsonBody[WorkspaceName](smallBody),
			answers: []answer{empty(http.StatusNoContent, "The workspace is deleted, for all its members.")},
			handle:  (*api).deleteWorkspace,
		},
		{
			method: http.MethodPost, path: "/api/workspaces/{id}:restore", id: "restoreWorkspace", tag: tag,
			summary: "Restore a deleted workspace with its members and data. For those who were OWNER of it.",
			answers: []answer{ok[Workspace](http.StatusOK, "The workspace.")},
			faults:  []int{http.StatusUnprocessableEntity},
			handle:  (*api).restoreWorkspace,
		},
		{
			method: http.MethodGet, path: "/api/workspaces/{id}/members", id: "listMembers", tag: tag, query: paging(),
			summary: "Members of a workspace and open invitations to it.",
			answers: []answer{ok[Page[Member]](http.StatusOK, "A page of members, then of invitations.")},
			handle:  (*api).listMembers,
		},
		{
			method: http.MethodPut, path: "/api/workspaces/{id}/members/{userId}", id: "setMemberRole", tag: tag,
			summary: "Change a member's role. For OWNER and ADMIN; only an OWNER touches an OWNER.",
			body:    jsonBody[MemberRole](smallBody),
			answers: []answer{ok[Member](http.StatusOK, "The member.")},
			reauth:  &reauth{when: "for another user's role", needed: func(c *call) bool { return c.path("userId") != c.user() }},
			faults:  []int{http.StatusConflict},
			handle:  (*api).setMemberRole,
		},
		{
			method: http.MethodDelete, path: "/api/workspaces/{id}/members/{userId}", id: "removeMember", tag: tag,
			summary: "Remove a member, or leave. The last OWNER who can sign in has to stay. Open invitations that the member sent end.",
			answers: []answer{empty(http.StatusNoContent, "The membership has ended.")},
			faults:  []int{http.StatusConflict},
			handle:  (*api).removeMember,
		},
	}
}

func workspaceOf(w workspace.Workspace) Workspace {
	return Workspace{ID: w.ID, Name: w.Name, Role: w.Role, CreatedAt: w.CreatedAt.UTC()}
}

func memberOf(m workspace.Member) Member {
	return Member{UserID: &m.UserID, Email: m.Email, Name: m.Name, Role: m.Role, Status: "active"}
}

func invitedOf(i workspace.Invitation) Member {
	expires := i.ExpiresAt.UTC()
	return Member{InvitationID: &i.ID, Email: i.Email, Role: i.Role, Status: "invited", ExpiresAt: &expires}
}

// key sorts members before invitations, and each by their ids.
func (m Member) key() string {
	if m.UserID != nil {
		return "0" + *m.UserID
	}
	return "1" + *m.InvitationID
}

// each converts a feature's list to DTOs.
func each[T, D any](list []T, convert func(T) D) []D {
	dtos := make([]D, len(list))
	for i, item := range list {
		dtos[i] = convert(item)
	}
	return dtos
}

func deletedOf(w workspace.Deleted) Workspace {
	dto := workspaceOf(w.Workspace)
	deleted, purge := w.DeletedAt.UTC(), w.PurgeAt.UTC()
	dto.DeletedAt, dto.PurgeAt = &deleted, &purge
	return dto
}

func (a *api) listDeleted(c *call) error {
	list, err := a.Workspaces.Deleted(c.ctx(), c.user())
	if err != nil {
		return err
	}
	p, err := paginate(c, each(list, deletedOf), func(w Workspace) string { return w.ID }, strings.Compare)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) renameWorkspace(c *call) error {
	var in WorkspaceName
	if err := c.decode(&in); err != nil {
		return err
	}
	w, members, err := a.Workspaces.Rename(c.ctx(), c.meta(), c.user(), c.path("id"), in.Name)
	if err != nil {
		return err
	}
	c.changed(members...)
	return c.json(http.StatusOK, workspaceOf(w))
}

func (a *api) deleteWorkspace(c *call) error {
	var in WorkspaceName
	if err := c.decode(&in); err != nil {
		return err
	}
	members, err := a.Workspaces.Delete(c.ctx(), c.meta(), c.user(), c.path("id"), in.Name)
	if err != nil {
		return err
	}
	c.changed(members...)
	c.documentChanged(true)
	return c.empty(http.StatusNoContent)
}

// documentChanged has the cache hear of a document that was deleted or restored with its workspace.
func (c *call) documentChanged(deleted bool) {
	if c.api.Documents == nil {
		return
	}
	doc, err := c.api.Workspaces.DocumentOf(c.ctx(), c.path("id"))
	switch {
	case err == nil && deleted:
		err = c.api.Documents.Withdraw(c.ctx(), map[string]int64{doc.WorkspaceID: doc.Version})
	case err == nil:
		err = c.api.Documents.Put(c.ctx(), doc.WorkspaceID, doc.Version, encodeDocument(doc))
	}
	if err != nil {
		c.api.Log.Debug().Err(err).Str("request_id", c.id).Msg("document not withdrawn; the invalidator does it")
	}
}

func (a *api) restoreWorkspace(c *call) error {
	w, members, err := a.Workspaces.Restore(c.ctx(), c.meta(), c.user(), c.path("id"))
	if err != nil {
		return err
	}
	c.changed(members...)
	c.documentChanged(false)
	return c.json(http.StatusOK, workspaceOf(w))
}

func (a *api) listWorkspaces(c *call) error {
	if deleted, _ := value[bool](c, "deleted"); deleted {
		return a.listDeleted(c)
	}
	list, err := a.Workspaces.List(c.ctx(), c.user())
	if err != nil {
		return err
	}
	p, err := paginate(c, each(list, workspaceOf), func(w Workspace) string { return w.ID }, strings.Compare)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) createWorkspace(c *call) error {
	var in NewWorkspace
	if err := c.decode(&in); err != nil {
		return err
	}
	w, err := a.Workspaces.Create(c.ctx(), c.meta(), c.user(), in.Name)
	if err != nil {
		return err
	}
	c.changed(c.user())
	return c.json(http.StatusCreated, workspaceOf(w))
}

func (a *api) listMembers(c *call) error {
	members, invitations, err := a.Workspaces.Members(c.ctx(), c.user(), c.path("id"))
	if err != nil {
		return err
	}
	list := append(each(members, memberOf), each(invitations, invitedOf)...)
	p, err := paginate(c, list, Member.key, strings.Compare)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) setMemberRole(c *call) error {
	var in MemberRole
	if err := c.decode(&in); err != nil {
		return err
	}
	m, err := a.Workspaces.SetRole(c.ctx(), c.meta(), c.user(), c.path("id"), c.path("userId"), in.Role)
	if err != nil {
		return err
	}
	c.changed(m.UserID)
	return c.json(http.StatusOK, memberOf(m))
}

func (a *api) removeMember(c *call) error {
	if err := a.Workspaces.RemoveMember(c.ctx(), c.meta(), c.user(), c.path("id"), c.path("userId")); err != nil {
		return err
	}
	c.changed(c.path("userId"))
	return c.empty(http.StatusNoContent)
}
