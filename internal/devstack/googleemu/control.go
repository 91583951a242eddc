package googleemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxAdvance bounds one step of the clock: ten years, forwards or, for a server whose clock is slow, backwards.
const maxAdvance = 10 * 366 * 24 * time.Hour

// routeControl serves what is not Google's.
func (e *Emulator) routeControl() {
	type person struct {
		Email string `json:"email"`
		Name  string `json:"name"`
	}
	control(e, "POST /_emulator/users", func(p person) (any, error) {
		if err := e.AddUser(p.Email, p.Name); err != nil {
			return nil, err
		}
		return p, nil
	})
	type newCalendar struct {
		Email string `json:"email"`
		Calendar
	}
	control(e, "POST /_emulator/calendars", func(n newCalendar) (any, error) {
		if err := e.AddCalendar(n.Email, n.Calendar); err != nil {
			return nil, err
		}
		return n, nil
	})
	control(e, "POST /_emulator/token", func(p person) (any, error) {
		token, err := e.Token(p.Email)
		return object{"access_token": token}, err
	})
	control(e, "POST /_emulator/revoke", func(p person) (any, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		u := e.st.user(p.Email)
		if u == nil {
			return nil, notFound("user " + p.Email)
		}
		e.endGrants(u.Email, "")
		return nil, nil
	})
	control(e, "PUT /_emulator/settings", func(s settings) (any, error) { return s, e.configure(s) })
	control(e, "POST /_emulator/clock", func(step struct {
		AdvanceSeconds float64 `json:"advanceSeconds"`
	},
	) (any, error) {
		d := time.Duration(step.AdvanceSeconds * float64(time.Second))
		if math.Abs(step.AdvanceSeconds) > maxAdvance.Seconds() {
			return nil, fmt.Errorf("advanceSeconds %v is out of range", step.AdvanceSeconds)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.st.Advance += d
		e.changed()
		return object{"now": stamp(e.now())}, nil
	})
	control(e, "PUT /_emulator/faults", func(body json.RawMessage) (any, error) {
		rules, err := parseFaults(body)
		if err != nil {
			return nil, err
		}
		e.setFaults(rules)
		return nil, nil
	})
	e.mux.HandleFunc("DELETE /_emulator/faults", func(w http.ResponseWriter, _ *http.Request) {
		e.setFaults(nil)
		w.WriteHeader(http.StatusNoContent)
	})
	e.mux.HandleFunc("GET /_emulator/requests", func(w http.ResponseWriter, r *http.Request) {
		since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		if r.URL.Query().Has("since") && err != nil {
			e.answer(w, nil, fmt.Errorf("since: %w", err))
			return
		}
		e.mu.Lock()
		items := e.requests.after(since)
		e.mu.Unlock()
		e.answer(w, object{"items": items}, nil)
	})
	e.mux.HandleFunc("/_emulator/", func(w http.ResponseWriter, r *http.Request) {
		e.answer(w, nil, notFound(r.Method+" "+r.URL.Path))
	})
}

// control serves one method that takes a JSON document of type T. Unknown fields are refused: a misspelt one would be a test
// that tests nothing. An error that says nothing else is the caller's: 400.
func control[T any](e *Emulator, pattern string, fn func(T) (any, error)) {
	e.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			e.answer(w, nil, err)
			return
		}
		var in T
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			e.answer(w, nil, err)
			return
		}
		v, err := fn(in)
		e.answer(w, v, err)
	})
}

// answer writes a control answer: errors in Google's envelope, nothing as 204.
func (e *Emulator) answer(w http.ResponseWriter, v any, err error) {
	r := reply{status: http.StatusOK, json: v}
	switch known := asAPIError(err); {
	case known != nil:
		r = known.reply()
	case err != nil:
		r = badRequest("badRequest", "%v", err).reply()
	case v == nil:
		r.status = http.StatusNoContent
	}
	body, encodeErr := encodeJSON(r.json)
	if encodeErr != nil {
		e.log.Error().Err(encodeErr).Msg("control answer not encoded")
		r.status, body = http.StatusInternalServerError, nil
	}
	if r.status == http.StatusNoContent {
		body = nil
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(r.status)
	if _, err := w.Write(body); err != nil {
		e.log.Debug().Err(err).Msg("control answer not read")
	}
}

func (e *Emulator) configure(s settings) error {
	if s.AccessTokenSeconds < 0 || s.AccessTokenSeconds > maxAccess {
		return fmt.Errorf("accessTokenSeconds %d is out of range", s.AccessTokenSeconds)
	}
	byUser := map[string][]string{}
	for email, scopes := range s.GrantedScopes {
		byUser[normalEmail(email)] = scopes
	}
	s.GrantedScopes = byUser
	e.mu.Lock()
	defer e.mu.Unlock()
	e.st.Settings = s
	e.changed()
	return nil
}

func (e *Emulator) setFaults(rules []*faultRule) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = rules
}

// loggedRequest is one request to Google's paths.
type loggedRequest struct {
	Seq       int64      `json:"seq"`
	Time      time.Time  `json:"time"`
	Method    string     `json:"method"`
	Path      string     `json:"path"`
	Query     url.Values `json:"query"`
	User      string     `json:"user"`
	Status    int        `json:"status"` // 0 when the connection was cut
	UserAgent string     `json:"userAgent"`
}

// requestLog keeps the last requestLogSize requests.
type requestLog struct {
	last int64
	ring []loggedRequest // the request with number n is at (n-1) % requestLogSize
}

func (l *requestLog) add(r loggedRequest) {
	l.last++
	r.Seq = l.last
	if len(l.ring) < requestLogSize {
		l.ring = append(l.ring, r)
		return
	}
	l.ring[(r.Seq-1)%requestLogSize] = r
}

// after returns the requests with a higher number, oldest first.
func (l *requestLog) after(seq int64) []loggedRequest {
	first := max(seq, l.last-int64(len(l.ring)), 0) + 1
	items := []loggedRequest{}
	for n := first; n <= l.last; n++ {
		items = append(items, l.ring[(n-1)%requestLogSize])
	}
	return items
}

// record logs a request before its answer is written, so that whoever has the answer finds it in the log.
func (e *Emulator) record(c *call, status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests.add(loggedRequest{
		Time: e.now(), Method: c.Method, Path: c.path, Query: c.query, User: c.email, Status: status, UserAgent: c.UserAgent(),
	})
}
