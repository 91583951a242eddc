package httpapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"fdc/internal/platform/bus"
)

// An invitation to a user's address and one to an unknown address look the same to the inviter, everywhere: in the answer, in
// the members list, in the workspace's audit log and on the inviter's socket. The invitee hears of it at once.
func TestAnInvitationDoesNotTellWhoHasAnAccount(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice"), w.signIn("bob")
	home := alice.home()
	ws := "/api/workspaces/" + home
	inviters, _ := alice.dial("", nil)
	invitees, _ := bob.dial("", nil)
	require.Equal(t, "ready", hear(t, inviters).Type)
	require.Equal(t, "ready", hear(t, invitees).Type)

	// like is text about an invitation with what is its own taken out.
	invite := func(email string) (id string, like func(text string) string) {
		t.Helper()
		r := alice.send(http.MethodPost, ws+"/members", object{"email": email, "role": "ADMIN"})
		require.Equal(t, http.StatusCreated, r.status, r.text)
		id = r.str("invitationId")
		require.JSONEq(t, encode(t, object{"invitationId": id, "email": email, "role": "ADMIN", "status": "invited"}), r.text)
		require.Equal(t, ws+"/invitations/"+id, r.header.Get("Location"))
		return id, strings.NewReplacer(id, "ID", email, "EMAIL").Replace
	}
	known, likeKnown := invite(w.email("bob"))
	unknown, likeUnknown := invite(w.email("bib"))

	// The sign-ins may be told of late.
	event := func(conn *websocket.Conn, until string) (ev object) {
		t.Helper()
		for ev["type"] != until {
			var heard struct{ Event object }
			require.NoError(t, conn.ReadJSON(&heard))
			ev = heard.Event
			require.True(t, ev["type"] == until || !strings.HasPrefix(ev["type"].(string), "fdc.invitation."), "%v", ev)
		}
		return ev
	}
	created := event(invitees, "fdc.invitation.created.v1")
	require.Equal(t, known, created["subject"])
	require.NotContains(t, created, "ip", "the inviter's address is not the invitee's business")
	require.NotContains(t, created, "useragent")
	require.Equal(t, http.StatusCreated, alice.send(http.MethodPost, ws+"/tasks", object{"title": "next"}).status)
	event(inviters, "fdc.task.created.v1") // and nothing of either invitation before it

	entry := func(id string, like func(string) string) string {
		t.Helper()
		var page struct{ Items []object }
		alice.get(ws + "/members").into(&page)
		for _, item := range page.Items {
			if item["invitationId"] == id {
				delete(item, "expiresAt")
				return like(encode(t, item))
			}
		}
		t.Fatalf("no invitation %s", id)
		return ""
	}
	require.Equal(t, entry(known, likeKnown), entry(unknown, likeUnknown))
	require.Contains(t, entry(known, likeKnown), `"name":"","role":"ADMIN","status":"invited","userId":null`)

	facts := w.facts("invitation.created")
	require.Len(t, facts, 2)
	require.Equal(t, bob.id(), facts[0].user)
	require.Empty(t, facts[1].user)
}

