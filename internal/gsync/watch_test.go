package gsync

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/task"
)

// hook is the address that notifications come to.
type hook struct {
	w *world

	deaf atomic.Bool // loses everything
	mu   sync.Mutex
	got  []Notification
}

// listen makes the world's services ask for notifications.
func (w *world) listen() *hook {
	w.t.Helper()
	h := &hook{w: w}
	server := httptest.NewServer(h)
	w.t.Cleanup(server.Close)
	w.webhook = server.URL
	return h
}

func (h *hook) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if h.deaf.Load() {
		return
	}
	n := NewNotification(r.Header)
	if err := h.w.Notified(r.Context(), n, "request"); err != nil {
		rw.WriteHeader(http.StatusNotFound)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = append(h.got, n)
}

// hears waits until the hook has taken so many notifications in a state.
func (h *hook) hears(state string, count int) {
	h.w.t.Helper()
	h.w.eventually("notifications come", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		found := 0
		for _, n := range h.got {
			if n.state == state {
				found++
			}
		}
		return found >= count
	})
}

// watching makes Alice, of whose calendar Google tells.
func (w *world) watching() (*person, *hook) {
	w.t.Helper()
	h := w.listen()
	p := w.connected(alice)
	p.synced("", "")
	h.hears("sync", 1)
	return p, h
}

// channels are the user's rows.
func (p *person) channels() []channel {
	p.t.Helper()
	list, err := readChannels(p.t.Context(), p.ob.Pool(), p.id)
	require.NoError(p.t, err)
	return list
}

// asked are the requests to Google whose path ends so.
func (w *world) asked(suffix string) (list []loggedRequest) {
	w.t.Helper()
	for _, r := range w.requests() {
		if strings.HasSuffix(r.Path, suffix) {
			list = append(list, r)
		}
	}
	return list
}

func TestAChangeAtGoogleComesByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, h := w.watching()
	require.Len(t, p.channels(), 1)
	require.Equal(t, channelOpen, p.channels()[0].State)

	p.event("made at Google", "2026-03-02T09:00:00Z", nil)
	h.hears("exists", 1)
	require.Equal(t, 1, w.pending(events.TriggerWebhook))
	w.run(w.Service, RunnerConfig{})
	w.eventually("the event is here", func() bool { return len(p.titles(march, may)) == 1 })
	require.Len(t, p.channels(), 1, "no second channel for the calendar")
}

func TestForgedNotificationsDoNothing(t *testing.T) {
	t.Parallel()
	w := shared(t)
	h := w.listen()
	p, other := w.connected(alice), w.connected(bob)
	p.synced("", "")
	other.synced("", "")
	h.hears("sync", 2)
	mine, theirs := p.channels()[0], other.channels()[0]
	genuine := Notification{
		ChannelID: mine.ID, token: w.channelToken(mine.ID, p.id), resourceID: mine.ResourceID, state: "exists", number: "5",
	}
	for name, forge := range map[string]func(*Notification){
		"no token":                 func(n *Notification) { n.token = "" },
		"a token of nobody's":      func(n *Notification) { n.token = "AAAA" },
		"another channel's token":  func(n *Notification) { n.token = w.channelToken(theirs.ID, other.id) },
		"another user's token":     func(n *Notification) { n.token = w.channelToken(mine.ID, other.id) },
		"another channel":          func(n *Notification) { n.ChannelID = theirs.ID },
		"a channel of nobody's":    func(n *Notification) { n.ChannelID = uuid.NewString(); n.token = w.channelToken(n.ChannelID, p.id) },
		"no channel":               func(n *Notification) { n.ChannelID = "" },
		"something like a channel": func(n *Notification) { n.ChannelID = "'; DROP TABLE google_channels; --" },
		"another resource":         func(n *Notification) { n.resourceID = "other" },
	} {
		n := genuine
		forge(&n)
		require.Equal(t, fault.NotFound, fault.KindOf(w.Notified(t.Context(), n, "")), name)
	}
	for _, number := range []string{"", "0", "-1", "x", "99999999999999999999"} {
		n := genuine
		n.number = number
		require.Equal(t, fault.Malformed, fault.KindOf(w.Notified(t.Context(), n, "")), number)
	}
	require.Zero(t, p.notified())
	require.NoError(t, w.Notified(t.Context(), genuine, ""))
	require.Equal(t, 1, p.notified())
}

