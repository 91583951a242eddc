package push

import (
	"slices"
	"strings"
	"time"

	"fdc/events"
)

// Subscriber is whom a socket belongs to, as the session says at the moment it opens.
type Subscriber struct {
	UserID       string
	SessionID    string
	WorkspaceIDs []string
	Admin        bool      // system role SA
	ExpiresAt    time.Time // the session's end, if it is known; the zero time otherwise
}

// operators are the aggregates whose events only administrators get, whatever their scope.
var operators = []string{"auth", "access", "flag", "audit", "ops"}

// scopeOf says to whom the event may go: ScopeSystem is the administrators.
func scopeOf(ev events.Event) events.Scope {
	t, ok := events.TypeOf(ev.Data)
	if !ok || slices.Contains(operators, t.Aggregate) || ev.ScopeID() == events.SystemScope {
		return events.ScopeSystem
	}
	return t.Scope
}

// address is to whom an event goes.
type address struct {
	scope events.Scope
	id    string // of the workspace or the user; empty for administrators
}

func addressOf(ev events.Event) address {
	switch scope := scopeOf(ev); scope {
	case events.ScopeWorkspace:
		return address{scope, ev.WorkspaceID}
	case events.ScopeUser:
		return address{scope, ev.UserID}
	default:
		return address{scope: events.ScopeSystem}
	}
}

// change is what an event does to the scopes of one user's sockets.
type change struct {
	at        time.Time // when it was stored
	user      string
	session   string // revoked
	joins     string // workspace
	leaves    string // workspace
	role      bool   // the system role changed:
	adminThen bool   // to this
}

// changeOf reads an event's effect on sockets; false when it has none.
func changeOf(ev events.Event) (change, bool) {
	c := change{user: ev.UserID}
	switch data := ev.Data.(type) {
	case events.SessionRevoked:
		c.session = data.SessionID
	case events.UserRoleChanged:
		c.role, c.adminThen = true, data.To == events.SystemRoleAdmin
	case events.WorkspaceCreated:
		if ev.UserID == "" { // the owner
			return change{}, false
		}
		c.joins = data.WorkspaceID
	case events.WorkspaceMemberAdded:
		if data.Status != events.MemberActive {
			return change{}, false
		}
		c.joins = data.WorkspaceID
	case events.WorkspaceMemberRemoved:
		c.leaves = data.WorkspaceID
	default:
		return change{}, false
	}
	return c, true
}

// filters are the subjects in EVENTS of everything in the scopes.
func filters(user string, workspaces []string, admin bool) []string {
	list := make([]string, 0, len(workspaces)+2)
	for _, id := range append([]string{user}, workspaces...) {
		// Anything else could be a wildcard.
		if events.ValidID(id) {
			list = append(list, events.ScopeFilter(id))
		}
	}
	if admin {
		list = append(list, events.ScopeFilter(events.SystemScope))
	}
	slices.SortFunc(list, strings.Compare)
	return slices.Compact(list) // filters of one consumer must not overlap
}
