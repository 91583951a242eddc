package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"fdc/internal/workspace"
)

// Document is a workspace's document.
type Document struct {
	WorkspaceID  string          `json:"workspaceId"  format:"uuid" doc:"The workspace."`
	Data         json.RawMessage `json:"data"         doc:"The document: any object; {} in a new workspace."`
	Version      int64           `json:"version"      min:"0" doc:"How many times it was written."`
	LastModified time.Time       `json:"lastModified" doc:"When it was written last."`
}

// NewDocument replaces a document.
type NewDocument struct {
	Data    json.RawMessage `json:"data"              doc:"The new document: any object of at most 1 MiB."`
	Version *int64          `json:"version,omitempty" min:"0" doc:"The version that is to be replaced; without it, whatever it is."`
}

// Saved says that a document was written.
type Saved struct {
	Success      bool      `json:"success"      doc:"Always true."`
	Version      int64     `json:"version"      min:"0" doc:"The document's version now."`
	LastModified time.Time `json:"lastModified" doc:"When it was written."`
}

func dataRoutes() []route {
	const tag, path = "data", "/api/workspaces/{id}/data"
	precondition := header{"If-Match", "The version, as an entity tag, that is to be changed; 412 when it is another."}
	return []route{
		{
			method: http.MethodGet, path: path, id: "getData", tag: tag,
			summary: "A workspace's document.",
			headers: []header{{"If-None-Match", "The ETag that the client has; 304 when it is still current."}},
			answers: []answer{
				ok[Document](http.StatusOK, "It.", "ETag", "Cache-Status"),
				empty(http.StatusNotModified, "The client has it.", "ETag", "Cache-Status"),
			},
			handle: (*api).getData,
		},
		{
			method: http.MethodPut, path: path, id: "putData", tag: tag,
			summary: "Replace a workspace's document.",
			headers: []header{precondition},
			body:    jsonBody[NewDocument](documentBody),
			answers: []answer{ok[Saved](http.StatusOK, "It is replaced.", "ETag")},
			faults:  []int{http.StatusConflict, http.StatusPreconditionFailed},
			handle:  (*api).putData,
		},
		{
			method: http.MethodPatch, path: path, id: "patchData", tag: tag,
			summary: "Merge a patch (RFC 7396) into the newest version of a workspace's document.",
			headers: []header{precondition},
			body:    &body{media: mergePatchMedia, limit: documentBody, doc: "A JSON Merge Patch of the document."},
			answers: []answer{ok[Saved](http.StatusOK, "It is merged; the version is the same when it changes nothing.", "ETag")},
			faults:  []int{http.StatusConflict, http.StatusPreconditionFailed},
			handle:  (*api).patchData,
		},
	}
}

func (a *api) getData(c *call) error {
	doc, err := a.Workspaces.Data(c.ctx(), c.user(), c.path("id"))
	if err != nil {
		return err
	}
	c.setHeader("ETag", versionTag(doc.Version))
	c.setHeader("Cache-Status", "fdc-db; fwd=bypass")
	// The browser may keep it, to ask with If-None-Match, and must ask each time.
	c.setHeader("Cache-Control", "private, no-cache")
	c.setHeader("Vary", "Cookie")
	if !noneMatches(c.request().Header, doc.Version) {
		return c.empty(http.StatusNotModified)
	}
	return c.write(http.StatusOK, jsonMedia, encodeDocument(doc))
}

// encodeDocument writes a Document as encoding/json would, but takes the data as it comes from the database instead of
// going through every byte of it again: documents are large and read often.
func encodeDocument(doc workspace.Document) []byte {
	body := make([]byte, 0, len(doc.Data)+160)
	body = fmt.Appendf(body, `{"workspaceId":%q,"data":`, doc.WorkspaceID)
	body = append(body, doc.Data...)
	return fmt.Appendf(body, `,"version":%d,"lastModified":%q}`, doc.Version, doc.LastModified.UTC().Format(time.RFC3339Nano))
}

func (a *api) putData(c *call) error {
	condition, err := ifMatch(c.request().Header)
	if err != nil {
		return err
	}
	var in NewDocument
	if err := c.decode(&in); err != nil {
		return err
	}
	doc, err := a.Workspaces.PutData(c.ctx(), c.meta(), c.user(), c.path("id"), in.Data, workspace.Expect{Version: in.Version, IfMatch: condition})
	return c.saved(doc, err)
}

func (a *api) patchData(c *call) error {
	condition, err := ifMatch(c.request().Header)
	if err != nil {
		return err
	}
	patch, err := c.body()
	if err != nil {
		return err
	}
	doc, err := a.Workspaces.PatchData(c.ctx(), c.meta(), c.user(), c.path("id"), patch, workspace.Expect{IfMatch: condition})
	return c.saved(doc, err)
}

func (c *call) saved(doc workspace.Document, err error) error {
	if err != nil {
		return err
	}
	c.setHeader("ETag", versionTag(doc.Version))
	return c.json(http.StatusOK, Saved{Success: true, Version: doc.Version, LastModified: doc.LastModified.UTC()})
}
