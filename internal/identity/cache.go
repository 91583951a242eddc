package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"fdc/events"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// Cache holds live sessions by the hash of their token: the user with the system role, the memberships, the connection to
// Google and the end. An entry's version is the sum of the versions of all rows that it was made of, none of which goes back,
// so that any change of one makes a newer entry.
//
// How long ago a session was seen is not in it: an entry is filled for somebody who asks, so whoever is served from it was
// seen a few minutes ago at most.
type Cache struct{ *nearcache.Cache[*known] }

// known is a session as this node holds it. Nodes hold many, so all strings are in one, and times are in microseconds.
type known struct {
	text             string             // the fields, then what memberships and scopes point into
	ends             [fieldCount]uint16 // of each field in text
	created, expires int64
	tokenEnds        int64 // 0: with the session
	reauthenticated  int64 // 0: not since created
	memberships      []Membership
	scopes           []string
	rotate           bool
	noted            atomic.Bool // that it was seen
}

// fieldCount is how many strings a session has beside its lists.
const fieldCount = 6

func (s *Session) fields() [fieldCount]*string {
	return [...]*string{&s.ID, &s.User.ID, &s.User.Email, &s.User.Name, &s.User.SystemRole, &s.Google.State}
}

// pack takes over s and its lists.
func pack(s Session) *known {
	k := &known{
		created: s.CreatedAt.UnixMicro(), expires: s.ExpiresAt.UnixMicro(), memberships: s.Memberships, scopes: s.Google.Scopes,
		rotate: s.Rotate,
	}
	if !s.TokenEndsAt.IsZero() {
		k.tokenEnds = s.TokenEndsAt.UnixMicro()
	}
	if !s.ReauthenticatedAt.IsZero() {
		k.reauthenticated = s.ReauthenticatedAt.UnixMicro()
	}
	fields := s.fields()
	packed := fields[:]
	for i := range k.memberships {
		m := &k.memberships[i]
		packed = append(packed, &m.WorkspaceID, &m.Name, &m.Role)
	}
	for i := range k.scopes {
		packed = append(packed, &k.scopes[i])
	}
	var all strings.Builder
	for i, f := range packed {
		all.WriteString(*f)
		if i < fieldCount {
			k.ends[i] = uint16(all.Len()) //nolint:gosec // ids, an address and a name are far shorter
		}
	}
	k.text = strings.Clone(all.String()) // without the builder's spare room
	begin := 0
	for _, f := range packed {
		end := begin + len(*f)
		*f, begin = k.text[begin:end], end
	}
	return k
}

// session unpacks what pack has taken over, but for the lists, which are shared.
func (k *known) session() Session {
	s := Session{
		CreatedAt: time.UnixMicro(k.created), ExpiresAt: time.UnixMicro(k.expires), Memberships: k.memberships,
		Google: Google{Scopes: k.scopes}, Rotate: k.rotate,
	}
	if k.tokenEnds != 0 {
		s.TokenEndsAt = time.UnixMicro(k.tokenEnds)
	}
	if k.reauthenticated != 0 {
		s.ReauthenticatedAt = time.UnixMicro(k.reauthenticated)
	}
	begin := uint16(0)
	for i, f := range s.fields() {
		*f, begin = k.text[begin:k.ends[i]], k.ends[i]
	}
	s.IdleExpiresAt = idleExpiry(s.ExpiresAt)
	return s
}

// size is about how many bytes of memory it takes.
func (k *known) size() int {
	return int(unsafe.Sizeof(*k)) + len(k.text) +
		len(k.memberships)*int(unsafe.Sizeof(Membership{})) + len(k.scopes)*int(unsafe.Sizeof(""))
}

// NewCache returns a Cache of the sessions in pool.
func NewCache(pool *pgxpool.Pool, c nearcache.Config) (*Cache, error) {
	near, err := nearcache.New(c, loadSession(pool), decodeSession)
	return &Cache{near}, err
}

func loadSession(pool *pgxpool.Pool) nearcache.Load {
	return func(ctx context.Context, key string) (int64, []byte, error) {
		hash, err := keyText.DecodeString(key)
		if err != nil {
			return 0, nil, fmt.Errorf("load session: %w", err)
		}
		r, err := findSession(ctx, pool, hash)
		if err != nil {
			return 0, nil, err
		}
		data, err := json.Marshal(r.session())
		return r.Version, data, err
	}
}

