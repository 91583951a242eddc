package googleemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	dropBefore = "before" // cut before the request has any effect
	dropAfter  = "after"  // cut when it has had its effect
	maxLatency = 10 * time.Minute
)

// faultRule says which requests go wrong and how.
type faultRule struct {
	Match struct {
		Method string `json:"method"`
		Path   string `json:"path"` // glob: * is any run of characters, / too
		User   string `json:"user"` // an email
	} `json:"match"`
	Nth   int   `json:"nth"`   // from this match on, 1 when absent
	Count *int  `json:"count"` // for so many matches, 1 when absent, 0 for ever
	Fault fault `json:"fault"`

	path *regexp.Regexp
	seen int
}

// fault is what goes wrong. Several at once add up: the first to name a thing decides it.
type fault struct {
	Status           int        `json:"status"`
	Reason           string     `json:"reason"`
	RetryAfter       retryAfter `json:"retryAfter"`
	LatencyMs        int        `json:"latencyMs"`
	Drop             string     `json:"drop"`
	Truncate         bool       `json:"truncate"`
	ExpireSyncTokens bool       `json:"expireSyncTokens"`
}

// retryAfter is the header's value: seconds as a number, or anything as a text.
type retryAfter string

// UnmarshalJSON takes a number or a string.
func (r *retryAfter) UnmarshalJSON(b []byte) error {
	var n int
	if json.Unmarshal(b, &n) == nil {
		*r = retryAfter(strconv.Itoa(n))
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("retryAfter: %w", err)
	}
	*r = retryAfter(s)
	return nil
}

// parseFaults reads the control API's list and refuses what could only be a mistake.
func parseFaults(body []byte) ([]*faultRule, error) {
	var rules []*faultRule
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rules); err != nil {
		return nil, err
	}
	if len(rules) > maxFaults {
		return nil, fmt.Errorf("more than %d faults", maxFaults)
	}
	for i, r := range rules {
		if r == nil {
			return nil, fmt.Errorf("fault %d is null", i)
		}
		f := r.Fault
		switch {
		case r.Nth < 0, r.Count != nil && *r.Count < 0:
			return nil, fmt.Errorf("fault %d: nth and count count up", i)
		case f.Status != 0 && (f.Status < 400 || f.Status > 599):
			return nil, fmt.Errorf("fault %d: status %d is no error", i, f.Status)
		case f.LatencyMs < 0 || f.latency() > maxLatency:
			return nil, fmt.Errorf("fault %d: latencyMs out of range", i)
		case !slices.Contains([]string{"", dropBefore, dropAfter}, f.Drop):
			return nil, fmt.Errorf("fault %d: drop is before or after", i)
		case f == fault{}:
			return nil, fmt.Errorf("fault %d does nothing", i)
		}
		r.Nth = max(r.Nth, 1)
		if r.Count == nil {
			r.Count = new(1)
		}
		if r.Match.Path != "" {
			glob := strings.ReplaceAll(regexp.QuoteMeta(r.Match.Path), `\*`, `.*`)
			r.path = regexp.MustCompile(`(?s)^` + glob + `$`) // a quoted text always compiles
		}
	}
	return rules, nil
}

// hits counts a matching request and reports whether the fault strikes it.
func (r *faultRule) hits(c *call) bool {
	if r.Match.Method != "" && !strings.EqualFold(r.Match.Method, c.Method) ||
		r.Match.User != "" && !strings.EqualFold(r.Match.User, c.email) ||
		r.path != nil && !r.path.MatchString(c.path) {
		return false
	}
	r.seen++
	return r.seen >= r.Nth && (*r.Count == 0 || r.seen < r.Nth+*r.Count)
}

// admit finds out whose request it is and which faults strike it.
func (e *Emulator) admit(c *call) fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.email = e.whose(c)
	var all fault
	for _, r := range e.faults {
		if r.hits(c) {
			all = all.and(r.Fault)
		}
	}
	if u := e.st.user(c.email); u != nil && all.ExpireSyncTokens {
		u.expireSyncTokens()
		e.changed()
	}
	return all
}

func (f fault) and(more fault) fault {
	if f.Status == 0 {
		f.Status, f.Reason, f.RetryAfter = more.Status, more.Reason, more.RetryAfter
	}
	if f.Drop == "" {
		f.Drop = more.Drop
	}
	f.LatencyMs += more.LatencyMs
	f.Truncate = f.Truncate || more.Truncate
	f.ExpireSyncTokens = f.ExpireSyncTokens || more.ExpireSyncTokens
	return f
}

func (f fault) latency() time.Duration { return time.Duration(f.LatencyMs) * time.Millisecond }

// usualReasons are Google's for a status, where the fault names none.
var usualReasons = map[int]string{
	http.StatusBadRequest:          "badRequest",
	http.StatusUnauthorized:        "authError",
	http.StatusForbidden:           "forbidden",
	http.StatusNotFound:            "notFound",
	http.StatusConflict:            "conflict",
	http.StatusGone:                "fullSyncRequired",
	http.StatusPreconditionFailed:  "conditionNotMet",
	http.StatusTooManyRequests:     "rateLimitExceeded",
	http.StatusInternalServerError: "backendError",
	http.StatusServiceUnavailable:  "backendError",
}

// reply is the answer that takes the place of the real one. A 502 comes from Google's front end, which speaks HTML.
func (f fault) reply(c *call) reply {
	var r reply
	switch {
	case c.path == "/token" || c.path == "/revoke":
		reason := f.Reason
		if reason == "" {
			reason = "invalid_grant"
			if f.Status >= 500 {
				reason = "internal_failure"
			}
		}
		r = oauthError(f.Status, reason, "Injected fault")
	case f.Status == http.StatusBadGateway:
		r = reply{status: f.Status, html: "<!DOCTYPE html>\n<title>Error 502 (Server Error)!!1</title>\n<p><b>502.</b> The server encountered a temporary error.\n"}
	default:
		reason := f.Reason
		if reason == "" {
			reason = usualReasons[f.Status]
		}
		if reason == "" {
			reason = "backendError"
		}
		refused := &apiError{code: f.Status, reason: reason, message: "Injected fault: " + reason}
		if strings.Contains(strings.ToLower(reason), "limitexceeded") || reason == "quotaExceeded" {
			refused.domain = "usageLimits"
		}
		if f.Status == http.StatusGone {
			refused.domain = "calendar"
		}
		r = refused.reply()
	}
	if f.RetryAfter != "" {
		if r.header == nil {
			r.header = http.Header{}
		}
		r.header.Set("Retry-After", string(f.RetryAfter))
	}
	return r
}
