package events

import "time"

// AuditPartitionCreated is the data of audit.partition_created. It stands alone; its subject is the month.
type AuditPartitionCreated struct {
	Month string `json:"month" rule:"month" doc:"The month, in UTC."`
}

func (p AuditPartitionCreated) key() key { return key{id: p.Month} }

// AuditPartitionArchived is the data of audit.partition_archived. It stands alone; its subject is the month.
type AuditPartitionArchived struct {
	Month      string `json:"month"      rule:"month"  doc:"The month, in UTC."`
	Rows       int64  `json:"rows"       rule:"count"  doc:"How many rows it has."`
	Bytes      int64  `json:"bytes"      rule:"count"  doc:"The archive's size."`
	SHA256     string `json:"sha256"     rule:"digest" doc:"The archive's digest."`
	MerkleRoot string `json:"merkleRoot" rule:"digest" doc:"The root over its rows, as signed in the manifest."`
}

func (p AuditPartitionArchived) key() key { return key{id: p.Month} }

// AuditPartitionRestored is the data of audit.partition_restored. It stands alone; its subject is the month.
type AuditPartitionRestored struct {
	Month string `json:"month" rule:"month" doc:"The month, in UTC."`
	Rows  int64  `json:"rows"  rule:"count" doc:"How many rows came back."`
}

func (p AuditPartitionRestored) key() key { return key{id: p.Month} }

// AuditExported is the data of audit.exported. It stands alone; the attribute workspaceid says whose log it was, all of
// it when there is none.
type AuditExported struct {
	From   time.Time `json:"from,omitzero" rule:"time"  doc:"The first moment asked for."`
	To     time.Time `json:"to,omitzero"   rule:"time"  doc:"The moment asked to stop before."`
	Rows   int64     `json:"rows"          rule:"count" doc:"How many rows went out."`
	Format string    `json:"format"        rule:"word"  values:"ndjson|csv" doc:"In which form."`
}

func (p AuditExported) key() key { return key{} }

// AuditViewed is the data of audit.viewed. It stands alone; the attribute workspaceid says whose log it was, all of it when
// there is none. Who reads on, page after page, is told of once.
type AuditViewed struct {
	From   time.Time `json:"from,omitzero" rule:"time" doc:"The first moment asked for."`
	To     time.Time `json:"to,omitzero"   rule:"time" doc:"The moment asked to stop before."`
	Format string    `json:"format"        rule:"word" values:"json|ndjson|csv" doc:"In which form."`
}

func (p AuditViewed) key() key { return key{} }

// AuditPartitionsLow is the data of audit.partitions_low. It stands alone; its subject is the last month that is ready.
type AuditPartitionsLow struct {
	Month string `json:"month" rule:"month" doc:"The last month, in UTC, that has its partition."`
	Ahead int64  `json:"ahead" rule:"count" doc:"How many months after the current one have theirs."`
}

func (p AuditPartitionsLow) key() key { return key{id: p.Month} }
