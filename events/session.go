package events

// Why a session ended, for [SessionRevoked].
const (
	RevokedLogout     = "logout"
	RevokedByUser     = "revoked"
	RevokedOthers     = "revoked_others"
	RevokedRoleChange = "role_change"
	RevokedExpired    = "expired"
	RevokedDisabled   = "disabled"
	RevokedErased     = "erased"
	RevokedReplaced   = "replaced" // somebody signed in with the same browser
)

// RotatedRoleChange is why a session got a new token, for [SessionRotated].
const RotatedRoleChange = "role_change"

// SessionCreated is the data of session.created.
type SessionCreated struct {
	SessionID string `json:"sessionId" rule:"id"      doc:"The session (never its token)."`
	UserID    string `json:"userId"    rule:"id"      doc:"Whose it is."`
	Version   int64  `json:"version"   rule:"version" doc:"The session's version after the fact."`
	Method    string `json:"method"    rule:"word"    values:"google" doc:"How the user proved who they are."`
}

func (p SessionCreated) key() key { return sessionKey(p.SessionID, p.UserID, p.Version) }

// SessionRevoked is the data of session.revoked.
type SessionRevoked struct {
	SessionID string `json:"sessionId" rule:"id"      doc:"The session (never its token)."`
	UserID    string `json:"userId"    rule:"id"      doc:"Whose it was."`
	Version   int64  `json:"version"   rule:"version" doc:"The session's version after the fact."`
	Reason    string `json:"reason"    rule:"word"    values:"logout|revoked|revoked_others|role_change|expired|disabled|erased|replaced" doc:"Why it ended."`
}

func (p SessionRevoked) key() key { return sessionKey(p.SessionID, p.UserID, p.Version) }

// SessionRotated is the data of session.rotated.
type SessionRotated struct {
	SessionID string `json:"sessionId" rule:"id"      doc:"The session (never its token)."`
	UserID    string `json:"userId"    rule:"id"      doc:"Whose it is."`
	Version   int64  `json:"version"   rule:"version" doc:"The session's version after the fact."`
	Reason    string `json:"reason"    rule:"word"    values:"role_change" doc:"Why its token was replaced."`
}

func (p SessionRotated) key() key { return sessionKey(p.SessionID, p.UserID, p.Version) }

// SessionReauthenticated is the data of session.reauthenticated.
type SessionReauthenticated struct {
	SessionID string `json:"sessionId" rule:"id"      doc:"The session (never its token)."`
	UserID    string `json:"userId"    rule:"id"      doc:"Whose it is."`
	Version   int64  `json:"version"   rule:"version" doc:"The session's version after the fact."`
}

func (p SessionReauthenticated) key() key { return sessionKey(p.SessionID, p.UserID, p.Version) }

func sessionKey(session, user string, version int64) key {
	return key{aggregate: "session", id: session, version: version, user: user}
}
