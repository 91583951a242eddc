package httpapi

import (
	"net/http"
	"strings"
	"time"

	"fdc/internal/workspace"
)

// Workspace is one that the user is in.
type Workspace struct {
	ID        string    `json:"id"        format:"uuid"             doc:"The workspace."`
	Name      string    `json:"name"      doc:"Its name."`
	Role      string    `json:"role"      enum:"OWNER|ADMIN|MEMBER" doc:"The user's role in it."`
	CreatedAt time.Time `json:"createdAt" doc:"When it was made."`
}

// NewWorkspace asks for a workspace.
type NewWorkspace struct {
	Name string `json:"name" min:"1" max:"200" doc:"Its name: one line."`
}

// Member is someone's place in a workspace.
type Member struct {
	UserID string `json:"userId" format:"uuid"             doc:"Who."`
	Email  string `json:"email"  doc:"Their address."`
	Name   string `json:"name"   doc:"Their name; empty until the first sign-in."`
	Role   string `json:"role"   enum:"OWNER|ADMIN|MEMBER" doc:"What they may do."`
	Status string `json:"status" enum:"active|invited"     doc:"Invited until the first sign-in."`
}

// NewMember asks to take someone in.
type NewMember struct {
	Email string `json:"email" min:"3" max:"254"         doc:"An address; unknown ones are invited."`
	Role  string `json:"role"  enum:"OWNER|ADMIN|MEMBER" doc:"What they may do."`
}

// MemberRole asks to change a role.
type MemberRole struct {
	Role string `json:"role" enum:"OWNER|ADMIN|MEMBER" doc:"What they may do."`
}

func workspaceRoutes() []route {
	const tag = "workspaces"
	return []route{
		{
			method: http.MethodGet, path: "/api/workspaces", id: "listWorkspaces", tag: tag, query: paging(),
			summary: "The workspaces that the user is in, oldest first.",
			answers: []answer{ok[Page[Workspace]](http.StatusOK, "A page of them.")},
			handle:  (*api).listWorkspaces,
		},
		{
			method: http.MethodPost, path: "/api/workspaces", id: "createWorkspace", tag: tag,
			summary: "Make a workspace; the user becomes its OWNER.",
			body:    jsonBody[NewWorkspace](smallBody),
			answers: []answer{ok[Workspace](http.StatusCreated, "It.")},
			handle:  (*api).createWorkspace,
		},
		{
			method: http.MethodGet, path: "/api/workspaces/{id}/members", id: "listMembers", tag: tag, query: paging(),
			summary: "Who is in a workspace or invited to it.",
			answers: []answer{ok[Page[Member]](http.StatusOK, "A page of them.")},
			handle:  (*api).listMembers,
		},
		{
			method: http.MethodPost, path: "/api/workspaces/{id}/members", id: "addMember", tag: tag,
			summary: "Take someone in, or invite them. For OWNER and ADMIN; only an OWNER makes an OWNER.",
			body:    jsonBody[NewMember](smallBody),
			answers: []answer{ok[Member](http.StatusCreated, "The member.", "Location")},
			faults:  []int{http.StatusConflict},
			handle:  (*api).addMember,
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
			summary: "Remove a member, or leave. The last OWNER can't go.",
			answers: []answer{empty(http.StatusNoContent, "They are gone.")},
			faults:  []int{http.StatusConflict},
			handle:  (*api).removeMember,
		},
	}
}

func workspaceOf(w workspace.Workspace) Workspace {
	return Workspace{ID: w.ID, Name: w.Name, Role: w.Role, CreatedAt: w.CreatedAt.UTC()}
}

func memberOf(m workspace.Member) Member {
	return Member{UserID: m.UserID, Email: m.Email, Name: m.Name, Role: m.Role, Status: m.Status}
}

// each converts a feature's list to DTOs.
func each[T, D any](list []T, convert func(T) D) []D {
	dtos := make([]D, len(list))
	for i, item := range list {
		dtos[i] = convert(item)
	}
	return dtos
}

func (a *api) listWorkspaces(c *call) error {
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
	list, err := a.Workspaces.Members(c.ctx(), c.user(), c.path("id"))
	if err != nil {
		return err
	}
	p, err := paginate(c, each(list, memberOf), func(m Member) string { return m.UserID }, strings.Compare)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *api) addMember(c *call) error {
	var in NewMember
	if err := c.decode(&in); err != nil {
		return err
	}
	m, err := a.Workspaces.AddMember(c.ctx(), c.meta(), c.user(), c.path("id"), in.Email, in.Role)
	if err != nil {
		return err
	}
	c.changed(m.UserID)
	c.setHeader("Location", "/api/workspaces/"+c.path("id")+"/members/"+m.UserID)
	return c.json(http.StatusCreated, memberOf(m))
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
