package googleemu

import (
	"errors"
	"fmt"
	"net/http"
)

// apiError is a refusal in the words of Google's APIs.
type apiError struct {
	code     int
	reason   string
	message  string
	domain   string // "global" when empty
	location string // the parameter, header or field that is to blame
	where    string // what location names: parameter, header, other
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.code, e.reason, e.message)
}

// statusNames are the google.rpc codes that go with a status.
var statusNames = map[int]string{
	http.StatusBadRequest:          "INVALID_ARGUMENT",
	http.StatusUnauthorized:        "UNAUTHENTICATED",
	http.StatusForbidden:           "PERMISSION_DENIED",
	http.StatusNotFound:            "NOT_FOUND",
	http.StatusConflict:            "ALREADY_EXISTS",
	http.StatusPreconditionFailed:  "FAILED_PRECONDITION",
	http.StatusTooManyRequests:     "RESOURCE_EXHAUSTED",
	http.StatusInternalServerError: "INTERNAL",
	http.StatusServiceUnavailable:  "UNAVAILABLE",
}

func (e *apiError) reply() reply {
	detail := object{"domain": e.domain, "reason": e.reason, "message": e.message}
	if e.domain == "" {
		detail["domain"] = "global"
	}
	if e.location != "" {
		detail["location"], detail["locationType"] = e.location, e.where
	}
	envelope := object{"code": e.code, "message": e.message, "errors": []object{detail}}
	if name, ok := statusNames[e.code]; ok {
		envelope["status"] = name
	}
	r := reply{status: e.code, json: object{"error": envelope}, header: http.Header{}}
	if e.code == http.StatusUnauthorized {
		r.header.Set("WWW-Authenticate", `Bearer realm="https://accounts.google.com/", error="invalid_token"`)
	}
	return r
}

// refusal turns any error into an answer; what is not Google's to say becomes its generic 500.
func refusal(err error) reply {
	if known := asAPIError(err); known != nil {
		return known.reply()
	}
	return (&apiError{code: http.StatusInternalServerError, reason: "backendError", message: "Internal error: " + err.Error()}).reply()
}

func asAPIError(err error) *apiError {
	known, _ := errors.AsType[*apiError](err)
	return known
}

func badRequest(reason, format string, args ...any) *apiError {
	return &apiError{code: http.StatusBadRequest, reason: reason, message: fmt.Sprintf(format, args...)}
}

func invalidParameter(name, format string, args ...any) *apiError {
	return &apiError{
		code: http.StatusBadRequest, reason: "invalidParameter", message: fmt.Sprintf(format, args...),
		location: name, where: "parameter",
	}
}

func notFound(what string) *apiError {
	return &apiError{code: http.StatusNotFound, reason: "notFound", message: "Not Found: " + what}
}

func forbidden(message string) *apiError {
	return &apiError{code: http.StatusForbidden, reason: "forbidden", message: message}
}

func overQuota(message string) *apiError {
	return &apiError{code: http.StatusForbidden, reason: "quotaExceeded", domain: "usageLimits", message: message}
}

func unauthorized() *apiError {
	return &apiError{
		code: http.StatusUnauthorized, reason: "authError", location: "Authorization", where: "header",
		message: "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.",
	}
}

func insufficientScopes() *apiError {
	return &apiError{code: http.StatusForbidden, reason: "insufficientPermissions", message: "Request had insufficient authentication scopes."}
}

func fullSyncRequired() *apiError {
	return &apiError{
		code: http.StatusGone, domain: "calendar", reason: "fullSyncRequired", location: "syncToken", where: "parameter",
		message: "Sync token is no longer valid, a full sync is required.",
	}
}

func conditionNotMet() *apiError {
	return &apiError{code: http.StatusPreconditionFailed, reason: "conditionNotMet", location: "If-Match", where: "header", message: "Precondition Failed"}
}
