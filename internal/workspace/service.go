package workspace

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Service is the way to workspaces, their members and their documents. It is safe for concurrent use.
type Service struct {
	outbox *outbox.Outbox
}

// New returns a Service that writes through ob.
func New(ob *outbox.Outbox) *Service { return &Service{outbox: ob} }

// List gives the workspaces that a user is in, in the order they were joined.
func (s *Service) List(ctx context.Context, userID string) ([]Workspace, error) {
	list, err := listWorkspaces(ctx, s.outbox.Pool(), userID)
	if err != nil {
		return nil, fmt.Errorf("list workspaces of user %s: %w", userID, postgres.Fault(err))
	}
	return list, nil
}

// Create makes a workspace and its first OWNER. Past the limits of the user's workspaces it is fault.Invalid.
func (s *Service) Create(ctx context.Context, meta events.Meta, userID, name string) (Workspace, error) {
	var w Workspace
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		var err error
		w, err = s.create(ctx, tx, meta, userID, name)
		return err
	})
	if err != nil {
		return Workspace{}, fmt.Errorf("create workspace for user %s: %w", userID, err)
	}
	return w, nil
}

// CreateTx is Create in the caller's transaction. The event workspace.created names the owner as its userid.
func (s *Service) CreateTx(ctx context.Context, tx pgx.Tx, meta events.Meta, ownerID, name string) (id string, err error) {
	w, err := s.create(ctx, tx, meta, ownerID, name)
	if err != nil {
		return "", fmt.Errorf("create workspace for user %s: %w", ownerID, err)
	}
	return w.ID, nil
}

func (s *Service) create(ctx context.Context, tx pgx.Tx, meta events.Meta, ownerID, name string) (Workspace, error) {
	name, err := checkName(name)
	if err != nil {
		return Workspace{}, err
	}
	if err := lockUser(ctx, tx, ownerID); err != nil {
		return Workspace{}, err
	}
	if err := checkMemberships(ctx, tx, ownerID, RoleOwner); err != nil {
		return Workspace{}, err
	}
	w := Workspace{ID: events.NewID(), Name: name, Role: RoleOwner}
	if w.CreatedAt, err = insertWorkspace(ctx, tx, w.ID, ownerID, name); err != nil {
		return Workspace{}, err
	}
	if err = insertMember(ctx, tx, w.ID, ownerID, RoleOwner); err != nil {
		return Workspace{}, err
	}
	if err = insertDocument(ctx, tx, w.ID); err != nil {
		return Workspace{}, err
	}
	if err = bumpUser(ctx, tx, ownerID); err != nil {
		return Workspace{}, err
	}
	meta.UserID = ownerID
	return w, outbox.Append(ctx, tx, events.New(meta, "", events.WorkspaceCreated{WorkspaceID: w.ID, Version: 1}))
}

// Role is a user's role in a workspace; fault.NotFound when the user isn't in it.
func (s *Service) Role(ctx context.Context, q postgres.Querier, userID, workspaceID string) (string, error) {
	if !events.ValidID(workspaceID) {
		return "", fault.Missing("workspace")
	}
	role, err := roleOf(ctx, q, userID, workspaceID)
	return role, about("read role in", workspaceID, postgres.Fault(err))
}

// Members lists the members of a workspace that the actor is in, in the order in which they joined, and the open
// invitations to it.
func (s *Service) Members(ctx context.Context, actorID, workspaceID string) ([]Member, []Invitation, error) {
	if _, err := s.Role(ctx, s.outbox.Pool(), actorID, workspaceID); err != nil {
		return nil, nil, err
	}
	members, err := listMembers(ctx, s.outbox.Pool(), workspaceID)
	if err != nil {
		return nil, nil, about("list members", workspaceID, postgres.Fault(err))
	}
	invitations, err := listInvitations(ctx, s.outbox.Pool(), workspaceID)
	return members, invitations, about("list invitations", workspaceID, postgres.Fault(err))
}

// bump gives the workspace and a user whose membership changed their next versions, and returns the workspace's.
func bump(ctx context.Context, tx pgx.Tx, workspaceID, userID string) (version int64, err error) {
	if err := bumpUser(ctx, tx, userID); err != nil {
		return 0, err
	}
	return bumpWorkspace(ctx, tx, workspaceID)
}

// addMember makes the user a member, within the limits. The user and the workspace are locked.
func (s *Service) addMember(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, userID, role string) error {
	if err := checkMemberships(ctx, tx, userID, role); err != nil {
		return err
	}
	if err := checkMembers(ctx, tx, workspaceID, false); err != nil {
		return err
	}
	if err := insertMember(ctx, tx, workspaceID, userID, role); err != nil {
		return err
	}
	version, err := bump(ctx, tx, workspaceID, userID)
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, events.New(meta, "", events.WorkspaceMemberAdded{
		WorkspaceID: workspaceID, Version: version, UserID: userID, Role: role, Status: events.MemberActive,
	}))
}

