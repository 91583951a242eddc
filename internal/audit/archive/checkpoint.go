package archive

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/internal/audit"
	"fdc/internal/platform/backup"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// Checkpoint is what is signed every hour about months that are still in the database: of each hour that is over how many rows it has,
// and their Merkle root. Checkpoints are a chain in a stream that nothing can be taken out of.
type Checkpoint struct {
	Format   int       `json:"format"` // 1
	Time     time.Time `json:"time"`
	Previous string    `json:"previous"` // SHA-256 of the checkpoint before, empty in the first
	Archive  Head      `json:"archive"`
	Hours    []Hour    `json:"hours"` // of the log's time, in UTC
}

// Head is the newest manifest of the archive: with it, a chain of manifests that was cut at its end is found, too.
type Head struct {
	Sequence int64  `json:"sequence"` // 0: nothing was archived yet
	SHA256   string `json:"sha256"`
}

// Hour is an hour of the log.
type Hour struct {
	Start      time.Time `json:"start"`
	Rows       int64     `json:"rows"`
	MerkleRoot string    `json:"merkleRoot"`
}

const (
	checkpointLock  = 0x0fdc_a0d5
	checkpointEvery = time.Hour
	checkpointRetry = time.Minute
	// settleTime is how long after its end an hour is left to stragglers.
	settleTime = 10 * time.Minute
	// lookBack is how many hours are looked at again, for those who came later than that.
	lookBack = 3
	// maxHours is how many hours one checkpoint tells of.
	maxHours = 1000

	signatureHeader = "Fdc-Signature"
)

// Checkpointer signs checkpoints. Run it in every copy: who finds another at it lets it.
type Checkpointer struct {
	DB  postgres.Config
	JS  jetstream.JetStream
	Key ed25519.PrivateKey
	Log zerolog.Logger

	// Keys reads the chain of keys from the archive, for checkpoints of a key that was replaced; nil: none ever was.
	Keys func(ctx context.Context) (*Keys, error)
}

