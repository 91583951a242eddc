package events

// GoogleConnected is the data of google.connected.
type GoogleConnected struct {
	UserID  string   `json:"userId"  rule:"id"      doc:"The user."`
	Version int64    `json:"version" rule:"version" doc:"The connection's version after the fact."`
	Scopes  []string `json:"scopes"  rule:"labels"  doc:"What the user consented to."`
}

func (p GoogleConnected) key() key { return googleKey(p.UserID, p.Version) }

// GoogleDisconnected is the data of google.disconnected.
type GoogleDisconnected struct {
	UserID  string `json:"userId"  rule:"id"      doc:"The user."`
	Version int64  `json:"version" rule:"version" doc:"The connection's version after the fact."`
	Reason  string `json:"reason"  rule:"word"    values:"user|account_disabled|account_erased" doc:"Why."`
}

func (p GoogleDisconnected) key() key { return googleKey(p.UserID, p.Version) }

// GoogleReauthRequired is the data of google.reauth_required.
type GoogleReauthRequired struct {
	UserID  string `json:"userId"  rule:"id"      doc:"The user."`
	Version int64  `json:"version" rule:"version" doc:"The connection's version after the fact."`
	Reason  string `json:"reason"  rule:"word"    values:"invalid_grant|invalid_token|insufficient_scope" doc:"What Google said."`
}

func (p GoogleReauthRequired) key() key { return googleKey(p.UserID, p.Version) }

func googleKey(user string, version int64) key {
	return key{aggregate: "google", id: user, version: version, user: user}
}
