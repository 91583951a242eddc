package events

import "time"

// What a flag was set to, for [FlagChanged].
const (
	FlagOn      = "on"
	FlagOff     = "off"
	FlagCleared = "cleared"
)

// FlagChanged is the data of flag.changed. It stands alone; its subject is the flag.
type FlagChanged struct {
	Name      string    `json:"name"               rule:"word" values:"session_cache|workspace_cache|ai_cache|sync_async" doc:"The flag."`
	Value     string    `json:"value"              rule:"enum" values:"on|off|cleared" doc:"What it is now; cleared is back to its default."`
	Reason    string    `json:"reason,omitempty"   rule:"text" doc:"Why, in the operator's words."`
	ExpiresAt time.Time `json:"expiresAt,omitzero" rule:"time" doc:"When it clears itself."`
}

func (p FlagChanged) key() key { return key{id: p.Name} }
