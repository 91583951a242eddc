package workspace

import (
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fdc/internal/platform/fault"
)

// The roles of members.
const (
	RoleOwner  = "OWNER"
	RoleAdmin  = "ADMIN"
	RoleMember = "MEMBER"
)

const (
	maxName  = 200
	maxEmail = 254 // RFC 5321, 4.5.3.1.3
)

// Workspace is one that the asking user is in, with that user's role.
type Workspace struct {
	ID        string
	Name      string
	Role      string
	CreatedAt time.Time
}

// Member is someone's place in a workspace.
type Member struct {
	UserID string
	Email  string
	Name   string
	Role   string
}

// mayManage reports whether an actor with one role may make, change or end a membership that has the other.
func mayManage(actor, member string) bool {
	switch actor {
	case RoleOwner:
		return true
	case RoleAdmin:
		return member != RoleOwner
	default:
		return false
	}
}

func forbidden(detail string) error {
	return fault.New(fault.Forbidden, "forbidden", "%s", detail)
}

func checkName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" || utf8.RuneCountInString(name) > maxName || !printable(name) {
		return "", fault.Wrong(fault.Field{Pointer: "/name", Detail: "Want 1 to 200 characters in one line."})
	}
	return name, nil
}

func checkRole(role string) []fault.Field {
	switch role {
	case RoleOwner, RoleAdmin, RoleMember:
		return nil
	default:
		return []fault.Field{{Pointer: "/role", Detail: "Want OWNER, ADMIN or MEMBER."}}
	}
}

func checkEmail(email string) (string, []fault.Field) {
	email = strings.TrimSpace(email)
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || len(email) > maxEmail || !printable(email) {
		return "", []fault.Field{{Pointer: "/email", Detail: "Want one email address, such as alice@example.com."}}
	}
	return email, nil
}

// printable reports whether s is UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
