package googleemu

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const stateVersion = 1

// Between two writes of the state lie at least this much and twenty times what the last one took, so that saving a large state
// never takes more than a twentieth of a CPU. A failed write waits longer.
const (
	saveSpacing    = 50 * time.Millisecond
	saveShare      = 20
	saveRetryDelay = 10 * time.Second
)

// crashGap is added to every change log after a crash: larger than any number of changes that can have been lost.
const crashGap = 1 << 32

// state is everything that outlives the process. Maps and the structs behind pointers change under the emulator's lock;
// records (*event, *task) are replaced, never changed.
type state struct {
	Version  int                     `json:"version"`
	Clean    bool                    `json:"clean"`   // written by Close: nothing happened after it
	Seal     []byte                  `json:"seal"`    // signs page and sync tokens
	Advance  time.Duration           `json:"advance"` // what the control API added to the clock
	Settings settings                `json:"settings"`
	Users    map[string]*user        `json:"users"`  // by email
	Grants   map[string]grant        `json:"grants"` // by grantKey
	Refresh  map[string]refreshToken `json:"refreshTokens"`
	Access   map[string]accessToken  `json:"accessTokens"`
	Channels map[string]channel      `json:"channels"`
}

// user is one Google account.
type user struct {
	ID        string               `json:"id"`
	Email     string               `json:"email"`
	Name      string               `json:"name"`
	Seq       int64                `json:"seq"`    // the change log's last number
	MinSeq    int64                `json:"minSeq"` // sync tokens older than this are gone
	Calendars map[string]*calendar `json:"calendars"`
	TaskLists map[string]*taskList `json:"taskLists"`
	Default   string               `json:"default"` // the task list behind @default
}

// next is the change log's next number.
func (u *user) next() int64 {
	u.Seq++
	return u.Seq
}

// calendar is a calendar with its entry in the user's list.
type calendar struct {
	ID          string            `json:"id"`
	Summary     string            `json:"summary"`
	TimeZone    string            `json:"timeZone"`
	NoDeletions bool              `json:"noDeletions"`
	Removed     bool              `json:"removed"` // from the calendar list
	Seq         int64             `json:"seq"`     // the entry's last change
	Changed     int64             `json:"changed"` // the last change of an event
	Updated     time.Time         `json:"updated"`
	Events      map[string]*event `json:"events"`
}

// event is one stored event: a single one, a series, or an exception of a series.
type event struct {
	ID       string     `json:"id"`
	UID      string     `json:"uid"` // iCalUID
	Seq      int64      `json:"seq"`
	Created  time.Time  `json:"created"`
	Updated  time.Time  `json:"updated"`
	Sequence int        `json:"sequence"`           // iCalendar's
	Series   string     `json:"series,omitempty"`   // of an exception: the series' id
	Original *moment    `json:"original,omitempty"` // of an exception: when the series wanted it
	Dropped  bool       `json:"dropped,omitempty"`  // an exception whose series no longer has that instance
	Doc      object     `json:"doc"`                // what clients write
	Past     []pastRule `json:"past,omitempty"`     // of a series: the rules it had
}

// pastRule is a rule that a series gave up at a change. It says which instances vanished.
type pastRule struct {
	Seq        int64    `json:"seq"`
	Start      moment   `json:"start"`
	Recurrence []string `json:"recurrence"`
}

type taskList struct {
	ID      string           `json:"id"`
	Title   string           `json:"title"`
	Seq     int64            `json:"seq"`
	Updated time.Time        `json:"updated"`
	Tasks   map[string]*task `json:"tasks"`
}

type task struct {
	ID        string     `json:"id"`
	Seq       int64      `json:"seq"`
	Updated   time.Time  `json:"updated"`
	Title     string     `json:"title"`
	Notes     string     `json:"notes,omitempty"`
	Due       string     `json:"due,omitempty"` // a date
	Completed *time.Time `json:"completed,omitempty"`
	Hidden    bool       `json:"hidden,omitempty"`
	Deleted   bool       `json:"deleted,omitempty"`
	Parent    string     `json:"parent,omitempty"`
	Position  int64      `json:"position"` // among its siblings, with gaps
}

func emptyState() *state {
	return &state{
		Version: stateVersion, Seal: []byte(rand.Text()),
		Users: map[string]*user{}, Grants: map[string]grant{}, Refresh: map[string]refreshToken{},
		Access: map[string]accessToken{}, Channels: map[string]channel{},
	}
}

