package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// MonthsAhead is how many months after the current one have their partition made in advance.
const MonthsAhead = 4

// firstMonth is where the log begins. No event of this system is older.
var firstMonth = Month{time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)}

// maxMonthsAhead is how far from now an event may lie in the future and still get a partition.
const maxMonthsAhead = 13

// Source is who makes, archives and restores partitions, in their events, whichever process it is.
const Source = "/fdc/audit-archiver"

// makingLock serialises the making of partitions among all processes; any number that nothing else in the database uses.
const makingLock = 0x0fdc_a0d1

// lockWait bounds the wait for a lock, so that a partition in the making never queues in front of the writers.
const lockWait = 3 * time.Second

// DB is a pool or a connection.
type DB interface {
	postgres.Querier
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Partition is a month of the log or of its archive.
type Partition struct {
	Month string `json:"month"` // YYYY-MM
	State string `json:"state"` // one of the States
	Rows  int64  `json:"rows"`  // an estimate, unless it is archived
	Bytes int64  `json:"bytes"` // with its indexes; of an archived one the archive's
}

// Attached reports whether the month's entries are in the log.
func (p *Partition) Attached() bool { return p.State == StateAttached || p.State == StateRestored }

// States of a partition.
const (
	StateAttached  = "attached"
	StateDetaching = "detaching" // left half-way by a detach that was interrupted
	StateDetached  = "detached"
	StateArchived  = "archived" // in the archive; its table is gone, or soon will be
	StateRestored  = "restored" // attached again, and in the archive too
)

// Partitions lists the months that the database and the archive hold, oldest first.
func Partitions(ctx context.Context, q postgres.Querier) ([]Partition, error) {
	list, err := listPartitions(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("list audit partitions: %w", err)
	}
	archives, err := archived(ctx, q)
	if err != nil {
		return nil, err
	}
	for i := range list {
		of, ok := archives[list[i].Month]
		switch {
		case !ok:
		case of.restored && list[i].State == StateAttached:
			list[i].State = StateRestored
		case !of.restored && list[i].State == StateDetached:
			list[i] = of.Partition // the table waits to be dropped
		}
		delete(archives, list[i].Month)
	}
	for _, of := range archives {
		list = append(list, of.Partition)
	}
	slices.SortFunc(list, func(a, b Partition) int { return strings.Compare(a.Month, b.Month) })
	return list, nil
}

// EnsurePartitions makes the partitions that are missing of the month of now and as many months ahead, and returns the
// new ones (YYYY-MM). It may run in several processes at once: each partition is made, and told as
// audit.partition_created, once.
func EnsurePartitions(ctx context.Context, db DB, now time.Time, aheadMonths int) (created []string, err error) {
	list, err := Partitions(ctx, db)
	if err != nil {
		return nil, err
	}
	attached := attachedMonths(list)
	current := MonthOf(now)
	for n := range aheadMonths + 1 {
		m := current.Add(n)
		if attached[m.String()] {
			continue
		}
		made, err := ensureMonth(ctx, db, m)
		if err != nil {
			return created, err
		}
		if made {
			created = append(created, m.String())
		}
	}
	return created, nil
}

// Ahead counts the months after the current one that have their partition, up to the first gap; -1 when even the
// current one has none.
func Ahead(list []Partition, now time.Time) int {
	attached := attachedMonths(list)
	current := MonthOf(now)
	n := 0
	for attached[current.Add(n).String()] {
		n++
	}
	return n - 1
}

func attachedMonths(list []Partition) map[string]bool {
	attached := make(map[string]bool, len(list))
	for i := range list {
		attached[list[i].Month] = list[i].Attached()
	}
	return attached
}

// errDetached says that a month's table exists outside the log, errArchived that the month has gone to the archive.
var (
	errDetached = errors.New("the partition is detached")
	errArchived = errors.New("the month is in the archive; bring it back with fdc audit restore, then requeue the event")
)

// ensureMonth makes the month's partition and states the fact, in one transaction. It reports false when it was there.
//
// CREATE TABLE … PARTITION OF would lock the log against readers and writers alike, and behind a long export everybody
// would queue. A table made apart and attached takes only SHARE UPDATE EXCLUSIVE on the log, which disturbs neither; it
// is empty, so attaching scans nothing.
func ensureMonth(ctx context.Context, db DB, m Month) (made bool, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if err := LockPartitions(ctx, tx); err != nil {
			return err
		}
		switch state, err := PartitionState(ctx, tx, m); {
		case err != nil:
			return err
		case state == StateAttached:
			return nil
		default:
			archives, err := archived(ctx, tx)
			if err != nil {
				return err
			}
			of, ok := archives[m.String()]
			switch {
			case ok && (state == "" || !of.restored): // its table may still wait to be dropped
				return errArchived
			case state != "":
				return fmt.Errorf("%w (%s)", errDetached, state)
			}
		}
		if err := createPartition(ctx, tx, m); err != nil {
			return err
		}
		made = true
		meta := events.Meta{Source: Source, ActorID: events.SystemActor}
		return outbox.Append(ctx, tx, events.New(meta, "", events.AuditPartitionCreated{Month: m.String()}))
	})
	if err != nil {
		return false, fmt.Errorf("make audit partition %s: %w", m, err)
	}
	return made, nil
}
