package events

// System roles, for [UserRoleChanged].
const (
	SystemRoleAdmin = "SA"
	SystemRoleUser  = "USER"
)

// UserCreated is the data of user.created.
type UserCreated struct {
	UserID  string `json:"userId"  rule:"id"      doc:"The user."`
	Version int64  `json:"version" rule:"version" doc:"The user's version after the fact."`
	Email   string `json:"email"   rule:"email"   doc:"The address, masked."`
}

func (p UserCreated) key() key { return userKey(p.UserID, p.Version) }

// UserRoleChanged is the data of user.role_changed.
type UserRoleChanged struct {
	UserID  string `json:"userId"  rule:"id"      doc:"The user."`
	Version int64  `json:"version" rule:"version" doc:"The user's version after the fact."`
	From    string `json:"from"    rule:"enum"    values:"SA|USER" doc:"The system role before."`
	To      string `json:"to"      rule:"enum"    values:"SA|USER" doc:"The system role since."`
}

func (p UserRoleChanged) key() key { return userKey(p.UserID, p.Version) }

// UserDisabled is the data of user.disabled.
type UserDisabled struct {
	UserID  string `json:"userId"  rule:"id"      doc:"The user."`
	Version int64  `json:"version" rule:"version" doc:"The user's version after the fact."`
	Reason  string `json:"reason"  rule:"text"    doc:"Why, in the operator's words."`
}

func (p UserDisabled) key() key { return userKey(p.UserID, p.Version) }

// UserEnabled is the data of user.enabled.
type UserEnabled struct {
	UserID  string `json:"userId"  rule:"id"      doc:"The user."`
	Version int64  `json:"version" rule:"version" doc:"The user's version after the fact."`
	Reason  string `json:"reason"  rule:"text"    doc:"Why, in the operator's words."`
}

func (p UserEnabled) key() key { return userKey(p.UserID, p.Version) }

// UserErased is the data of user.erased.
type UserErased struct {
	UserID  string `json:"userId"  rule:"id"      doc:"The user, of whom nothing but this id is known any more."`
	Version int64  `json:"version" rule:"version" doc:"The user's version after the fact."`
	Reason  string `json:"reason"  rule:"text"    doc:"Why, in the operator's words, or that the user wanted it."`
}

func (p UserErased) key() key { return userKey(p.UserID, p.Version) }

func userKey(user string, version int64) key {
	return key{aggregate: "user", id: user, version: version, user: user}
}