// loadState reads the file, or makes an empty state when there is none.
func loadState(file string) (*state, error) {
	st := emptyState()
	if file == "" {
		return st, nil
	}
	b, err := os.ReadFile(filepath.Clean(file))
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Google emulator state: %w", err)
	}
	if err := json.Unmarshal(b, st); err != nil {
		return nil, fmt.Errorf("read Google emulator state %s: %w", file, err)
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("read Google emulator state %s: version %d, this program writes version %d", file, st.Version, stateVersion)
	}
	if !st.Clean { // tokens may be about that speak of changes which never reached the file: none of them is valid any more
		for _, u := range st.Users {
			u.Seq += crashGap
			u.MinSeq = u.Seq
		}
	}
	return st, nil
}

// clone copies what changes in place; records are shared.
func (s *state) clone() *state {
	c := *s
	c.Grants, c.Refresh, c.Access, c.Channels = maps.Clone(s.Grants), maps.Clone(s.Refresh), maps.Clone(s.Access), maps.Clone(s.Channels)
	c.Users = make(map[string]*user, len(s.Users))
	for email, u := range s.Users {
		copied := *u
		copied.Calendars = make(map[string]*calendar, len(u.Calendars))
		for id, cal := range u.Calendars {
			one := *cal
			one.Events = maps.Clone(cal.Events)
			copied.Calendars[id] = &one
		}
		copied.TaskLists = make(map[string]*taskList, len(u.TaskLists))
		for id, list := range u.TaskLists {
			one := *list
			one.Tasks = maps.Clone(list.Tasks)
			copied.TaskLists[id] = &one
		}
		c.Users[email] = &copied
	}
	return &c
}

// keepSaved writes the state soon after each change, until ctx ends.
func (e *Emulator) keepSaved(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.dirty:
		}
		begun := time.Now()
		err := e.save(false)
		pause := max(saveSpacing, saveShare*time.Since(begun))
		if err != nil {
			e.log.Error().Err(err).Msg("Google emulator state not saved, trying again")
			e.changed()
			pause = saveRetryDelay
		}
		if !e.delay(ctx, pause) {
			return
		}
	}
}

// save writes the state atomically: a reader, or a restart after a kill, sees the old file or the new one.
// It is clean when nothing can follow it.
func (e *Emulator) save(clean bool) error {
	if e.file == "" {
		return nil
	}
	e.mu.Lock()
	st := e.st.clone()
	e.mu.Unlock()
	st.Clean = clean
	b, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("save Google emulator state: %w", err)
	}
	if err := writeAtomically(e.file, b); err != nil {
		return fmt.Errorf("save Google emulator state: %w", err)
	}
	return nil
}

func writeAtomically(file string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// user is the account with that email, however it is spelt.
func (s *state) user(email string) *user { return s.Users[normalEmail(email)] }

func normalEmail(email string) string { return strings.ToLower(strings.TrimSpace(email)) }

// calendar is the user's calendar; "primary" names the one with the user's email.
func (u *user) calendar(id string) *calendar {
	if id == "primary" {
		id = u.Email
	}
	return u.Calendars[id]
}

func (u *user) taskList(id string) *taskList {
	if id == "@default" {
		id = u.Default
	}
	return u.TaskLists[id]
}

// syncToken says what a client has already seen.
type syncToken struct {
	User     string `json:"u"`
	Resource string `json:"r"`
	Seq      int64  `json:"s"`
	Filter   string `json:"f"` // hash of what must be the same in every request of one synchronization
}

// pageToken says where in which snapshot a client is.
type pageToken struct {
	Snapshot string `json:"s"`
	Offset   int    `json:"o"`
}

const sealSize = 12

// seal makes an opaque text of v that only open with the same purpose takes back.
func (s *state) seal(purpose string, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // v is one of the two token types: no value of theirs fails to marshal
	}
	return base64.URLEncoding.EncodeToString(append(s.sign(purpose, b), b...))
}

func (s *state) open(purpose, token string, v any) bool {
	b, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(b) < sealSize {
		return false
	}
	if !hmac.Equal(b[:sealSize], s.sign(purpose, b[sealSize:])) {
		return false
	}
	return json.Unmarshal(b[sealSize:], v) == nil
}

func (s *state) sign(purpose string, b []byte) []byte {
	mac := hmac.New(sha256.New, s.Seal)
	mac.Write([]byte(purpose))
	mac.Write([]byte{0})
	mac.Write(b)
	return mac.Sum(nil)[:sealSize]
}

// row renders one entry of a listing; nil when a filter leaves it out. It is called without the lock.
type row func() object

// snapshot is one listing as it was at its first request.
type snapshot struct {
	owner string // email and resource
	asked string // hash of the request's other parameters
	seq   int64  // the change log's number when it was taken
	rows  []row
}