func TestAStormOfNotificationsIsOneJob(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p, _ := w.watching()
	ch := p.channels()[0]
	n := Notification{ChannelID: ch.ID, token: w.channelToken(ch.ID, p.id), resourceID: ch.ResourceID, state: "exists"}
	var wait sync.WaitGroup
	for i := range 200 {
		wait.Go(func() {
			n := n
			n.number = strconv.Itoa(2 + i/2) // and each twice
			if err := w.Notified(t.Context(), n, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	require.Equal(t, 1, p.notified())
	claimed, err := w.claim(t.Context(), 8, time.Minute, p.id)
	require.NoError(t, err)
	require.Empty(t, claimed, "it waits for the storm to be over")

	asked, coalesced, err := w.Request(t.Context(), testMeta, p.id, Ask{Type: events.SyncCalendar})
	require.NoError(t, err)
	require.True(t, coalesced)
	claimed, err = w.claim(t.Context(), 8, time.Minute, p.id)
	require.NoError(t, err)
	require.Equal(t, asked.ID, claimed[0].ID, "who asks does not wait")

	n.number = "2"
	require.NoError(t, w.Notified(t.Context(), n, ""))
	require.Zero(t, p.notified(), "an old one is no news")
	n.number = "1000"
	require.NoError(t, w.Notified(t.Context(), n, ""))
	require.Equal(t, 1, p.notified(), "a change while a job runs is not lost")
}

func TestAChannelIsReplacedBeforeItEnds(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p, _ := w.watching()
	old := p.channels()[0]
	p.exec(`UPDATE google_channels SET expires_at = now() + interval '36 hours' WHERE user_id = $1`, p.id)
	p.synced("", "")
	now := p.channels()
	require.Len(t, now, 1)
	require.NotEqual(t, old.ID, now[0].ID)
	var order []string
	for _, r := range w.requests() {
		if strings.HasSuffix(r.Path, "/watch") || strings.HasSuffix(r.Path, "/stop") {
			order = append(order, r.Path[strings.LastIndex(r.Path, "/"):])
		}
	}
	require.Equal(t, []string{"/watch", "/watch", "/stop"}, order)

	// Tokens under a key that is about to go are replaced too.
	s := w.withKeys(newKey + "," + oldKey)
	s.webhook = w.webhook
	_, err := s.RunNow(t.Context(), testMeta, p.id, Ask{})
	require.NoError(t, err)
	require.Equal(t, "v2", p.channels()[0].KeyVersion)
	require.Len(t, p.channels(), 1)
}

func TestNoChannelWithoutUse(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p, _ := w.watching()
	settings, err := w.Settings(t.Context(), p.id)
	require.NoError(t, err)
	put := func(auto bool, calendars ...string) {
		t.Helper()
		settings.AutoSync, settings.CalendarIDs = auto, calendars
		_, err := w.PutSettings(t.Context(), p.id, settings)
		require.NoError(t, err)
		p.synced("", "")
	}
	chosen := settings.CalendarIDs
	put(false, chosen...)
	require.Empty(t, p.channels())
	require.Len(t, w.asked("/stop"), 1)
	put(true, chosen...)
	require.Len(t, p.channels(), 1)
	put(true)
	require.Empty(t, p.channels())
	put(true, chosen...)
	require.NoError(t, w.Disconnect(t.Context(), testMeta, p.id))
	require.Empty(t, p.channels())
	stops := w.asked("/stop")
	require.Len(t, stops, 3)
	for _, stop := range stops {
		require.Equal(t, http.StatusNoContent, stop.Status)
	}
}

func TestAChannelWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	w := shared(t)
	h := w.listen()
	p := w.connected(alice)
	w.fault(http.MethodPost, "*/watch", 1, 1, object{"drop": "after"})
	p.synced("", "")
	h.hears("sync", 1)
	ch := p.channels()[0]
	require.Equal(t, channelOpen, ch.State, "its first notification tells")
	require.NotEmpty(t, ch.ResourceID)
	p.synced("", "")
	require.Len(t, w.asked("/watch"), 1)

	// Nor may what Google never tells of keep it from being asked again.
	h.deaf.Store(true)
	p.exec(`DELETE FROM google_channels WHERE user_id = $1`, p.id)
	w.fault(http.MethodPost, "*/watch", 1, 1, object{"drop": "after"})
	p.synced("", "")
	require.Equal(t, channelOpening, p.channels()[0].State)
	p.synced("", "")
	require.Len(t, w.asked("/watch"), 2)
	p.exec(`UPDATE google_channels SET created_at = now() - $1::interval WHERE user_id = $2`, openingTime, p.id)
	p.synced("", "")
	require.Len(t, w.asked("/watch"), 3)
	require.Len(t, p.channels(), 1)
	require.Equal(t, channelOpen, p.channels()[0].State)
}

func TestACalendarThatCannotBeWatched(t *testing.T) {
	t.Parallel()
	w := shared(t)
	w.listen()
	p := w.connected(alice)
	w.fault(http.MethodPost, "*/watch", 1, 0, object{"status": 400, "reason": "pushNotSupportedForRequestedResource"})
	for range 3 {
		require.Empty(t, p.synced("", "").Warnings, "polling does it")
	}
	require.Len(t, w.asked("/watch"), 1)
	w.control(http.MethodDelete, "/_emulator/faults", nil, nil)
	p.exec(`UPDATE google_channels SET expires_at = now() WHERE user_id = $1`, p.id)
	p.synced("", "")
	require.Equal(t, channelOpen, p.channels()[0].State)
	require.Len(t, p.channels(), 1)

	// Trouble is no refusal.
	p.exec(`DELETE FROM google_channels WHERE user_id = $1`, p.id)
	w.fault(http.MethodPost, "*/watch", 1, 0, object{"status": 503, "reason": "backendError"})
	p.synced("", "")
	require.Equal(t, channelOpening, p.channels()[0].State)
}

// What FDC itself writes is told of like all else. That has an end.
func TestOwnWritesDoNotCallForever(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p, h := w.watching()
	start := march.Add(33 * time.Hour)
	p.create(task.Draft{Title: "timed", StartAt: &start})
	p.synced("", "")
	h.hears("exists", 1)
	p.synced(events.SyncCalendar, "") // takes the pending one on
	require.Zero(t, p.notified())
	p.quiet()
	require.Zero(t, p.notified())
}

// Notifications are a hint: with none of them arriving, the clock does it.
func TestMissedNotifications(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen()
	h.deaf.Store(true)
	p := w.connected(alice)
	p.synced("", "")
	p.event("unheard of", "2026-03-02T09:00:00Z", nil)
	p.due()
	w.makes(1)
	require.EqualValues(t, 1, p.synced("", "").Calendar.Created)
}
