package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"
)

// The table is what users rely on: a route added or lost is a decision, made here.
func TestTheRoutes(t *testing.T) {
	t.Parallel()
	var got []string
	for _, r := range routes() {
		got = append(got, r.method+" "+r.path)
	}
	slices.Sort(got)
	require.Equal(t, strings.Fields(strings.ReplaceAll(`
		DELETE_/api/auth/sessions
		DELETE_/api/auth/sessions/{id}
		DELETE_/api/google/sync
		DELETE_/api/users/me
		DELETE_/api/workspaces/{id}
		DELETE_/api/workspaces/{id}/invitations/{invitationId}
		DELETE_/api/workspaces/{id}/members/{userId}
		DELETE_/api/workspaces/{id}/tasks/{taskId}
		GET_/
		GET_/api/auth/callback
		GET_/api/auth/login
		GET_/api/auth/session
		GET_/api/auth/sessions
		GET_/api/calendar/events
		GET_/api/events
		GET_/api/google/calendars
		GET_/api/google/connect
		GET_/api/google/settings
		GET_/api/google/sync
		GET_/api/google/tasklists
		GET_/api/health
		GET_/api/health/deep
		GET_/api/invitations
		GET_/api/openapi.json
		GET_/api/schemas/{eventType}
		GET_/api/users/me/export
		GET_/api/workspaces
		GET_/api/workspaces/{id}/audit-logs
		GET_/api/workspaces/{id}/data
		GET_/api/workspaces/{id}/members
		GET_/api/workspaces/{id}/tasks
		GET_/api/workspaces/{id}/tasks/{taskId}
		GET_/api/ws
		GET_/assets/{name}
		GET_/ops
		GET_/ops/status
		PATCH_/api/workspaces/{id}
		PATCH_/api/workspaces/{id}/data
		PATCH_/api/workspaces/{id}/tasks/{taskId}
		POST_/api/auth/logout
		POST_/api/google/disconnect
		POST_/api/google/sync
		POST_/api/google/webhook
		POST_/api/invitations/{id}/accept
		POST_/api/invitations/{id}/decline
		POST_/api/workspaces
		POST_/api/workspaces/{id}/invitations/{invitationId}:resend
		POST_/api/workspaces/{id}/members
		POST_/api/workspaces/{id}/tasks
		POST_/api/workspaces/{id}:restore
		PUT_/api/google/settings
		PUT_/api/workspaces/{id}/data
		PUT_/api/workspaces/{id}/members/{userId}`, "_", "\x00")), strings.Fields(strings.ReplaceAll(strings.Join(got, "\n"), " ", "\x00")))
}

func TestTheTableIsWhole(t *testing.T) {
	t.Parallel()
	bodiless := []string{"logout", "disconnectGoogle", "googleWebhook", "acceptInvitation", "declineInvitation", "resendInvitation", "restoreWorkspace"}
	ids := make(map[string]bool)
	for _, r := range routes() {
		require.False(t, ids[r.id], "two operations are called %s", r.id)
		ids[r.id] = true
		require.NotEmpty(t, r.tag, r.id)
		require.NotNil(t, r.handle, r.id)
		require.NotEmpty(t, r.answers, r.id)
		require.True(t, strings.HasSuffix(r.summary, ".") || strings.HasSuffix(r.summary, "?"), r.id)
		require.Equal(t, r.body != nil, slices.Contains([]string{http.MethodPut, http.MethodPatch}, r.method) ||
			r.method == http.MethodPost && !slices.Contains(bodiless, r.id) || r.id == "deleteWorkspace", r.id)
		// Google has no session: its token says who it is.
		require.Equal(t, r.id == "googleWebhook", r.unsafe() && r.public, r.id)
		require.Equal(t, r.id == "googleWebhook", r.charges, r.id)
		// A stranger at an operator's open browser must not change anything with it.
		if r.unsafe() && (strings.HasPrefix(r.path, "/ops") || strings.HasPrefix(r.path, "/api/ops/")) {
			require.NotNil(t, r.reauth, r.id)
		}
		require.False(t, r.reauth != nil && r.public, "%s: only a session has been at Google", r.id)
		for _, p := range r.query {
			require.NotNil(t, p.parse, "%s: %s", r.id, p.name)
			require.NotEmpty(t, p.doc, "%s: %s", r.id, p.name)
			_, err := p.parse("\x00")
			require.Error(t, err, "%s: %s takes control characters", r.id, p.name)
			if p.fallback != "" {
				_, err := p.parse(p.fallback)
				require.NoError(t, err)
			}
		}
	}
}

