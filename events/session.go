package events

// Why a session ended, for [SessionRevoked].
const (
	RevokedLogout     = "logout"
	RevokedByUser     = "revoked"
	RevokedOthers     = "revoked_others"
	RevokedRoleChange = "role_change"
	RevokedExpired    = "expired"
	RevokedDisabled   = "disabled"
)

// SessionCreated is the data of session.created.
type SessionCreated struct {
	SessionID string `json:"sessionId" rule:"id"      doc:"The session (never its token)."`
	UserID    string `json:"userId"    rule:"id"      doc:"Whose it is."`
	Version   int64  `json:"version"   rule:"version" doc:"The session's version after the fact."`
	Method    string `json:"method"    rule:"word"    values:"google" doc:"How the user proved who they are."`
}

func (p SessionCreated) key() key {
	return key{aggregate: "session", id: p.SessionID, version: p.Version, user: p.UserID}
}

// SessionRevoked is the data of session.revoked.
type SessionRevoked struct {
	SessionID string `json:"sessionId" rule:"id"      doc:"The session (never its token)."`
	UserID    string `json:"userId"    rule:"id"      doc:"Whose it was."`
	Version   int64  `json:"version"   rule:"version" doc:"The session's version after the fact."`
	Reason    string `json:"reason"    rule:"word"    values:"logout|revoked|revoked_others|role_change|expired|disabled" doc:"Why it ended."`
}

func (p SessionRevoked) key() key {
	return key{aggregate: "session", id: p.SessionID, version: p.Version, user: p.UserID}
}