// tellRemoved states that the user is not in the workspace any more.
func (s *Service) tellRemoved(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, userID, reason string) error {
	version, err := bump(ctx, tx, workspaceID, userID)
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, events.New(meta, "", events.WorkspaceMemberRemoved{
		WorkspaceID: workspaceID, Version: version, UserID: userID, Reason: reason,
	}))
}

// SetRole changes a member's role. The role that the member has already is no change: no event, no version. The last
// OWNER keeps the role: fault.Conflict.
func (s *Service) SetRole(ctx context.Context, meta events.Meta, actorID, workspaceID, userID, role string) (Member, error) {
	var m Member
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		actor, err := s.lockMember(ctx, tx, actorID, workspaceID, userID)
		if err != nil {
			return err
		}
		if err := fault.Wrong(checkRole(role)...); err != nil {
			return err
		}
		const detail = "Only an OWNER or ADMIN changes roles, and only an OWNER those of and to OWNER."
		if !mayManage(actor, role) {
			return forbidden(detail)
		}
		if m, err = knownMember(ctx, tx, workspaceID, userID); err != nil {
			return err
		}
		if !mayManage(actor, m.Role) {
			return forbidden(detail)
		}
		from := m.Role
		if from == role {
			return nil
		}
		if err := keepOwner(ctx, tx, workspaceID, m); err != nil {
			return err
		}
		m.Role = role
		return s.changeRole(ctx, tx, meta, workspaceID, userID, from, role)
	})
	if err != nil {
		return Member{}, about("set role of member "+userID, workspaceID, err)
	}
	return m, nil
}

// changeRole gives a member another role, within the limits. The user and the workspace are locked.
func (s *Service) changeRole(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, userID, from, to string) error {
	if to == RoleOwner {
		if err := checkOwned(ctx, tx, userID); err != nil {
			return err
		}
	}
	if err := updateRole(ctx, tx, workspaceID, userID, to); err != nil {
		return err
	}
	if err := bumpRoles(ctx, tx, userID); err != nil {
		return err
	}
	version, err := bumpWorkspace(ctx, tx, workspaceID)
	if err != nil {
		return err
	}
	if err := outbox.Append(ctx, tx, events.New(meta, "", events.WorkspaceMemberRoleChanged{
		WorkspaceID: workspaceID, Version: version, UserID: userID, From: from, To: to,
	})); err != nil {
		return err
	}
	return withdrawOf(ctx, tx, meta, workspaceID, userID, to)
}

// RemoveMember ends a membership, and the open invitations that the member sent. Everyone may end their own (leave), but for the last OWNER:
// fault.Conflict.
func (s *Service) RemoveMember(ctx context.Context, meta events.Meta, actorID, workspaceID, userID string) error {
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		actor, err := s.lockMember(ctx, tx, actorID, workspaceID, userID)
		if err != nil {
			return err
		}
		const detail = "Only an OWNER or ADMIN removes others, and only an OWNER removes an OWNER."
		reason := events.MemberLeft
		if userID != actorID {
			reason = events.MemberRemoved
			if !mayManage(actor, RoleMember) {
				return forbidden(detail)
			}
		}
		m, err := knownMember(ctx, tx, workspaceID, userID)
		if err != nil {
			return err
		}
		if userID != actorID && !mayManage(actor, m.Role) {
			return forbidden(detail)
		}
		if err := keepOwner(ctx, tx, workspaceID, m); err != nil {
			return err
		}
		if err := deleteMember(ctx, tx, workspaceID, userID); err != nil {
			return err
		}
		if err := s.tellRemoved(ctx, tx, meta, workspaceID, userID, reason); err != nil {
			return err
		}
		return withdrawOf(ctx, tx, meta, workspaceID, userID, "")
	})
	return about("remove member "+userID, workspaceID, err)
}

// lockMember locks a user and then the workspace, and reads the actor's role in it. Who isn't in it locks nobody.
func (s *Service) lockMember(ctx context.Context, tx pgx.Tx, actorID, workspaceID, userID string) (string, error) {
	role, err := s.Role(ctx, tx, actorID, workspaceID)
	if err != nil || !events.ValidID(userID) {
		return role, err
	}
	if err := lockUser(ctx, tx, userID); err != nil {
		return "", err
	}
	return lockedRole(ctx, tx, actorID, workspaceID)
}

// lockedRole locks the workspace and then reads the actor's role in it, so that the role is the one of this moment.
func lockedRole(ctx context.Context, tx pgx.Tx, actorID, workspaceID string) (string, error) {
	if !events.ValidID(workspaceID) {
		return "", fault.Missing("workspace")
	}
	if err := lockWorkspace(ctx, tx, workspaceID); err != nil {
		return "", err
	}
	return roleOf(ctx, tx, actorID, workspaceID)
}

