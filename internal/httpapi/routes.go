package httpapi

import (
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// route is one entry of the table: how the router finds it, what is checked before its handler runs, and what the
// OpenAPI document says of it.
type route struct {
	method  string
	path    string // as in OpenAPI: /api/workspaces/{id}
	id      string // the operation id
	tag     string
	summary string
	public  bool          // needs no session
	charges bool          // its handler takes it from a budget, not the middleware
	stream  bool          // lives as long as the client likes: no deadline
	reauth  *reauth       // when it needs a recent sign-in with Google; nil: never
	timeout time.Duration // how long it may take; 0: deadline
	query   []param
	headers []header // that the handler reads
	body    *body
	answers []answer // the good ones
	faults  []int    // statuses of problems beyond those that follow from the fields above
	handle  func(*api, *call) error

	// What the router derives, once for all requests.
	budget *budget                                  // its rate limit, from limits.go; nil: none
	name   string                                   // of its spans
	took   [len(classes)]func() prometheus.Observer // by class of status
}

// header is a request header.
type header struct{ name, doc string }

// body is what a request carries.
type body struct {
	media    string
	limit    int64
	dto      reflect.Type // nil: any object
	doc      string
	optional bool // none at all is {}
	merge    bool // an object of its own media type, or a merge patch (RFC 7396), which comes to the same
}

// answer is one good answer.
type answer struct {
	status  int
	doc     string
	media   string       // of the body; empty: no body
	dto     reflect.Type // nil with a media: free text
	headers []string     // the names of those that are always there
	may     []string     // and of those that may be
}

func jsonBody[T any](limit int64) *body {
	return &body{media: jsonMedia, limit: limit, dto: reflect.TypeFor[T]()}
}

// orMerge takes a merge patch, too.
func (b *body) orMerge() *body {
	b.merge = true
	return b
}

func ok[T any](status int, doc string, headers ...string) answer {
	return answer{status: status, doc: doc, media: jsonMedia, dto: reflect.TypeFor[T](), headers: headers}
}

// sometimes names headers that the answer has now and then.
func (a answer) sometimes(headers ...string) answer {
	a.may = headers
	return a
}

func empty(status int, doc string, headers ...string) answer {
	return answer{status: status, doc: doc, headers: headers}
}

// routes is the table.
func routes() []route {
	var all []route
	for _, feature := range [][]route{
		healthRoutes(), authRoutes(), userRoutes(), workspaceRoutes(), invitationRoutes(), dataRoutes(), taskRoutes(), calendarRoutes(), googleRoutes(),
		auditRoutes(), pushRoutes(), documentRoutes(), pageRoutes(),
	} {
		all = append(all, feature...)
	}
	return all
}

// unsafe reports whether the route may change something.
func (r *route) unsafe() bool { return r.method != http.MethodGet && r.method != "" }

// pathParams lists the names in the path.
func (r *route) pathParams() []string {
	var names []string
	for segment := range strings.SplitSeq(r.path, "/") {
		if name, _, ok := strings.Cut(strings.TrimPrefix(segment, "{"), "}"); ok {
			names = append(names, name)
		}
	}
	return names
}

// action is the verb of a path that ends in one, such as resend of {invitationId}:resend; else it is empty.
func (r *route) action() string {
	_, verb, _ := strings.Cut(r.path, "}:")
	return verb
}

// isPage reports whether the route is for people and no part of the API.
func (r *route) isPage() bool { return !strings.HasPrefix(r.path, "/api/") }

// ginPath is the path as Gin writes it, without the action: /api/workspaces/:id.
func (r *route) ginPath() string {
	path, _, _ := strings.Cut(r.path, "}:")
	return strings.NewReplacer("{", ":", "}", "").Replace(path)
}

// inWorkspace reports whether the path's id is a workspace's.
func (r *route) inWorkspace() bool { return strings.HasPrefix(r.path, "/api/workspaces/{id}") }
