package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// streams are those that are copied.
var streams = []string{"KV_" + bus.Flags, bus.Dead, bus.Checkpoints}

// newestOnly reports whether a stream holds one message per subject: the copy then goes with the next.
func newestOnly(stream string) bool { return stream == "KV_"+bus.Flags }

// message is a row.
type message struct {
	Sequence    int64
	Subject     string
	Headers     nats.Header
	Body        []byte
	PublishedAt time.Time
}

// insert copies messages of an incarnation. One that is there already is written again: the stream is right.
func insert(ctx context.Context, tx pgx.Tx, stream string, created time.Time, batch []message) error {
	n := len(batch)
	sequences, subjects, headers := make([]int64, n), make([]string, n), make([]string, n)
	bodies, times := make([][]byte, n), make([]time.Time, n)
	for i, m := range batch {
		encoded, err := json.Marshal(printable(m.Headers))
		if err != nil {
			return fmt.Errorf("encode headers of message %d of %s: %w", m.Sequence, stream, err)
		}
		sequences[i], subjects[i], headers[i], bodies[i], times[i] = m.Sequence, accepted(m.Subject), string(encoded), m.Body, m.PublishedAt
		if bodies[i] == nil {
			bodies[i] = []byte{} // a delete marker has none
		}
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO stream_backup (stream, created, sequence, subject, headers, body, published_at)
		SELECT $1, $2, sequence, subject, headers::jsonb, body, published_at
		FROM unnest($3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::timestamptz[]) AS m (sequence, subject, headers, body, published_at)
		ON CONFLICT (stream, created, sequence) DO UPDATE
		SET subject = excluded.subject, headers = excluded.headers, body = excluded.body, published_at = excluded.published_at`,
		stream, created, sequences, subjects, headers, bodies, times)
	if err != nil {
		return fmt.Errorf("copy %d messages of %s: %w", n, stream, err)
	}
	if !newestOnly(stream) {
		return nil
	}
	_, err = tx.Exec(ctx, `
		DELETE FROM stream_backup old USING stream_backup new
		WHERE old.stream = $1 AND old.created = $2 AND new.stream = $1 AND new.created = $2
		      AND old.subject = new.subject AND old.sequence < new.sequence`, stream, created)
	if err != nil {
		return fmt.Errorf("forget older messages of %s: %w", stream, err)
	}
	return nil
}

// printable are headers that jsonb takes.
func printable(h nats.Header) map[string][]string {
	clean := make(map[string][]string, len(h))
	for key, values := range h {
		for _, v := range values {
			clean[accepted(key)] = append(clean[accepted(key)], accepted(v))
		}
	}
	return clean
}

// accepted replaces what no text of Postgres may hold.
func accepted(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// copied says how far an incarnation is copied, and how many of its messages up to a sequence have a row.
func copied(ctx context.Context, q postgres.Querier, stream string, created time.Time, upTo uint64) (last, count uint64, err error) {
	err = q.QueryRow(ctx, `
		SELECT coalesce(max(sequence), 0), count(*) FILTER (WHERE sequence <= $3) FROM stream_backup WHERE stream = $1 AND created = $2`,
		stream, created, clamp(upTo)).Scan(&last, &count)
	if err != nil {
		return 0, 0, fmt.Errorf("read the copy of %s: %w", stream, err)
	}
	return last, count, nil
}

// prune takes away rows up to a sequence whose messages are before the stream's first one, or were deleted from it.
func prune(ctx context.Context, q postgres.Querier, stream string, created time.Time, upTo, first uint64, deleted []uint64) error {
	gone := make([]int64, len(deleted))
	for i, sequence := range deleted {
		gone[i] = clamp(sequence)
	}
	_, err := q.Exec(ctx, `
		DELETE FROM stream_backup WHERE stream = $1 AND created = $2 AND sequence <= $3 AND (sequence < $4 OR sequence = ANY($5))`,
		stream, created, clamp(upTo), clamp(first), gone)
	if err != nil {
		return fmt.Errorf("forget what has left %s: %w", stream, err)
	}
	return nil
}

// Forget takes the copies of messages away, in the transaction that tells what has become of them: those with these sequences of
// the stream that was created then, and those of a lost stream that has not been restored in full which have one of the ids.
func Forget(ctx context.Context, tx pgx.Tx, stream string, created time.Time, sequences []uint64, ids []string) error {
	numbers := make([]int64, len(sequences))
	for i, sequence := range sequences {
		numbers[i] = clamp(sequence)
	}
	_, err := tx.Exec(ctx, `DELETE FROM stream_backup WHERE stream = $1 AND created = $2 AND sequence = ANY($3)`, stream, bus.Incarnation(created), numbers)
	if err == nil {
		_, err = tx.Exec(ctx, `
			DELETE FROM stream_backup
			WHERE stream = $1 AND (created < $2 OR created > $2) AND headers->'Nats-Msg-Id'->>0 = ANY($3)`, stream, bus.Incarnation(created), ids)
	}
	if err != nil {
		return fmt.Errorf("take %d messages of %s out of the backup: %w", len(sequences), stream, err)
	}
	return nil
}

// Lost reports whether there are rows of another incarnation of the stream than the one created then.
func Lost(ctx context.Context, q postgres.Querier, stream string, created time.Time) (bool, error) {
	lost, err := others(ctx, q, []string{stream}, []time.Time{bus.Incarnation(created)})
	return len(lost) > 0, err
}

// others returns those of the streams that have rows of another incarnation than the given one. It costs the same however many rows there are.
func others(ctx context.Context, q postgres.Querier, names []string, created []time.Time) ([]string, error) {
	rows, err := q.Query(ctx, `
		SELECT s.name FROM unnest($1::text[], $2::timestamptz[]) AS s (name, created)
		WHERE EXISTS (SELECT FROM stream_backup b WHERE b.stream = s.name AND b.created < s.created)
		   OR EXISTS (SELECT FROM stream_backup b WHERE b.stream = s.name AND b.created > s.created)`, names, created)
	if err != nil {
		return nil, fmt.Errorf("look for copies of lost streams: %w", err)
	}
	lost, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for copies of lost streams: %w", err)
	}
	return lost, nil
}

// clamp makes a sequence Postgres's; NATS counts to 2^63.
func clamp(sequence uint64) int64 {
	const most = 1<<63 - 1
	return int64(min(sequence, most))
}
