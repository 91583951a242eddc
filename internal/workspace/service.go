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

// Create makes a workspace and its first OWNER.
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
	w := Workspace{ID: events.NewID(), Name: name, Role: RoleOwner}
	if w.CreatedAt, err = insertWorkspace(ctx, tx, w.ID, ownerID, name); err != nil {
		return Workspace{}, err
	}
	if _, err = insertMember(ctx, tx, w.ID, ownerID, RoleOwner); err != nil {
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

// Members lists who is in a workspace that the actor is in, in the order they came.
func (s *Service) Members(ctx context.Context, actorID, workspaceID string) ([]Member, error) {
	if _, err := s.Role(ctx, s.outbox.Pool(), actorID, workspaceID); err != nil {
		return nil, err
	}
	list, err := listMembers(ctx, s.outbox.Pool(), workspaceID)
	return list, about("list members", workspaceID, postgres.Fault(err))
}

// AddMember takes the user with an email address in, or invites the address. Someone who is a member or invited already
// is fault.Conflict.
func (s *Service) AddMember(ctx context.Context, meta events.Meta, actorID, workspaceID, email, role string) (Member, error) {
	email, wrong := checkEmail(email)
	wrong = append(wrong, checkRole(role)...)
	may := func(actor string) error {
		if !mayManage(actor, role) {
			return forbidden("Only an OWNER or ADMIN adds members, and only an OWNER adds an OWNER.")
		}
		return nil
	}
	var m Member
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		// Asked twice: now, so that nobody without the right makes a row or waits for a lock, and under the lock.
		actor, err := s.Role(ctx, tx, actorID, workspaceID)
		if err != nil {
			return err
		}
		if err := fault.Wrong(wrong...); err != nil {
			return err
		}
		if err := may(actor); err != nil {
			return err
		}
		userID, err := upsertInvited(ctx, tx, events.NewID(), email)
		if err != nil {
			return err
		}
		if actor, err = lockedRole(ctx, tx, actorID, workspaceID); err != nil {
			return err
		}
		if err := may(actor); err != nil {
			return err
		}
		added, err := insertMember(ctx, tx, workspaceID, userID, role)
		if err != nil {
			return err
		}
		if !added {
			return fault.New(fault.Conflict, "already-member", "This address is a member or invited already.")
		}
		if m, err = findMember(ctx, tx, workspaceID, userID); err != nil {
			return err
		}
		return s.tellAdded(ctx, tx, meta, workspaceID, m)
	})
	if err != nil {
		return Member{}, about("add member", workspaceID, err)
	}
	return m, nil
}

// bump gives the workspace and a user whose membership changed their next versions, and returns the workspace's.
func bump(ctx context.Context, tx pgx.Tx, workspaceID, userID string) (version int64, err error) {
	if err := bumpUser(ctx, tx, userID); err != nil {
		return 0, err
	}
	return bumpWorkspace(ctx, tx, workspaceID)
}

// tellAdded states that m is in the workspace.
func (s *Service) tellAdded(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID string, m Member) error {
	version, err := bump(ctx, tx, workspaceID, m.UserID)
	if err != nil {
		return err
	}
	added := events.WorkspaceMemberAdded{
		WorkspaceID: workspaceID, Version: version, UserID: m.UserID, Role: m.Role, Status: m.Status,
	}
	if m.Status == StatusInvited {
		added.Email = events.MaskEmail(m.Email)
	}
	return outbox.Append(ctx, tx, events.New(meta, "", added))
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
		if err := updateRole(ctx, tx, workspaceID, userID, role); err != nil {
			return err
		}
		m.Role = role
		if err := bumpRoles(ctx, tx, userID); err != nil {
			return err
		}
		version, err := bumpWorkspace(ctx, tx, workspaceID)
		if err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(meta, "", events.WorkspaceMemberRoleChanged{
			WorkspaceID: workspaceID, Version: version, UserID: userID, From: from, To: role,
		}))
	})
	if err != nil {
		return Member{}, about("set role of member "+userID, workspaceID, err)
	}
	return m, nil
}

// RemoveMember ends a membership or an invitation. Everyone may end their own (leave), but for the last OWNER:
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
		if _, err := deleteMember(ctx, tx, workspaceID, userID); err != nil {
			return err
		}
		return s.tellRemoved(ctx, tx, meta, workspaceID, userID, reason)
	})
	return about("remove member "+userID, workspaceID, err)
}

// JoinTx makes good, in the caller's transaction, the invitations of a user who signs in for the first time. The caller
// holds the user's row. When the person is known under another id already (an invitation went to an address that became
// theirs later), from and to differ: the memberships move, and what to has already stays as it is.
func (s *Service) JoinTx(ctx context.Context, tx pgx.Tx, meta events.Meta, from, to string) error {
	ids, err := workspacesOf(ctx, tx, from)
	if err != nil {
		return fmt.Errorf("list invitations of user %s: %w", from, err)
	}
	for _, id := range ids {
		if err := s.join(ctx, tx, meta, id, from, to); err != nil {
			return about("join user "+to, id, err)
		}
	}
	return nil
}

func (s *Service) join(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, from, to string) error {
	if err := lockWorkspace(ctx, tx, workspaceID); err != nil {
		return err
	}
	role, err := deleteMember(ctx, tx, workspaceID, from)
	if fault.KindOf(err) == fault.NotFound {
		return nil // withdrawn before the lock
	}
	if err != nil {
		return err
	}
	if from != to {
		if err := s.tellRemoved(ctx, tx, meta, workspaceID, from, events.MemberRemoved); err != nil {
			return err
		}
	}
	added, err := insertMember(ctx, tx, workspaceID, to, role)
	if err != nil || !added {
		return err
	}
	m, err := findMember(ctx, tx, workspaceID, to)
	if err != nil {
		return err
	}
	return s.tellAdded(ctx, tx, meta, workspaceID, m)
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
	if m.Role != RoleOwner || m.Status != StatusActive {
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
		changed := changedNames(before, after, change)
		if len(changed) == 0 {
			return nil
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
