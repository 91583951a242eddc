package events

// AuthLoginFailed is the data of auth.login_failed. It stands alone.
type AuthLoginFailed struct {
	Reason string `json:"reason"          rule:"word"  values:"consent_denied|state_mismatch|code_refused|email_unverified|account_disabled|email_taken" doc:"Why it was refused."`
	Email  string `json:"email,omitempty" rule:"email" doc:"Who tried, masked, where known."`
}

func (p AuthLoginFailed) key() key { return key{} }

// AccessDenied is the data of access.denied. It stands alone; its subject is what was asked for.
type AccessDenied struct {
	Method string `json:"method" rule:"label" doc:"The HTTP method."`
	Route  string `json:"route"  rule:"label" doc:"The route's pattern, without the ids of the request."`
	Reason string `json:"reason" rule:"word"  values:"role|csrf|system_role" doc:"Which right was missing."`
}

func (p AccessDenied) key() key { return key{} }