// pageStore keeps the snapshots of listings that need more than one page. The oldest go first.
type pageStore struct {
	byID  map[string]*snapshot
	order []string
	rows  int
}

func newPageStore() *pageStore { return &pageStore{byID: map[string]*snapshot{}} }

func (p *pageStore) add(s *snapshot) string {
	id := rand.Text()
	p.byID[id], p.order, p.rows = s, append(p.order, id), p.rows+len(s.rows)
	for len(p.order) > 1 && (len(p.order) > maxSnapshots || p.rows > maxSnapshotRows) {
		oldest := p.order[0]
		p.rows -= len(p.byID[oldest].rows)
		delete(p.byID, oldest)
		p.order = slices.Delete(p.order, 0, 1)
	}
	return id
}

// page is a part of a snapshot.
type page struct {
	rows []row
	next string // the next page's token, "" on the last
	seq  int64
}

// items renders the page.
func (p page) items() []object {
	items := make([]object, 0, len(p.rows))
	for _, render := range p.rows {
		if o := render(); o != nil {
			items = append(items, o)
		}
	}
	return items
}

// page cuts the page that the call asks for, taking the snapshot when it is the first.
func (e *Emulator) page(c *call, resource string, size int, take func() ([]row, error)) (page, error) {
	owner, asked := c.user.Email+" "+resource, hashQuery(c.query)
	var at pageToken
	var from *snapshot
	if token := c.query.Get("pageToken"); token != "" {
		if !e.st.open("page", token, &at) {
			return page{}, badPageToken()
		}
		from = e.pages.byID[at.Snapshot]
		if from == nil || from.owner != owner || from.asked != asked {
			return page{}, badPageToken()
		}
	} else {
		rows, err := take()
		if err != nil {
			return page{}, err
		}
		from = &snapshot{owner: owner, asked: asked, seq: c.user.Seq, rows: rows}
		if len(rows) > size {
			at.Snapshot = e.pages.add(from)
		}
	}
	start := min(at.Offset, len(from.rows))
	end := min(start+size, len(from.rows))
	p := page{rows: from.rows[start:end], seq: from.seq}
	if end < len(from.rows) {
		p.next = e.st.seal("page", pageToken{Snapshot: at.Snapshot, Offset: end})
	}
	return p, nil
}

func badPageToken() *apiError {
	return &apiError{code: 400, reason: "invalid", message: "Invalid page token value.", location: "pageToken", where: "parameter"}
}

// hashQuery identifies a listing: later pages must repeat the first one's parameters.
func hashQuery(query url.Values) string {
	q := maps.Clone(query)
	for _, name := range []string{"pageToken", "maxResults", "alt", "prettyPrint", "key", "quotaUser", "userIp"} {
		q.Del(name)
	}
	return hash(q.Encode())
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return opaque(sum[:9])
}

// since resolves the call's sync token to the number after which changes are wanted.
func (e *Emulator) since(c *call, resource, filter string) (int64, error) {
	var t syncToken
	switch {
	case !e.st.open("sync", c.query.Get("syncToken"), &t),
		t.User != c.user.Email, t.Resource != resource, t.Seq < c.user.MinSeq, t.Seq > c.user.Seq:
		return 0, fullSyncRequired()
	case t.Filter != filter:
		return 0, restrictedSync("syncToken")
	}
	return t.Seq, nil
}

func restrictedSync(name string) *apiError {
	return &apiError{
		code: 400, reason: "badRequest", location: name, where: "parameter",
		message: "Sync token cannot be used with other request restrictions.",
	}
}

// refuseWith refuses a sync token together with the parameters that restrict a listing.
func (c *call) refuseWith(names ...string) error {
	for _, name := range names {
		if c.query.Has(name) {
			return restrictedSync(name)
		}
	}
	return nil
}

// syncToken is the token for what comes after a page's snapshot.
func (e *Emulator) syncToken(c *call, resource, filter string, seq int64) string {
	return e.st.seal("sync", syncToken{User: c.user.Email, Resource: resource, Seq: seq, Filter: filter})
}

// expireSyncTokens makes every token of the user stale that was given out so far.
func (u *user) expireSyncTokens() { u.MinSeq = u.next() }

// bySeq orders records by their last change.
func bySeq[T any](records map[string]T, seq func(T) int64) []T {
	sorted := slices.Collect(maps.Values(records))
	slices.SortFunc(sorted, func(a, b T) int { return cmp.Compare(seq(a), seq(b)) })
	return sorted
}

// etag is the version of a record as a header can carry it.
func etag(seq int64) string { return fmt.Sprintf("\"%016d\"", seq) }

// stamp is a time as Google writes it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