// Run makes a checkpoint every hour, and one at once, until ctx ends; then it returns nil. One that failed is tried again sooner.
func (c *Checkpointer) Run(ctx context.Context) error {
	for {
		next := checkpointEvery
		if err := c.Checkpoint(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.Log.Error().Err(err).Str("component", "audit").Msg("no checkpoint of the audit log")
			next = checkpointRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// Checkpoint signs the hours that have ended since the last one, and anew those near the end that have grown.
func (c *Checkpointer) Checkpoint(ctx context.Context, now time.Time) error {
	conn, err := postgres.Connect(ctx, c.DB, "fdc-audit-checkpoint")
	if err != nil {
		return err
	}
	defer postgres.HangUp(ctx, conn)
	var mine bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, checkpointLock).Scan(&mine); err != nil || !mine {
		return err
	}
	history, err := c.history(ctx)
	if err != nil {
		return err
	}
	if err := c.mayBegin(ctx, conn, history); err != nil {
		return err
	}
	for more := true; more; {
		if more, err = c.sign(ctx, conn, history, now); err != nil {
			return err
		}
	}
	return nil
}

// history reads the checkpoints. The archive is only needed when another key has signed some of them.
func (c *Checkpointer) history(ctx context.Context) (*History, error) {
	public := Public(c.Key)
	history, err := ReadCheckpoints(ctx, c.JS, Trust(public))
	if !errors.Is(err, errSignature) || c.Keys == nil {
		return history, err
	}
	keys, err := c.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the chain of keys: %w", err)
	}
	if !keys.newest().Equal(public) {
		return nil, errReplaced
	}
	return ReadCheckpoints(ctx, c.JS, keys)
}

// mayBegin refuses to begin a chain while the one before is to be restored: two could not be joined.
func (c *Checkpointer) mayBegin(ctx context.Context, conn *pgx.Conn, history *History) error {
	if history.sequence > 0 {
		return nil
	}
	stream, err := c.JS.Stream(ctx, bus.Checkpoints)
	if err != nil {
		return fmt.Errorf("look up %s: %w", bus.Checkpoints, err)
	}
	lost, err := backup.Lost(ctx, conn, bus.Checkpoints, stream.CachedInfo().Created)
	if err == nil && lost {
		err = fmt.Errorf("the checkpoints before are in the backup only; run fdc migrate, which restores %s", bus.Checkpoints)
	}
	return err
}

// sign makes one checkpoint, when there is anything to tell, and reports whether there is more.
func (c *Checkpointer) sign(ctx context.Context, conn *pgx.Conn, history *History, now time.Time) (more bool, err error) {
	end := now.UTC().Add(-settleTime).Truncate(time.Hour)
	begin := end.Add(-lookBack * time.Hour)
	if history.until.Before(begin) {
		begin = history.until
	}
	next := Checkpoint{Format: manifestFormat, Time: now.UTC().Truncate(time.Microsecond), Previous: history.digest, Hours: []Hour{}}
	hours, more, err := readHours(ctx, conn, begin, end, maxHours)
	if err != nil {
		return false, err
	}
	for _, h := range hours {
		if known, ok := history.Hours[h.Start]; !ok || known != h {
			next.Hours = append(next.Hours, h)
		}
	}
	last, err := lastManifest(ctx, conn, "")
	if err != nil {
		return false, err
	}
	if last != nil {
		next.Archive = Head{Sequence: last.Sequence, SHA256: last.name()}
	}
	if len(next.Hours) == 0 && next.Archive == history.Head {
		return false, nil
	}
	raw, err := json.Marshal(next)
	if err != nil {
		return false, fmt.Errorf("write checkpoint: %w", err)
	}
	signature := base64.StdEncoding.EncodeToString(sign(c.Key, signedCheckpoint, raw))
	msg := &nats.Msg{Subject: bus.CheckpointSubject, Data: raw, Header: nats.Header{signatureHeader: []string{signature}}}
	// Whoever lost the lock without noticing finds the chain grown.
	if _, err := c.JS.PublishMsg(ctx, msg, jetstream.WithExpectLastSequence(history.sequence)); err != nil {
		return false, fmt.Errorf("publish checkpoint: %w", err)
	}
	history.add(next, raw, history.sequence+1)
	return more, nil
}

// readHours reads the log from one time up to another, up to so many hours that have rows.
func readHours(ctx context.Context, q postgres.Querier, begin, end time.Time, most int) (hours []Hour, more bool, err error) {
	if !begin.Before(end) {
		return nil, false, nil
	}
	var trees []*tree
	errEnough := errors.New("enough")
	sql := `(SELECT * FROM audit_logs WHERE occurred_at >= $1 AND occurred_at < $2) AS a`
	err = eachRow(ctx, q, sql, []any{begin, end}, func(r *audit.Row, line []byte) error {
		start := r.OccurredAt.UTC().Truncate(time.Hour)
		if len(hours) == 0 || hours[len(hours)-1].Start != start {
			if len(hours) == most {
				return errEnough
			}
			hours = append(hours, Hour{Start: start})
			trees = append(trees, newTree())
		}
		t := trees[len(trees)-1]
		t.add(t.leaf(line))
		hours[len(hours)-1].Rows++
		return nil
	})
	if errors.Is(err, errEnough) {
		more, err = true, nil
	}
	for i, t := range trees {
		hours[i].MerkleRoot = t.root().String()
	}
	return hours, more, err
}

// History is what the checkpoints say together.
type History struct {
	Hours map[time.Time]Hour // the newest of each
	Head  Head

	until    time.Time // hours from here on have not been signed
	sequence uint64    // of the last one
	digest   string
}

func (h *History) add(c Checkpoint, raw []byte, sequence uint64) {
	for _, hour := range c.Hours {
		h.Hours[hour.Start] = hour
		if end := hour.Start.Add(time.Hour); end.After(h.until) {
			h.until = end
		}
	}
	h.Head, h.sequence, h.digest = c.Archive, sequence, digest(sha256.Sum256(raw)).String()
}

// Cut reports when the archive is shorter than the checkpoints say, or another one.
func (h *History) Cut(archive []Manifest) *Finding {
	if h.Head.Sequence == 0 {
		return nil
	}
	for _, m := range archive {
		if m.Sequence == h.Head.Sequence {
			if m.digest != h.Head.SHA256 {
				return &Finding{Sequence: m.Sequence, Month: m.Month, Problem: "the manifest is not the one that the checkpoints name"}
			}
			return nil
		}
	}
	return &Finding{Sequence: h.Head.Sequence, Problem: fmt.Sprintf("the checkpoints know of a month with the number %d, which the archive has not", h.Head.Sequence)}
}

// ReadCheckpoints reads all of them, and fails when one isn't genuine or is missing. None by an older key follows one by a newer.
func ReadCheckpoints(ctx context.Context, js jetstream.JetStream, keys *Keys) (*History, error) {
	current := 0 // of the keys
	h := &History{Hours: map[time.Time]Hour{}}
	stream, err := js.Stream(ctx, bus.Checkpoints)
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	for last := stream.CachedInfo().State.LastSeq; h.sequence < last; {
		msg, err := stream.GetMsg(ctx, h.sequence+1)
		if err != nil {
			return nil, fmt.Errorf("read checkpoint %d: %w", h.sequence+1, err)
		}
		signature, err := base64.StdEncoding.DecodeString(msg.Header.Get(signatureHeader))
		for err == nil && current < len(keys.keys) && !verify(keys.keys[current], signedCheckpoint, msg.Data, signature) {
			current++
		}
		if err != nil || current == len(keys.keys) {
			return nil, fmt.Errorf("checkpoint %d can't be trusted: %w", msg.Sequence, errSignature)
		}
		var c Checkpoint
		if err := json.Unmarshal(msg.Data, &c); err != nil || c.Format != manifestFormat {
			return nil, fmt.Errorf("checkpoint %d: not of a format that this version knows", msg.Sequence)
		}
		if c.Previous != h.digest {
			return nil, fmt.Errorf("checkpoint %d does not follow the one before it: one was changed, or put in between", msg.Sequence)
		}
		h.add(c, msg.Data, msg.Sequence)
	}
	return h, nil
}

// VerifyLive compares a month in the database with the checkpoints. Rows that came later than the last checkpoint of their hour (a
// replay, a dead letter that was requeued) are no findings; added counts them.
func VerifyLive(ctx context.Context, q postgres.Querier, history *History, name string) (rows, added int64, findings []Finding, err error) {
	m, err := audit.ParseMonth(name)
	if err != nil {
		return 0, 0, nil, err
	}
	hours, _, err := readHours(ctx, q, m.Start(), m.Add(1).Start(), 24*31+1)
	if err != nil {
		return 0, 0, nil, err
	}
	found := map[time.Time]Hour{}
	for _, h := range hours {
		found[h.Start] = h
		rows += h.Rows
	}
	for start, signed := range history.Hours {
		if audit.MonthOf(start) != m {
			continue
		}
		now := found[start]
		of := start.Format("2006-01-02 15:00Z")
		switch {
		case now.Rows < signed.Rows:
			findings = append(findings, Finding{Month: name, Problem: fmt.Sprintf("%s has %d rows; %d were signed for: some are missing", of, now.Rows, signed.Rows)})
		case now.Rows > signed.Rows:
			added += now.Rows - signed.Rows
		case now.MerkleRoot != signed.MerkleRoot:
			findings = append(findings, Finding{Month: name, Problem: of + " does not have the rows that were signed for: some were changed"})
		}
	}
	slices.SortFunc(findings, func(a, b Finding) int { return cmp.Compare(a.Problem, b.Problem) })
	return rows, added, findings, nil
}