func knownMember(ctx context.Context, tx pgx.Tx, workspaceID, userID string) (Member, error) {
	if !events.ValidID(userID) {
		return Member{}, fault.Missing("member")
	}
	return findMember(ctx, tx, workspaceID, userID)
}

// keepOwner refuses to let the last OWNER who can sign in go. The workspace is locked.
func keepOwner(ctx context.Context, tx pgx.Tx, workspaceID string, m Member) error {
	if m.Role != RoleOwner {
		return nil
	}
	other, err := hasOtherOwner(ctx, tx, workspaceID, m.UserID)
	if err != nil || other {
		return err
	}
	return fault.New(fault.Conflict, "last-owner", "A workspace needs an OWNER; make another member OWNER first.")
}

// Data reads the document for a member.
func (s *Service) Data(ctx context.Context, userID, workspaceID string) (Document, error) {
	if !events.ValidID(workspaceID) {
		return Document{}, fault.Missing("workspace")
	}
	d, err := readDocument(ctx, s.outbox.Pool(), userID, workspaceID, "")
	if err != nil {
		return Document{}, about("read document", workspaceID, postgres.Fault(err))
	}
	return d.document(workspaceID), nil
}

// DocumentOf reads the document for whoever has made sure of the right to it, or for a cache that holds it for such.
func (s *Service) DocumentOf(ctx context.Context, workspaceID string) (Document, error) {
	d, err := findDocument(ctx, s.outbox.Pool(), workspaceID)
	if err != nil {
		return Document{}, about("read document", workspaceID, postgres.Fault(err))
	}
	return d.document(workspaceID), nil
}

// PutData replaces the document. It always makes a new version. Without expectations the last writer wins. Wrong places
// are told as pointers into the request's body, where the document is the member data.
func (s *Service) PutData(ctx context.Context, meta events.Meta, userID, workspaceID string, data json.RawMessage, want Expect) (Document, error) {
	if !events.ValidID(workspaceID) {
		return Document{}, fault.Missing("workspace")
	}
	v, err := parseObject(data, "/data")
	if err != nil {
		return Document{}, err
	}
	compact, err := encode(v, v.expansion)
	if err != nil {
		return Document{}, err
	}
	doc := Document{WorkspaceID: workspaceID, Data: compact}
	err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		r, err := replaceDocument(ctx, tx, userID, workspaceID, compact, want)
		if err != nil {
			return err
		}
		if err := want.check(r.Current); err != nil {
			return err
		}
		doc.Stored, doc.Version, doc.LastModified = r.Data, *r.Version, *r.LastModified
		return tellWritten(ctx, tx, meta, doc, r.Changed)
	})
	if err != nil {
		return Document{}, about("replace document", workspaceID, err)
	}
	return doc, nil
}

// PatchData merges a JSON Merge Patch (RFC 7396) into the newest version of the document. A patch that changes nothing
// gives back that version.
func (s *Service) PatchData(ctx context.Context, meta events.Meta, userID, workspaceID string, patch json.RawMessage, want Expect) (Document, error) {
	if !events.ValidID(workspaceID) {
		return Document{}, fault.Missing("workspace")
	}
	change, err := parseObject(patch, "")
	if err != nil {
		return Document{}, err
	}
	var doc Document
	err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		row, err := readDocument(ctx, tx, userID, workspaceID, lockDocument)
		if err != nil {
			return err
		}
		doc = row.document(workspaceID)
		if err := want.check(doc.Version); err != nil {
			return err
		}
		before, err := parseObject(row.Data, "")
		if err != nil {
			return err
		}
		after := merge(before, change)
		changed, err := changedNames(ctx, before, after, change)
		if err != nil || len(changed) == 0 {
			return err
		}
		if doc.Data, err = encode(after, change.expansion); err != nil {
			return err
		}
		if row, err = updateDocument(ctx, tx, workspaceID, doc.Data); err != nil {
			return err
		}
		doc.Stored, doc.Version, doc.LastModified = row.Data, row.Version, row.LastModified
		return tellWritten(ctx, tx, meta, doc, changed)
	})
	if err != nil {
		return Document{}, about("patch document", workspaceID, err)
	}
	return doc, nil
}

func tellWritten(ctx context.Context, tx pgx.Tx, meta events.Meta, doc Document, changed []string) error {
	paths := make([]string, len(changed))
	for i, name := range changed {
		paths[i] = pointer(name)
	}
	return outbox.Append(ctx, tx, events.New(meta, "", events.WorkspaceDataUpdated{
		WorkspaceID: doc.WorkspaceID, Version: doc.Version, Changed: events.Changed(paths...), Bytes: int64(len(doc.Data)),
	}))
}
