package httpapi

import (
	"net/http"

	"github.com/google/jsonschema-go/jsonschema"

	"fdc/internal/identity"
	"fdc/internal/platform/fault"
	"fdc/internal/push"
)

const eventStreamMedia = "text/event-stream"

func pushRoutes() []route {
	const tag = "push"
	cursor := param{
		name: "cursor", doc: "The last cursor that the client has; what it missed since comes first.",
		schema: &jsonschema.Schema{Type: "string"},
		parse: func(s string) (any, error) {
			if _, err := push.ParseCursor(s); err != nil {
				return nil, wants("a cursor that this server gave")
			}
			return s, nil
		},
	}
	return []route{
		{
			method: http.MethodGet, path: "/api/ws", id: "openWebSocket", tag: tag, stream: true, query: []param{cursor},
			summary: "The user's events over a WebSocket.",
			answers: []answer{empty(http.StatusSwitchingProtocols, "JSON text messages follow.")},
			faults:  []int{http.StatusForbidden, http.StatusTooManyRequests},
			handle:  (*api).openWebSocket,
		},
		{
			method: http.MethodGet, path: "/api/events", id: "openEventStream", tag: tag, stream: true, query: []param{cursor},
			summary: "The user's events as Server-Sent Events.",
			headers: []header{{"Last-Event-ID", "The same as cursor, sent by browsers that reconnect; it wins."}},
			answers: []answer{{status: http.StatusOK, doc: "They follow.", media: eventStreamMedia}},
			faults:  []int{http.StatusTooManyRequests},
			handle:  (*api).openEventStream,
		},
	}
}

// openWebSocket checks the origin itself: a browser opens a WebSocket of any site and sends the cookie along.
func (a *api) openWebSocket(c *call) error {
	if origins := c.request().Header.Values("Origin"); len(origins) > 1 || len(origins) == 1 && origins[0] != a.origin {
		return c.refuseCrossOrigin(fault.New(fault.Forbidden, "cross-origin", "opened from origin %q", origins))
	}
	cursor, _ := value[string](c, "cursor")
	if err := a.Push.ServeWS(c.gin.Writer, c.request(), subscriberOf(c.session), cursor); err != nil {
		return err
	}
	c.status = http.StatusSwitchingProtocols
	return nil
}

func (a *api) openEventStream(c *call) error {
	cursor, _ := value[string](c, "cursor")
	if last := c.request().Header.Get("Last-Event-ID"); last != "" {
		if _, err := push.ParseCursor(last); err != nil {
			return err
		}
		cursor = last
	}
	return a.Push.ServeSSE(c.gin.Writer, c.request(), subscriberOf(c.session), cursor)
}

func subscriberOf(s identity.Session) push.Subscriber {
	return push.Subscriber{
		UserID: s.User.ID, SessionID: s.ID, Admin: s.User.SystemRole == "SA", ExpiresAt: s.ExpiresAt,
		WorkspaceIDs: each(s.Memberships, func(m identity.Membership) string { return m.WorkspaceID }),
	}
}
