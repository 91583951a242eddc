package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"fdc/internal/identity"
	"fdc/internal/platform/flags"
	"fdc/internal/platform/nearcache"
	"fdc/internal/workspace"
)

// Document is a workspace's document.
type Document struct {
	WorkspaceID  string          `json:"workspaceId"  format:"uuid" doc:"The workspace."`
	Data         json.RawMessage `json:"data"         doc:"The document: any object; {} in a new workspace. Numbers keep their value, digit for digit; how they were spelled (1e2, -0) they don't."`
	Version      int64           `json:"version"      min:"0" doc:"How many times it was written."`
	LastModified time.Time       `json:"lastModified" doc:"When it was written last."`
}

// NewDocument replaces a document.
type NewDocument struct {
	Data    json.RawMessage `json:"data"              doc:"The new document: any object of at most 1 MiB, 500 levels, and 1000 digits in a number."`
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
	precondition := header{"If-Match", "The version that is to be changed, as an entity tag; of several, any will do. 412 when it is another."}
	return []route{
		{
			method: http.MethodGet, path: path, id: "getData", tag: tag,
			summary: "A workspace's document.",
			headers: []header{
				{"If-None-Match", "The ETag that the client has; 304 when it is still current."},
				{"Accept-Encoding", "zstd and gzip are there, for documents that gain by them."},
			},
			answers: []answer{
				ok[Document](http.StatusOK, "It.", "ETag", "Cache-Status", "Vary").sometimes("Content-Encoding"),
				empty(http.StatusNotModified, "The client has it.", "ETag", "Cache-Status", "Vary"),
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
			body:    &body{media: mergePatchMedia, limit: documentBody, doc: "A JSON Merge Patch of the document: null takes a member away."},
			answers: []answer{ok[Saved](http.StatusOK, "It is merged; the version is the same when it changes nothing.", "ETag")},
			faults:  []int{http.StatusConflict, http.StatusPreconditionFailed},
			handle:  (*api).patchData,
		},
	}
}

func (a *api) getData(c *call) error {
	version, body, status, err := a.readData(c)
	if err != nil {
		return err
	}
	h, tag := c.gin.Writer.Header(), versionTag(version)
	h["Etag"] = []string{tag}
	h["Cache-Status"] = status
	h["Cache-Control"] = askEachTime
	h["Vary"] = byCodingAndCookie
	if !noneMatch(c.request().Header, tag) {
		return c.empty(http.StatusNotModified)
	}
	return c.writeReady(jsonMedia, body)
}

// Shared between answers, as those in middleware.go. The browser may keep a document, to ask with If-None-Match, and must ask each
// time.
var (
	askEachTime       = []string{"private, no-cache"}
	byCodingAndCookie = []string{"Accept-Encoding, Cookie"}
)

// writeReady answers with what is sent many times, in the coding that the client likes best.
//
// All forms of a version have its one entity tag. RFC 9110 (8.8.3) wants one each, for the sake of ranges and of caches that
// would mix them up; here nothing has ranges, Vary keeps the forms apart, and what If-Match compares is the version.
//
// A compressed answer tells an eavesdropper by its length what it has in common with text of theirs in it (BREACH). Nothing
// of the request is in this one, and no token: only the document, all of which whoever writes into it may read.
func (c *call) writeReady(media string, doc *ready) error {
	best, plainToo := negotiate(c.request().Header)
	form, err := doc.in(best, c.api.encoders)
	if err == nil && form == nil && !plainToo {
		form, err = c.api.encoders.encode(c.ctx(), doc.body, best)
	}
	if err != nil {
		return err
	}
	if form == nil {
		return c.write(http.StatusOK, media, doc.body)
	}
	c.setHeader("Content-Encoding", best.String())
	return c.write(http.StatusOK, media, form)
}

// cacheStatus is what Cache-Status (RFC 9211) says of each layer.
var cacheStatus = map[nearcache.Layer][]string{
	nearcache.Near:   {"fdc-near; hit"},
	nearcache.KV:     {"fdc-kv; hit"},
	nearcache.DB:     {"fdc-db; fwd=miss"},
	nearcache.Bypass: {"fdc-db; fwd=bypass"},
}

// readData finds the answer's body and what Cache-Status says of it.
func (a *api) readData(c *call) (version int64, body *ready, status []string, err error) {
	// The right to read is the session's, of this request; the cache knows of none. Whose session says no may have come in a
	// moment ago, on another node: the database says.
	member := slices.ContainsFunc(c.session.Memberships, func(m identity.Membership) bool { return m.WorkspaceID == c.path("id") })
	if !member || a.Documents == nil || !a.Flags.Enabled(flags.WorkspaceCache) {
		doc, err := a.Workspaces.Data(c.ctx(), c.user(), c.path("id"))
		if err != nil {
			return 0, nil, nil, err
		}
		return doc.Version, &ready{body: encodeDocument(doc)}, cacheStatus[nearcache.Bypass], nil
	}
	v, err := a.Documents.Get(c.ctx(), c.path("id"), newestTag(c.request().Header))
	return v.Version, v.Data, cacheStatus[v.Layer], err
}

// Documents is a cache of whole answers, so that a hit is written as it is. The bucket has them plain; each node makes the
// compressed forms that its clients ask for, once, and keeps them beside the document in memory.
type Documents = nearcache.Cache[*ready]

// NewDocuments returns a cache of the documents of workspaces.
func NewDocuments(workspaces *workspace.Service, c nearcache.Config) (*Documents, error) {
	load := func(ctx context.Context, workspaceID string) (int64, []byte, error) {
		doc, err := workspaces.DocumentOf(ctx, workspaceID)
		if err != nil {
			return 0, nil, err
		}
		return doc.Version, encodeDocument(doc), nil
	}
	return nearcache.New(c, load, func(data []byte) (*ready, int, error) {
		doc := &ready{body: data}
		return doc, doc.size(), nil
	})
}

// encodeDocument writes a Document as encoding/json would, but takes the data as it comes from the database instead of
// going through every byte of it again: documents are large and read often.
func encodeDocument(doc workspace.Document) []byte {
	body := make([]byte, 0, len(doc.Stored)+160)
	body = fmt.Appendf(body, `{"workspaceId":%q,"data":`, doc.WorkspaceID)
	body = append(body, doc.Stored...)
	return fmt.Appendf(body, `,"version":%d,"lastModified":%q}`, doc.Version, doc.LastModified.UTC().Format(time.RFC3339Nano))
}

func (a *api) putData(c *call) error {
	condition, err := expected(c.request().Header)
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
	condition, err := expected(c.request().Header)
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
	if c.api.Documents != nil {
		if err := c.api.Documents.Put(c.ctx(), doc.WorkspaceID, doc.Version, encodeDocument(doc)); err != nil {
			// It is committed. The cache repeats it and tells the log of outages, and so does the invalidator.
			c.api.Log.Debug().Err(err).Str("request_id", c.id).Msg("document not written through")
		}
	}
	c.setHeader("ETag", versionTag(doc.Version))
	return c.json(http.StatusOK, Saved{Success: true, Version: doc.Version, LastModified: doc.LastModified.UTC()})
}
