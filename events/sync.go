package events

import "time"

// What a sync covers and how, for the sync events.
const (
	SyncTasks    = "tasks"
	SyncCalendar = "calendar"
	SyncFull     = "full" // both

	SyncIncremental = "incremental"
	SyncResync      = "resync"
)

// Who asked for a sync, for [SyncRequested].
const (
	TriggerUser     = "user"
	TriggerSchedule = "schedule"
	TriggerWebhook  = "webhook"
	TriggerConnect  = "connect"
)

// SyncRequested is the data of sync.requested.
type SyncRequested struct {
	JobID   string `json:"jobId"   rule:"id"      doc:"The job."`
	UserID  string `json:"userId"  rule:"id"      doc:"Whose Google account."`
	Version int64  `json:"version" rule:"version" doc:"The job's version after the fact."`
	Type    string `json:"type"    rule:"enum"    values:"tasks|calendar|full" doc:"What it covers."`
	Mode    string `json:"mode"    rule:"enum"    values:"incremental|resync" doc:"Only what changed, or all anew."`
	Trigger string `json:"trigger" rule:"word"    values:"user|schedule|webhook|connect" doc:"Who asked."`
}

func (p SyncRequested) key() key { return syncKey(p.JobID, p.UserID, p.Version) }

// SyncStarted is the data of sync.started.
type SyncStarted struct {
	JobID   string `json:"jobId"   rule:"id"      doc:"The job."`
	UserID  string `json:"userId"  rule:"id"      doc:"Whose Google account."`
	Version int64  `json:"version" rule:"version" doc:"The job's version after the fact."`
	Type    string `json:"type"    rule:"enum"    values:"tasks|calendar|full" doc:"What it covers."`
	Mode    string `json:"mode"    rule:"enum"    values:"incremental|resync" doc:"Only what changed, or all anew."`
	Attempt int64  `json:"attempt" rule:"count"   doc:"Which attempt this is, from 1."`
}

func (p SyncStarted) key() key { return syncKey(p.JobID, p.UserID, p.Version) }

// SyncCompleted is the data of sync.completed.
type SyncCompleted struct {
	JobID    string     `json:"jobId"    rule:"id"      doc:"The job."`
	UserID   string     `json:"userId"   rule:"id"      doc:"Whose Google account."`
	Version  int64      `json:"version"  rule:"version" doc:"The job's version after the fact."`
	Type     string     `json:"type"     rule:"enum"    values:"tasks|calendar|full" doc:"What it covered."`
	Mode     string     `json:"mode"     rule:"enum"    values:"incremental|resync" doc:"Only what changed, or all anew."`
	Tasks    SyncCounts `json:"tasks"    rule:"object"  doc:"What happened to tasks."`
	Calendar SyncCounts `json:"calendar" rule:"object"  doc:"What happened to calendar events."`
	APICalls int64      `json:"apiCalls" rule:"count"   doc:"Requests to Google."`
	Warnings int64      `json:"warnings" rule:"count"   doc:"How many warnings the result has."`
}

func (p SyncCompleted) key() key { return syncKey(p.JobID, p.UserID, p.Version) }

// SyncCounts is what one kind of sync did.
type SyncCounts struct {
	Created   int64 `json:"created"   rule:"count" doc:"Made here, found at Google."`
	Updated   int64 `json:"updated"   rule:"count" doc:"Changed here after a change at Google."`
	Deleted   int64 `json:"deleted"   rule:"count" doc:"Deleted here after a deletion at Google."`
	Pushed    int64 `json:"pushed"    rule:"count" doc:"Made, changed or deleted at Google."`
	Conflicts int64 `json:"conflicts" rule:"count" doc:"Changed on both sides since the last sync."`
	Failed    int64 `json:"failed"    rule:"count" doc:"Refused by Google and left for the next sync."`
}

// SyncFailed is the data of sync.failed.
type SyncFailed struct {
	JobID     string `json:"jobId"     rule:"id"      doc:"The job."`
	UserID    string `json:"userId"    rule:"id"      doc:"Whose Google account."`
	Version   int64  `json:"version"   rule:"version" doc:"The job's version after the fact."`
	Type      string `json:"type"      rule:"enum"    values:"tasks|calendar|full" doc:"What it covered."`
	Mode      string `json:"mode"      rule:"enum"    values:"incremental|resync" doc:"Only what changed, or all anew."`
	Attempt   int64  `json:"attempt"   rule:"count"   doc:"How many attempts were made."`
	Code      string `json:"code"      rule:"word"    values:"reauth_required|rate_limited|google_unavailable|timeout|sweep_guard|internal" doc:"What went wrong, as in the job's error.code."`
	Retryable bool   `json:"retryable" rule:"bool"    doc:"Whether asking again may help."`
}

func (p SyncFailed) key() key { return syncKey(p.JobID, p.UserID, p.Version) }

// SyncRetried is the data of sync.retried: an attempt has failed, and there will be another.
type SyncRetried struct {
	JobID     string    `json:"jobId"     rule:"id"      doc:"The job."`
	UserID    string    `json:"userId"    rule:"id"      doc:"Whose Google account."`
	Version   int64     `json:"version"   rule:"version" doc:"The job's version after the fact."`
	Type      string    `json:"type"      rule:"enum"    values:"tasks|calendar|full" doc:"What it covers."`
	Mode      string    `json:"mode"      rule:"enum"    values:"incremental|resync" doc:"Only what changed, or all anew."`
	Attempt   int64     `json:"attempt"   rule:"count"   doc:"Which attempt has failed, from 1."`
	Code      string    `json:"code"      rule:"word"    values:"rate_limited|google_unavailable|timeout|internal" doc:"What went wrong, as in the job's error.code."`
	NotBefore time.Time `json:"notBefore" rule:"time"    doc:"When the next attempt may begin."`
}

func (p SyncRetried) key() key { return syncKey(p.JobID, p.UserID, p.Version) }

// SyncCancelled is the data of sync.cancelled.
type SyncCancelled struct {
	JobID   string `json:"jobId"   rule:"id"      doc:"The job."`
	UserID  string `json:"userId"  rule:"id"      doc:"Whose Google account."`
	Version int64  `json:"version" rule:"version" doc:"The job's version after the fact."`
}

func (p SyncCancelled) key() key { return syncKey(p.JobID, p.UserID, p.Version) }

// SyncProgress is the data of sync.progress, which is told once over core NATS and never stored: the next one makes it
// worthless.
type SyncProgress struct {
	JobID  string `json:"jobId"  rule:"id"    doc:"The job."`
	UserID string `json:"userId" rule:"id"    doc:"Whose Google account."`
	Phase  string `json:"phase"  rule:"word"  values:"tasks|calendar|push" doc:"What it is doing."`
	Done   int64  `json:"done"   rule:"count" doc:"Items handled in the phase."`
	Total  int64  `json:"total"  rule:"count" doc:"Items known in the phase; 0 while unknown."`
}

func (p SyncProgress) key() key { return key{id: p.JobID, user: p.UserID} }

func syncKey(job, user string, version int64) key {
	return key{aggregate: "sync_job", id: job, version: version, user: user}
}