// Truth tells whether the bucket of a Cache holds what would be loaded into it now.
func Truth(pool *pgxpool.Pool) nearcache.Truth {
	return func(ctx context.Context, keys []string) (map[string]nearcache.Row, error) {
		var hashes [][]byte
		for _, key := range keys {
			if hash, err := keyText.DecodeString(key); err == nil { // else it is no key, and has no row
				hashes = append(hashes, hash)
			}
		}
		list, err := findSessions(ctx, pool, hashes)
		if err != nil {
			return nil, err
		}
		rows := make(map[string]nearcache.Row, len(list))
		for _, r := range list {
			want, err := json.Marshal(r.session())
			if err != nil {
				return nil, err
			}
			rows[cacheKey(r.TokenHash)] = nearcache.Row{
				Version: r.Version, Holds: func(data []byte) bool { return bytes.Equal(data, want) },
			}
		}
		return rows, nil
	}
}

// decodeSession reads what loadSession has written.
func decodeSession(data []byte) (*known, int, error) {
	var s Session
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, 0, fmt.Errorf("decode session: %w", err)
	}
	if s.ID == "" || s.User.ID == "" {
		return nil, 0, errors.New("decode session: it has no ids")
	}
	k := pack(s)
	return k, k.size(), nil
}

// find is the cached way of findSession.
func (c *Cache) find(ctx context.Context, hash [sha256.Size]byte) (s Session, unnoted bool, err error) {
	v, err := c.Get(ctx, cacheKey(hash[:]), 0)
	if err != nil {
		return Session{}, false, err
	}
	return v.Data.live()
}

// near is find from this node's memory alone. It reports false if that can't tell.
func (c *Cache) near(hash [sha256.Size]byte) (s Session, unnoted, known bool, err error) {
	v, known, err := c.Near(cacheKey(hash[:]), 0)
	if !known || err != nil {
		return Session{}, false, known, err
	}
	s, unnoted, err = v.Data.live()
	return s, unnoted, true, err
}

// live returns the session unless it has ended by itself, and whether it is still to be noted that it was seen.
func (k *known) live() (s Session, unnoted bool, err error) {
	s = k.session()
	if now := time.Now(); !now.Before(s.ExpiresAt) || !s.TokenEndsAt.IsZero() && !now.Before(s.TokenEndsAt) {
		return Session{}, false, errGone
	}
	return s, !k.noted.Load() && k.noted.CompareAndSwap(false, true), nil
}

// outdated lists, by their keys, the entries of sessions that have changed, those of tokens they had before included, each with
// the newest version that is not to be served any more.
func outdated(ctx context.Context, q postgres.Querier, where string, id any) (map[string]int64, error) {
	rows, _ := q.Query(ctx, `
		SELECT t.token_hash, s.version + u.version + coalesce(g.version, 0)
		       - (s.revoked_at IS NULL AND u.disabled_at IS NULL)::int AS version
		FROM sessions s JOIN users u ON u.id = s.user_id LEFT JOIN google_accounts g ON g.user_id = s.user_id
		CROSS JOIN LATERAL (
			SELECT s.token_hash UNION ALL SELECT r.token_hash FROM replaced_tokens r WHERE r.session_id = s.id
		) t
		WHERE s.expires_at > now() AND `+where, id)
	type entry struct {
		TokenHash []byte
		Version   int64
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[entry])
	if err != nil {
		return nil, fmt.Errorf("look up changed sessions: %w", postgres.Fault(err))
	}
	versions := make(map[string]int64, len(list))
	for _, e := range list {
		versions[cacheKey(e.TokenHash)] = e.Version
	}
	return versions, nil
}

// Of a user's sessions those count, too, that ended a moment ago: a node that could not be told of it serves them for some seconds
// still, and must not show them what was changed on it since.
const (
	ofUser     = `s.user_id = $1` + recent
	ofUsers    = `s.user_id = ANY ($1::uuid[])` + recent
	ofMembers  = `s.user_id IN (SELECT user_id FROM workspace_members WHERE workspace_id = $1)` + recent
	recent     = ` AND (s.revoked_at IS NULL OR s.revoked_at > now() - interval '1 minute')`
	ofSessions = `s.id = ANY ($1::uuid[])`
)

