package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/trace"

	"fdc/events"
	"fdc/internal/identity"
)

// call is one request on its way through the server.
type call struct {
	api   *api
	gin   *gin.Context
	route *route
	begun time.Time
	span  trace.Span
	life  context.Context //nolint:containedctx // of the request, which would have to be copied to hold it

	id       string     // the request's
	callerID string     // what the caller named it, when that isn't the id
	client   netip.Addr // who asks; the zero Addr when unknown
	session  identity.Session
	query    map[string]any // the declared parameters, parsed

	failure     error  // what the handler returned
	denied      bool   // the refusal was told
	unrecorded  error  // why a refusal is not on record
	status      int    // for the log; 0: what was written
	problemType string // for the log

	policy []string // Content-Security-Policy; nil: nothing may be loaded
}

func (c *call) request() *http.Request       { return c.gin.Request }
func (c *call) ctx() context.Context         { return c.life }
func (c *call) path(name string) string      { return c.gin.Param(name) }
func (c *call) user() string                 { return c.session.User.ID }
func (c *call) setHeader(name, value string) { c.gin.Writer.Header().Set(name, value) }

// value returns a declared query parameter, and whether it was given or has a default.
func value[T any](c *call, name string) (T, bool) {
	v, ok := c.query[name].(T)
	return v, ok
}

// meta is the circumstance of what the request causes.
func (c *call) meta() events.Meta {
	m := events.Meta{
		Source: "/fdc/api", ActorID: events.AnonymousActor, RequestID: c.id, CallerRequestID: c.callerID, UserAgent: c.request().UserAgent(),
	}
	if c.user() != "" {
		m.ActorID, m.UserID = c.user(), c.user()
	}
	if c.client.IsValid() {
		m.IP = c.client.String()
	}
	return m
}

// body reads the request's body as its route wants it.
func (c *call) body() ([]byte, error) {
	b := c.route.body
	if b.optional && c.request().ContentLength == 0 {
		return []byte("{}"), nil
	}
	media := b.media
	if b.merge && strings.HasPrefix(c.request().Header.Get("Content-Type"), mergePatchMedia) {
		media = mergePatchMedia
	}
	return readBody(c.gin.Writer, c.request(), media, b.limit)
}

// decode reads the request's JSON body into a DTO.
func (c *call) decode(dst any) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	return decodeJSON(body, dst)
}

// json answers with a DTO.
func (c *call) json(status int, dto any) error {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(dto); err != nil {
		return err
	}
	return c.write(status, jsonMedia, body.Bytes())
}

// empty answers without a body. A 304 keeps silent about the object (RFC 9110, 15.4.5): the client has its headers too.
func (c *call) empty(status int) error {
	if status != http.StatusNotModified {
		c.protect()
	}
	c.gin.Status(status)
	c.gin.Writer.WriteHeaderNow()
	return nil
}

// redirect sends the browser elsewhere, where nobody learns of our path and what it holds.
func (c *call) redirect(location string) error {
	h := c.gin.Writer.Header()
	h.Set("Location", location)
	h["Referrer-Policy"] = noReferrer
	return c.empty(http.StatusFound)
}

// shortBody is what net/http holds back until the handler has returned, so that it knows and tells the length itself.
const shortBody = 2 << 10

// write answers. It keeps nothing of body.
func (c *call) write(status int, media string, body []byte) error {
	c.protect()
	h := c.gin.Writer.Header()
	h["Content-Type"] = []string{media}
	if len(body) > shortBody || c.request().Method == http.MethodHead { // else net/http counts
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	c.gin.Status(status)
	_, err := c.gin.Writer.Write(body)
	return err
}
