package gsync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
)

// allSealed are all rows that hold tokens: the table, the row's id, whose tokens they are and when they were stored.
const allSealed = `(
	SELECT 'google_accounts' AS place, user_id AS id, user_id, access_token, refresh_token, updated_at FROM google_accounts
	UNION ALL
	SELECT 'google_revocations', id, user_id, access_token, refresh_token, created_at FROM google_revocations
) a`

// TokenKeys counts the stored tokens by the version of the key that they are sealed with.
func (s *Service) TokenKeys(ctx context.Context) (map[string]int64, error) {
	rows, err := s.ob.Pool().Query(ctx, `
		SELECT encode(substr(t.token, 2, get_byte(t.token, 0)), 'escape'), count(*)
		FROM `+allSealed+` CROSS JOIN LATERAL (VALUES (a.access_token), (a.refresh_token)) t (token)
		WHERE t.token IS NOT NULL GROUP BY 1`)
	if err != nil {
		return nil, postgres.Fault(fmt.Errorf("count sealed tokens: %w", err))
	}
	counts := map[string]int64{}
	var version string
	var count int64
	_, err = pgx.ForEachRow(rows, []any{&version, &count}, func() error {
		counts[version] = count
		return nil
	})
	if err != nil {
		return nil, postgres.Fault(fmt.Errorf("count sealed tokens: %w", err))
	}
	return counts, nil
}

// resealBatch is how many accounts are looked up at a time.
const resealBatch = 100

// Reseal seals every stored token under the current key, account by account, while all else goes on: an account's row is locked
// for a moment, so that no token that a refresh brings is replaced by the one before. It may be broken off and called again.
// What can't be opened is left as it is and part of the error at the end. tell, called after each batch, hears how many were done.
func (s *Service) Reseal(ctx context.Context, meta events.Meta, tell func(resealed int64)) (resealed int64, err error) {
	resealed, err = s.reseal(ctx, tell)
	if resealed == 0 {
		return 0, err
	}
	ctx = context.WithoutCancel(ctx) // what was done is done, however it ended
	told := s.ob.Tx(ctx, func(tx pgx.Tx) error {
		return outbox.Append(ctx, tx, events.New(meta, "", events.OpsKeysRotated{Key: s.keys.Current(), Resealed: resealed}))
	})
	return resealed, errors.Join(err, told)
}

func (s *Service) reseal(ctx context.Context, tell func(resealed int64)) (resealed int64, err error) {
	var unreadable []error
	for after := (tokenRow{ID: nilUUID}); ; {
		found, err := s.sealedOtherwise(ctx, after)
		if err != nil {
			return resealed, errors.Join(append(unreadable, err)...)
		}
		for _, row := range found {
			n, err := s.resealRow(ctx, row)
			if sealed, ok := errors.AsType[*unreadableError](err); ok {
				unreadable = append(unreadable, sealed)
			} else if err != nil {
				return resealed, errors.Join(append(unreadable, err)...)
			}
			resealed += n
		}
		tell(resealed)
		if len(found) < resealBatch {
			return resealed, errors.Join(unreadable...)
		}
		after = found[len(found)-1]
	}
}

// unreadableError is a token that none of the keys opens.
type unreadableError struct{ err error }

func (e *unreadableError) Error() string { return e.err.Error() }
func (e *unreadableError) Unwrap() error { return e.err }

// tokenRow is a row of allSealed.
type tokenRow struct{ Place, ID, UserID string }

// sealedOtherwise lists rows after one that have a token under another key than the current one.
func (s *Service) sealedOtherwise(ctx context.Context, after tokenRow) ([]tokenRow, error) {
	prefix := append([]byte{byte(len(s.keys.Current()))}, s.keys.Current()...) //nolint:gosec // ParseKeys bounds it
	rows, err := s.ob.Pool().Query(ctx, `
		SELECT place, id::text, user_id::text FROM `+allSealed+`
		WHERE (place, id) > ($1, $2) AND (substr(access_token, 1, length($3::bytea)) <> $3 OR substr(refresh_token, 1, length($3)) <> $3)
		ORDER BY place, id LIMIT $4`, after.Place, after.ID, prefix, resealBatch)
	if err != nil {
		return nil, postgres.Fault(fmt.Errorf("find tokens to seal anew: %w", err))
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[tokenRow])
	if err != nil {
		return nil, postgres.Fault(fmt.Errorf("find tokens to seal anew: %w", err))
	}
	return found, nil
}