func TestInvitations(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob, carol := w.signIn("alice"), w.signIn("bob"), w.signIn("carol")
	home := alice.home()
	ws := "/api/workspaces/" + home
	invite := func(email string) string {
		t.Helper()
		return alice.send(http.MethodPost, ws+"/members", object{"email": email, "role": "MEMBER"}).str("invitationId")
	}
	require.Empty(t, bob.get("/api/invitations").field("items"))
	first := invite(strings.ToUpper(w.email("bob")))
	var page struct{ Items []object }
	bob.get("/api/invitations").into(&page)
	require.Len(t, page.Items, 1)
	require.NotEmpty(t, page.Items[0]["expiresAt"])
	delete(page.Items[0], "expiresAt")
	require.Equal(t, object{
		"id": first, "workspaceId": home, "workspaceName": "Alice's workspace", "role": "MEMBER", "invitedBy": w.email("alice"),
	}, page.Items[0])

	// Another user's is not there.
	for _, id := range []string{first, alice.id(), "nonsense"} {
		require.Equal(t, http.StatusNotFound, carol.send(http.MethodPost, "/api/invitations/"+id+"/accept", nil).status)
		require.Equal(t, http.StatusNotFound, carol.send(http.MethodPost, "/api/invitations/"+id+"/decline", nil).status)
		require.Equal(t, http.StatusNotFound, carol.send(http.MethodPost, ws+"/invitations/"+id+":resend", nil).status)
		require.Equal(t, http.StatusNotFound, carol.send(http.MethodDelete, ws+"/invitations/"+id, nil).status)
	}
	require.Equal(t, http.StatusNotFound, bob.get(ws+"/members").status, "nobody is a member before accepting")
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodPost, ws+"/invitations/"+first+":explode", nil).status)
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodPost, ws+"/invitations/"+first, nil).status)

	require.Equal(t, http.StatusNoContent, bob.send(http.MethodPost, "/api/invitations/"+first+"/decline", nil).status)
	require.Equal(t, http.StatusNotFound, bob.send(http.MethodPost, "/api/invitations/"+first+"/accept", nil).status)

	second := invite(w.email("bob"))
	require.Equal(t, "already-invited", alice.send(http.MethodPost, ws+"/members", object{"email": w.email("bob"), "role": "ADMIN"}).code())
	resent := alice.send(http.MethodPost, ws+"/invitations/"+second+":resend", nil)
	require.Equal(t, http.StatusOK, resent.status, resent.text)
	require.JSONEq(t, encode(t, object{"invitationId": second, "email": w.email("bob"), "role": "MEMBER", "status": "invited"}), resent.text)
	require.Equal(t, http.StatusNoContent, alice.send(http.MethodDelete, ws+"/invitations/"+second, nil).status)
	require.Equal(t, http.StatusNotFound, bob.send(http.MethodPost, "/api/invitations/"+second+"/accept", nil).status)

	third := invite(w.email("bob"))
	accepted := bob.send(http.MethodPost, "/api/invitations/"+third+"/accept", nil)
	require.Equal(t, http.StatusOK, accepted.status, accepted.text)
	require.JSONEq(t, encode(t, object{"workspaceId": home, "role": "MEMBER"}), accepted.text)
	require.Len(t, bob.get("/api/auth/session").field("workspaces"), 2, "the session shows it at once")
	require.Equal(t, http.StatusOK, bob.get(ws+"/data").status)
	require.Equal(t, http.StatusForbidden, bob.send(http.MethodPost, ws+"/members", object{"email": w.email("eve"), "role": "MEMBER"}).status)

	require.Len(t, w.facts("invitation.created"), 3)
	require.Len(t, w.facts("invitation.resent"), 1)
	require.Len(t, w.facts("invitation.withdrawn"), 1)
	require.Len(t, w.facts("invitation.accepted"), 1)
	require.Len(t, w.facts("workspace.member_added"), 1)
	declined := w.facts("invitation.declined")
	require.Len(t, declined, 1)
	require.Empty(t, declined[0].workspace)
}

// However many workspaces a user is in, as long as the limits allow it, the session is cached.
func TestASessionOfManyMembershipsIsCached(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice := w.signIn("alice")
	_, err := w.db.Pool.Exec(t.Context(), `
		WITH made AS (INSERT INTO workspaces (id, name, created_by) SELECT gen_random_uuid(), repeat('<', 200), $1 FROM generate_series(1, 199) RETURNING id),
		     joined AS (INSERT INTO workspace_members (workspace_id, user_id, role) SELECT id, $1, 'MEMBER' FROM made)
		UPDATE users SET version = version + 1 WHERE id = $1`, alice.id())
	require.NoError(t, err)
	again := w.signIn("alice")
	require.Len(t, again.get("/api/auth/session").field("workspaces"), 200)
	require.Equal(t, "too-many-memberships", again.send(http.MethodPost, "/api/workspaces", object{"name": "one more"}).code())
	kv, err := w.js.KeyValue(t.Context(), bus.Sessions)
	require.NoError(t, err)
	hash := sha256.Sum256([]byte(strings.TrimPrefix(again.cookie(), "fdc_session=")))
	require.Eventually(t, func() bool {
		_, err := kv.Get(t.Context(), base64.RawURLEncoding.EncodeToString(hash[:]))
		return err == nil
	}, patience, time.Millisecond)
}
