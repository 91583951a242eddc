package httpapi

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/identity"
)

// FuzzAppendSession holds appendSession against the encoder and the DTO that the OpenAPI document describes.
func FuzzAppendSession(f *testing.F) {
	f.Add("Alice", "alice@example.com", "Home", int64(0), 0)
	f.Add("\"<\\\x00\xff\u2028é&", "a@b", "\t", int64(1<<40+1), 3)
	f.Fuzz(func(t *testing.T, name, email, place string, moment int64, n int) {
		s := identity.Session{
			ID: "s", User: identity.User{ID: "u", Email: email, Name: name, SystemRole: "USER"},
			CreatedAt: time.UnixMicro(moment % 1e17), ExpiresAt: time.Unix(1, 0), IdleExpiresAt: time.Unix(2, 3),
			Google: identity.Google{State: "connected", Scopes: []string{}},
		}
		for range n % 4 {
			s.Memberships = append(s.Memberships, identity.Membership{WorkspaceID: "w", Name: place, Role: "OWNER"})
			s.Google.Scopes = append(s.Google.Scopes, place)
		}
		dto := CurrentSession{
			User: User{ID: s.User.ID, Email: s.User.Email, Name: s.User.Name, SystemRole: s.User.SystemRole},
			Session: Session{
				ID: s.ID, CreatedAt: s.CreatedAt.UTC(), ExpiresAt: s.ExpiresAt.UTC(), IdleExpiresAt: s.IdleExpiresAt.UTC(),
			},
			Workspaces: each(s.Memberships, func(m identity.Membership) WorkspaceRole {
				return WorkspaceRole{ID: m.WorkspaceID, Name: m.Name, Role: m.Role}
			}),
			Google: GoogleConnection{State: s.Google.State, Scopes: s.Google.Scopes},
		}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		require.NoError(t, enc.Encode(dto))
		require.Equal(t, want.String(), string(appendSession(nil, s)))
	})
}
