package httpapi_test

import (
	"archive/zip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A deleted workspace is missing for all who were in it, on every path, until an OWNER restores it with everything.
func TestADeletedWorkspaceIsInvisible(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob, carol := w.signIn("alice"), w.signIn("bob"), w.signIn("carol")
	made := alice.send(http.MethodPost, "/api/workspaces", object{"name": "Demo"})
	require.Equal(t, http.StatusCreated, made.status)
	id := made.str("id")
	path := "/api/workspaces/" + id
	alice.takeIn(bob, id)
	require.Equal(t, http.StatusCreated, alice.send(http.MethodPost, path+"/members", object{"email": w.email("carol"), "role": "MEMBER"}).status)
	require.Equal(t, http.StatusOK, alice.send(http.MethodPut, path+"/data", object{"data": object{"a": 1}}).status)
	task := alice.send(http.MethodPost, path+"/tasks", object{"title": "one"})
	require.Equal(t, http.StatusCreated, task.status)
	rename := func(v *visitor, name string) *result {
		return v.send(http.MethodPatch, path, object{"name": name})
	}
	require.Equal(t, http.StatusForbidden, rename(bob, "Mine").status)
	require.Equal(t, http.StatusNotFound, rename(carol, "Mine").status)
	require.Equal(t, http.StatusUnprocessableEntity, rename(alice, " ").status)
	require.Equal(t, "Flight deck", rename(alice, "Flight deck").str("name"))
	renamed := alice.send(http.MethodPatch, path, object{"name": "Cockpit"}, "Content-Type", "application/json")
	require.Equal(t, "Cockpit", renamed.str("name"))
	for _, v := range []*visitor{alice, bob} {
		require.Contains(t, v.get("/api/auth/session").text, "Cockpit", "sessions show the new name at once")
		require.Equal(t, http.StatusOK, v.get(path+"/data").status) // and are in the cache, as is the document
	}

	remove := func(v *visitor, name string) *result { return v.send(http.MethodDelete, path, object{"name": name}) }
	require.Equal(t, http.StatusForbidden, remove(bob, "Cockpit").status)
	require.Equal(t, http.StatusNotFound, remove(carol, "Cockpit").status)
	require.Equal(t, http.StatusUnprocessableEntity, remove(alice, "Demo").status)
	require.Equal(t, http.StatusNoContent, remove(alice, "Cockpit").status)

	paths := []string{"/data", "/tasks", "/tasks/" + task.str("id"), "/members", "/audit-logs"}
	for _, v := range []*visitor{alice, bob} {
		for _, p := range paths {
			require.Equal(t, http.StatusNotFound, v.get(path+p).status, p)
		}
		require.NotContains(t, v.get("/api/auth/session").text, id)
		require.NotContains(t, v.get("/api/workspaces").text, id)
	}
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodPut, path+"/data", object{"data": object{}}).status)
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodPost, path+"/tasks", object{"title": "two"}).status)
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodPost, path+"/members", object{"email": w.email("dave"), "role": "MEMBER"}).status)
	require.NotContains(t, carol.get("/api/invitations").text, id, "open invitations are withdrawn")
	require.Equal(t, http.StatusNotFound, remove(alice, "Cockpit").status)

	deleted := alice.get("/api/workspaces?deleted=true")
	require.Equal(t, id, deleted.str("items", 0, "id"))
	require.NotEmpty(t, deleted.str("items", 0, "purgeAt"))
	require.NotContains(t, bob.get("/api/workspaces?deleted=true").text, id, "only an OWNER can restore it")
	require.Equal(t, http.StatusForbidden, bob.send(http.MethodPost, path+":restore", nil).status)
	require.Equal(t, http.StatusNotFound, carol.send(http.MethodPost, path+":restore", nil).status)
	require.Equal(t, "Cockpit", alice.send(http.MethodPost, path+":restore", nil).str("name"))
	require.Equal(t, http.StatusNotFound, alice.send(http.MethodPost, path+":restore", nil).status)
	for _, v := range []*visitor{alice, bob} {
		data := v.get(path + "/data")
		require.Equal(t, `"2"`, data.header.Get("ETag"))
		require.Contains(t, data.text, `"data":{"a": 1}`)
		require.Contains(t, v.get(path+"/tasks").text, "one")
	}
	for action, times := range map[string]int{"workspace.renamed": 2, "workspace.deleted": 1, "workspace.restored": 1} {
		require.Len(t, w.facts(action), times, action)
	}
}

