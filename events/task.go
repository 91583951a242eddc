package events

// Where a change came from, for the task events.
const (
	OriginUser   = "user"
	OriginGoogle = "google"
)

// TaskCreated is the data of task.created.
type TaskCreated struct {
	TaskID      string `json:"taskId"           rule:"id"      doc:"The task."`
	WorkspaceID string `json:"workspaceId"      rule:"id"      doc:"Its workspace."`
	Version     int64  `json:"version"          rule:"version" doc:"The task's version after the fact."`
	Origin      string `json:"origin,omitempty" rule:"word"    values:"user|google" doc:"Who made it: a user of FDC, or a sync found it at Google."`
}

func (p TaskCreated) key() key { return taskKey(p.TaskID, p.WorkspaceID, p.Version) }

// TaskUpdated is the data of task.updated.
type TaskUpdated struct {
	TaskID      string   `json:"taskId"           rule:"id"      doc:"The task."`
	WorkspaceID string   `json:"workspaceId"      rule:"id"      doc:"Its workspace."`
	Version     int64    `json:"version"          rule:"version" doc:"The task's version after the fact."`
	Changed     []string `json:"changed"          rule:"paths"   doc:"The names of the fields that changed; * when too many did."`
	Origin      string   `json:"origin,omitempty" rule:"word"    values:"user|google" doc:"Who changed it: a user of FDC, or a sync found the change at Google."`
}

func (p TaskUpdated) key() key { return taskKey(p.TaskID, p.WorkspaceID, p.Version) }

// TaskDeleted is the data of task.deleted.
type TaskDeleted struct {
	TaskID      string `json:"taskId"           rule:"id"      doc:"The task."`
	WorkspaceID string `json:"workspaceId"      rule:"id"      doc:"Its workspace."`
	Version     int64  `json:"version"          rule:"version" doc:"The task's version after the fact."`
	Origin      string `json:"origin,omitempty" rule:"word"    values:"user|google" doc:"Who deleted it: a user of FDC, or a sync found it deleted at Google."`
}

func (p TaskDeleted) key() key { return taskKey(p.TaskID, p.WorkspaceID, p.Version) }

func taskKey(id, workspace string, version int64) key {
	return key{aggregate: "task", id: id, version: version, workspace: workspace}
}
