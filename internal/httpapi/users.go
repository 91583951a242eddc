package httpapi

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"fdc/internal/audit"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/takeout"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

func userRoutes() []route {
	const tag = "users"
	return []route{
		{
			method: http.MethodGet, path: "/api/users/me/export", id: "exportUser", tag: tag, timeout: exportTime,
			summary: "Everything that is stored about the user, as a ZIP of JSON files. Keys are those of the database; secrets are left out.",
			answers: []answer{{status: http.StatusOK, doc: "The ZIP archive.", media: "application/zip", headers: []string{"Content-Disposition"}}},
			handle:  (*api).exportUser,
		},
		{
			method: http.MethodDelete, path: "/api/users/me", id: "eraseUser", tag: tag, reauth: always,
			summary: "Erase the user for good: sessions, memberships, access to Google, settings and the address. " +
				"Workspaces without another member are deleted with their data. 409 while the user is the last OWNER of one with members.",
			answers: []answer{empty(http.StatusNoContent, "The user is erased.", "Set-Cookie", "Clear-Site-Data")},
			faults:  []int{http.StatusConflict},
			handle:  (*api).eraseUser,
		},
	}
}

// personalSections are all files of an export.
func personalSections() []takeout.Section {
	return slices.Concat(identity.Personal(), workspace.Personal(), task.Personal(workspace.Mine), gsync.Personal(), audit.Personal())
}

// exportWriter sends an export to a reader that keeps reading.
type exportWriter struct {
	c     *call
	token string
	begun bool
}

func (w *exportWriter) Write(b []byte) (int, error) {
	// An export is long enough to lose the session.
	if _, err := w.c.api.Identity.Authenticate(w.c.ctx(), w.token); err != nil {
		return 0, err
	}
	if !w.begun {
		w.begun = true
		w.c.protect()
		w.c.setHeader("Content-Type", "application/zip")
		w.c.setHeader("Content-Disposition", `attachment; filename="fdc-export.zip"`)
		w.c.gin.Status(http.StatusOK)
	}
	rc := http.NewResponseController(w.c.gin.Writer)
	if err := rc.SetWriteDeadline(time.Now().Add(exportStall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return w.c.gin.Writer.Write(b)
}

func (a *api) exportUser(c *call) error {
	token, err := c.token()
	if err != nil {
		return err
	}
	w := &exportWriter{c: c, token: token}
	err = takeout.Write(c.ctx(), a.Identity.Pool(), w, c.user(), personalSections())
	if err != nil && w.begun {
		a.Log.Warn().Err(err).Str("request_id", c.id).Msg("export of a user broken off")
		panic(http.ErrAbortHandler)
	}
	return err
}

// erasedByUser is the reason on record when users erase themselves.
const erasedByUser = "The user asked for it."

func (a *api) eraseUser(c *call) error {
	if err := a.Identity.Erase(c.ctx(), c.meta(), c.user(), erasedByUser); err != nil {
		return err
	}
	c.signedOut()
	return c.empty(http.StatusNoContent)
}