// Whatever is stored about the user is in the export, and no secret.
func TestExportOfAUser(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice", "connect=true"), w.signIn("bob")
	home := "/api/workspaces/" + alice.home()
	require.Equal(t, http.StatusOK, alice.send(http.MethodPut, home+"/data", object{"data": object{"mission": "ours"}}).status)
	require.Equal(t, http.StatusCreated, alice.send(http.MethodPost, home+"/tasks", object{"title": "call them"}).status)
	require.Equal(t, http.StatusCreated, bob.send(http.MethodPost, "/api/workspaces/"+bob.home()+"/tasks", object{"title": "not alice's"}).status)

	answer := alice.get("/api/users/me/export")
	require.Equal(t, http.StatusOK, answer.status)
	archive, err := zip.NewReader(strings.NewReader(answer.text), int64(len(answer.text)))
	require.NoError(t, err)
	files := map[string]string{}
	for _, f := range archive.File {
		r, err := f.Open()
		require.NoError(t, err)
		text, err := io.ReadAll(r)
		require.NoError(t, err)
		var rows []object
		(&result{t: t, text: string(text)}).into(&rows)
		files[f.Name] = string(text)
	}
	all := strings.Join(mapValues(files), "")
	require.Contains(t, files["user.json"], w.email("alice"))
	require.Contains(t, files["documents.json"], "ours")
	require.Contains(t, files["tasks.json"], "call them")
	require.Contains(t, files["google-account.json"], "connected")
	require.Contains(t, files["workspaces.json"], "OWNER")
	require.NotContains(t, all, "not alice's")
	for _, secret := range []string{"token_hash", "access_token", "refresh_token", "lease_token"} {
		require.NotContains(t, all, secret)
	}
	require.Equal(t, http.StatusUnauthorized, w.visitor().get("/api/users/me/export").status)
}

func mapValues(m map[string]string) (list []string) {
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// Who erases themselves has shown at Google who they are, leaves no workspace without an OWNER, and is nobody afterwards.
func TestErasingOneself(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice", "connect=true"), w.signIn("bob")
	id, home := alice.id(), alice.home()
	alice.takeIn(bob, home)
	phone := w.signIn("alice")
	erase := func() *result { return alice.send(http.MethodDelete, "/api/users/me", nil) }
	require.Equal(t, "last-owner", erase().code())
	require.Equal(t, http.StatusOK, alice.send(http.MethodPut, "/api/workspaces/"+home+"/members/"+bob.id(), object{"role": "OWNER"}).status)
	alice.age()
	require.Equal(t, "reauthentication-required", erase().code())
	alice = w.signIn("alice")
	require.Equal(t, http.StatusNoContent, erase().status)

	for _, v := range []*visitor{alice, phone} {
		require.Equal(t, http.StatusUnauthorized, v.get("/api/auth/session").status)
	}
	require.NotContains(t, bob.get("/api/workspaces/"+home+"/members").text, w.email("alice"))
	require.Len(t, w.facts("user.erased"), 1)
	again := w.signIn("alice")
	require.NotEqual(t, id, again.id(), "a person who comes back is a new user")
	require.Equal(t, "disconnected", again.get("/api/auth/session").str("google", "state"))
	require.NotContains(t, again.get("/api/workspaces").text, home)
}