// withdraw tells the cache. What it does not take now it owes: the caller's commit stands, and its answer need not wait.
func (s *Service) withdraw(ctx context.Context, outdated map[string]int64) {
	if s.cache == nil || len(outdated) == 0 {
		return
	}
	if err := s.cache.Withdraw(ctx, outdated); err != nil {
		s.cache.Log.Debug().Err(err).Int("sessions", len(outdated)).Msg("sessions not withdrawn from the bucket yet")
	}
}

// Changed withdraws from the cache what the users' sessions showed before a commit that was made here. It waits for the bus
// for 1.5 s at most; see nearcache for what holds when that isn't enough. After an error the invalidator does it.
func (s *Service) Changed(ctx context.Context, userIDs ...string) error {
	if s.cache == nil || len(userIDs) == 0 {
		return nil
	}
	list, err := outdated(ctx, s.outbox.Pool(), ofUsers, userIDs)
	s.withdraw(ctx, list)
	return err
}

// keyText is base64url, whose letters all may stand in a bucket's key.
var keyText = base64.RawURLEncoding

// cacheKey is the bucket's key of a token's hash.
func cacheKey(hash []byte) string {
	var key [(sha256.Size*8 + 5) / 6]byte
	keyText.Encode(key[:], hash)
	return string(key[:])
}

// Invalidator withdraws sessions from the cache bucket that have ended or changed.
type Invalidator struct {
	pool    *pgxpool.Pool
	monitor *nearcache.Monitor
}

// NewInvalidator returns an Invalidator for the bucket that monitor, of Truth, looks after. Its keys are hashes of tokens, which
// no event holds: they are looked up in pool.
func NewInvalidator(pool *pgxpool.Pool, monitor *nearcache.Monitor) *Invalidator {
	return &Invalidator{pool: pool, monitor: monitor}
}

// changing are the events that end or change what sessions show, by action, with those whose entries they make outdated.
var changing = map[string]func(events.Event) (where string, id any){
	"session.created": aboutUser, // Google may have told a new name
	"session.revoked": aboutSession,
	"session.rotated": aboutSession,

	"session.reauthenticated": aboutSession,

	"user.role_changed":      aboutUser,
	"user.disabled":          aboutUser,
	"user.enabled":           aboutUser,
	"google.connected":       aboutUser,
	"google.disconnected":    aboutUser,
	"google.reauth_required": aboutUser,

	"user.erased": aboutUser,

	"workspace.renamed":             aboutMembers,
	"workspace.created":             aboutUser,
	"workspace.member_added":        aboutUser,
	"workspace.member_role_changed": aboutUser,
	"workspace.member_removed":      aboutUser,
}

func aboutUser(ev events.Event) (string, any)    { return ofUser, ev.UserID }
func aboutMembers(ev events.Event) (string, any) { return ofMembers, ev.WorkspaceID }
func aboutSession(ev events.Event) (string, any) { return ofSessions, []string{ev.Subject} }

// Handlers are what to do about those events. It is right whenever it is done, as it depends on the rows of that moment: late, twice or
// out of order.
func (i *Invalidator) Handlers() map[string]worker.Handler {
	handlers := make(map[string]worker.Handler, len(changing))
	for action, about := range changing {
		handlers[action] = func(ctx context.Context, d *worker.Delivery) error {
			where, id := about(d.Event)
			return i.withdraw(ctx, where, id)
		}
	}
	return handlers
}

// Outdated lists what a handler would withdraw for an event now: keys of the bucket, each with its newest outdated version.
func Outdated(ctx context.Context, q postgres.Querier, ev events.Event) (map[string]int64, error) {
	about, ok := changing[ev.Action()]
	if !ok {
		return nil, nil
	}
	where, id := about(ev)
	return outdated(ctx, q, where, id)
}

func (i *Invalidator) withdraw(ctx context.Context, where string, id any) error {
	versions, err := outdated(ctx, i.pool, where, id)
	if err != nil {
		return err
	}
	return i.monitor.Withdraw(ctx, versions)
}