func (s *Service) resealRow(ctx context.Context, row tokenRow) (resealed int64, err error) {
	key := map[string]string{"google_accounts": "user_id", "google_revocations": "id"}[row.Place]
	err = s.ob.Tx(ctx, func(tx pgx.Tx) error {
		resealed = 0
		var access, refresh []byte
		err := tx.QueryRow(ctx, `SELECT access_token, refresh_token FROM `+row.Place+` WHERE `+key+` = $1 FOR UPDATE`, row.ID).
			Scan(&access, &refresh)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // gone meanwhile
		}
		if err != nil {
			return fmt.Errorf("lock tokens of user %s: %w", row.UserID, err)
		}
		for kind, token := range map[string]*[]byte{kindAccess: &access, kindRefresh: &refresh} {
			if len(*token) == 0 || seal.VersionOf(*token) == s.keys.Current() {
				continue
			}
			plain, err := s.open(row.UserID, kind, *token)
			if err != nil {
				return &unreadableError{err}
			}
			*token = s.seal(row.UserID, kind, plain)
			resealed++
		}
		if _, err := tx.Exec(ctx, `UPDATE `+row.Place+` SET access_token = $2, refresh_token = $3 WHERE `+key+` = $1`,
			row.ID, access, refresh); err != nil {
			return fmt.Errorf("seal tokens of user %s anew: %w", row.UserID, err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return resealed, nil
}

// KeyTrial is what became of the stored tokens that are sealed with one key.
type KeyTrial struct {
	Key        string // its version
	Known      bool   // whether we have a key of that version
	Sealed     int64
	Opened     int // of those that were tried
	Unreadable int
}

// TryTokens opens some of the stored tokens of every key, the newest ones, and forgets them again.
func (s *Service) TryTokens(ctx context.Context, each int) ([]KeyTrial, error) {
	counts, err := s.TokenKeys(ctx)
	if err != nil {
		return nil, err
	}
	var trials []KeyTrial
	for _, version := range slices.Sorted(maps.Keys(counts)) {
		trial := KeyTrial{Key: version, Known: slices.Contains(s.keys.Versions(), version), Sealed: counts[version]}
		if trial.Known {
			if err := s.try(ctx, &trial, each); err != nil {
				return nil, err
			}
		}
		trials = append(trials, trial)
	}
	return trials, nil
}

func (s *Service) try(ctx context.Context, trial *KeyTrial, limit int) error {
	prefix := append([]byte{byte(len(trial.Key))}, trial.Key...) //nolint:gosec // ParseKeys bounds it
	rows, err := s.ob.Pool().Query(ctx, `
		SELECT user_id::text, t.kind, t.token
		FROM `+allSealed+` CROSS JOIN LATERAL (VALUES ($3::text, a.access_token), ($4::text, a.refresh_token)) t (kind, token)
		WHERE substr(t.token, 1, length($1::bytea)) = $1 ORDER BY updated_at DESC LIMIT $2`, prefix, limit, kindAccess, kindRefresh)
	if err != nil {
		return postgres.Fault(fmt.Errorf("read tokens sealed with %s: %w", trial.Key, err))
	}
	var userID, kind string
	var sealed []byte
	_, err = pgx.ForEachRow(rows, []any{&userID, &kind, &sealed}, func() error {
		if _, err := s.open(userID, kind, sealed); err != nil {
			trial.Unreadable++
		} else {
			trial.Opened++
		}
		return nil
	})
	if err != nil {
		return postgres.Fault(fmt.Errorf("read tokens sealed with %s: %w", trial.Key, err))
	}
	return nil
}