func TestTheDocumentIsWhole(t *testing.T) {
	t.Parallel()
	var doc struct {
		OpenAPI    string                               `json:"openapi"`
		Paths      map[string]map[string]map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]*jsonschema.Schema `json:"schemas"`
		} `json:"components"`
	}
	text := document(routes(), "https://fdc.example", "__Host-fdc_session")
	require.NoError(t, json.Unmarshal(text, &doc))
	require.Equal(t, "3.1.0", doc.OpenAPI)
	for name, s := range doc.Components.Schemas {
		_, err := within(t, text, s).Resolve(nil)
		require.NoError(t, err, name)
		require.NotEmpty(t, s.Type, name)
		for field, p := range s.Properties {
			if !strings.HasSuffix(name, "Field") { // fault.Field
				require.NotEmpty(t, p.Description, "%s.%s", name, field)
			}
		}
	}
	// Every reference leads somewhere.
	for ref := range strings.SplitSeq(string(text), `"$ref":"#/components/schemas/`) {
		if name, _, ok := strings.Cut(ref, `"`); ok && !strings.HasPrefix(ref, "{") {
			require.Contains(t, doc.Components.Schemas, name)
		}
	}
	require.Equal(t, []any{"null", "string"}, typesOf(t, doc.Components.Schemas["Task"].Properties["dueDate"]))
	require.Equal(t, []any{"todo", "done"}, doc.Components.Schemas["Task"].Properties["status"].Enum)
	require.ElementsMatch(t, []string{"title"}, doc.Components.Schemas["NewTask"].Required)
}

// The document says which operations want a recent sign-in.
func TestTheDocumentNamesReauthentication(t *testing.T) {
	t.Parallel()
	var doc struct {
		Paths map[string]map[string]struct {
			ID        string         `json:"operationId"`
			About     string         `json:"description"`
			Responses map[string]any `json:"responses"`
		} `json:"paths"`
	}
	require.NoError(t, json.Unmarshal(document(append(routes(), route{
		method: http.MethodPost, path: "/api/test", id: "test", tag: "test", reauth: always,
	}), "https://fdc.example", "__Host-fdc_session"), &doc))
	about := map[string]string{}
	for _, operations := range doc.Paths {
		for _, op := range operations {
			if op.About != "" {
				about[op.ID] = op.About
				require.Contains(t, op.Responses, "403", op.ID)
			}
		}
	}
	const within, otherwise = "Needs a sign-in with Google within the last 10 minutes", "; else 403 reauthentication-required, whose loginUrl leads to Google and back."
	require.Equal(t, map[string]string{
		"connectGoogle": within + " with switch=true" + otherwise,
		"eraseUser":     within + otherwise,
		"setMemberRole": within + " for another user's role" + otherwise,
		"test":          within + otherwise,
	}, about)
}

func typesOf(t *testing.T, s *jsonschema.Schema) []any {
	t.Helper()
	var types []any
	for _, name := range s.Types {
		types = append(types, name)
	}
	return types
}

// within makes a schema of the document one that stands alone, with the document's components as its definitions.
func within(t *testing.T, document []byte, s *jsonschema.Schema) *jsonschema.Schema {
	t.Helper()
	var doc struct {
		Components struct {
			Schemas json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	require.NoError(t, json.Unmarshal(document, &doc))
	text, err := json.Marshal(map[string]any{"$defs": doc.Components.Schemas, "allOf": []any{s}})
	require.NoError(t, err)
	var alone jsonschema.Schema
	require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(string(text), "#/components/schemas/", "#/$defs/")), &alone))
	return &alone
}
