package googleemu

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gcal "google.golang.org/api/calendar/v3"
)

// receiver is a client's address for notifications.
func receiver(t *testing.T) (address string, got <-chan http.Header) {
	t.Helper()
	headers := make(chan http.Header, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { headers <- r.Header }))
	t.Cleanup(server.Close)
	return server.URL + "/hook", headers
}

func next(t *testing.T, got <-chan http.Header) http.Header {
	t.Helper()
	select {
	case h := <-got:
		return h
	case <-time.After(10 * time.Second):
		require.Fail(t, "no notification came")
		return nil
	}
}

func messageNumber(t *testing.T, h http.Header) int {
	t.Helper()
	n, err := strconv.Atoi(h.Get("X-Goog-Message-Number"))
	require.NoError(t, err)
	return n
}

func TestCase36WatchTellsOfChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	address, got := receiver(t)
	ch, err := api.Events.Watch("primary", &gcal.Channel{Id: "channel-1", Type: "web_hook", Address: address, Token: "t=1"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, w.clock().Add(channelLife).UnixMilli(), ch.Expiration)

	first := next(t, got)
	require.Equal(t, "sync", first.Get("X-Goog-Resource-State"))
	require.Equal(t, 1, messageNumber(t, first))
	require.Equal(t, "channel-1", first.Get("X-Goog-Channel-Id"))
	require.Equal(t, "t=1", first.Get("X-Goog-Channel-Token"))
	require.Equal(t, ch.ResourceId, first.Get("X-Goog-Resource-Id"))
	require.Equal(t, ch.ResourceUri, first.Get("X-Goog-Resource-Uri"))
	require.Equal(t, w.clock().Add(channelLife).Format(http.TimeFormat), first.Get("X-Goog-Channel-Expiration"))

	require.NoError(t, w.AddCalendar(ann, Calendar{ID: "other"}))
	_, err = api.Events.Insert("other", w.newEvent()).Context(t.Context()).Do()
	require.NoError(t, err)
	last := 1
	for range 3 { // what came from the other calendar would be an extra message here
		_, err = api.Events.Insert("primary", w.newEvent()).Context(t.Context()).Do()
		require.NoError(t, err)
		h := next(t, got)
		require.Equal(t, "exists", h.Get("X-Goog-Resource-State"))
		require.Greater(t, messageNumber(t, h), last)
		last = messageNumber(t, h)
	}
	require.Empty(t, got)
}

func TestCase37StoppedOrExpiredChannelsAreSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	address, got := receiver(t)
	watch := func(id string, ttl string) *gcal.Channel {
		ch, err := api.Events.Watch("primary", &gcal.Channel{Id: id, Type: "web_hook", Address: address, Params: map[string]string{"ttl": ttl}}).Context(t.Context()).Do()
		require.NoError(t, err)
		require.Equal(t, "sync", next(t, got).Get("X-Goog-Resource-State"))
		return ch
	}
	short, stopped := watch("short", "60"), watch("stopped", "3600")
	watch("lasting", "3600")
	require.Equal(t, w.clock().Add(time.Minute).UnixMilli(), short.Expiration)
	refused(t, api.Channels.Stop(&gcal.Channel{Id: stopped.Id, ResourceId: "wrong"}).Context(t.Context()).Do(), http.StatusNotFound, "notFound")
	require.NoError(t, api.Channels.Stop(&gcal.Channel{Id: stopped.Id, ResourceId: stopped.ResourceId}).Context(t.Context()).Do())
	refused(t, api.Channels.Stop(&gcal.Channel{Id: stopped.Id, ResourceId: stopped.ResourceId}).Context(t.Context()).Do(), http.StatusNotFound, "notFound")
	w.pass(time.Minute)

	token := list(t, api.Events.List("primary")).sync
	for range 3 {
		_, err := api.Events.Insert("primary", w.newEvent()).Context(t.Context()).Do()
		require.NoError(t, err)
		require.Equal(t, "lasting", next(t, got).Get("X-Goog-Channel-Id"))
	}
	require.Len(t, list(t, api.Events.List("primary").SyncToken(token)).items, 3, "polling converges whatever was heard")
}

func TestWatchRefusesBadChannels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	address, _ := receiver(t)
	good := gcal.Channel{Id: "id", Type: "web_hook", Address: address}
	_, err := api.Events.Watch("primary", &good).Context(t.Context()).Do()
	require.NoError(t, err)
	for reason, change := range map[string]func(*gcal.Channel){
		"channelIdNotUnique":      func(*gcal.Channel) {},
		"channelUnknown":          func(ch *gcal.Channel) { ch.Type = "email" },
		"push.webhookUrlNotHttps": func(ch *gcal.Channel) { ch.Address = "ftp://example.com" },
		"invalid":                 func(ch *gcal.Channel) { ch.Id = "no spaces" },
	} {
		bad := good
		change(&bad)
		_, err := api.Events.Watch("primary", &bad).Context(t.Context()).Do()
		refused(t, err, http.StatusBadRequest, reason)
	}
	late := good
	late.Id, late.Expiration = "late", w.clock().Add(-time.Hour).UnixMilli()
	_, err = api.Events.Watch("primary", &late).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")
}

func TestNotificationsNeverBlock(t *testing.T) {
	t.Parallel()
	n := newNotifier(newWorld(t).log)
	for range 2 * maxNotifications { // nobody takes any out
		n.enqueue(notification{address: "http://127.0.0.1/"})
	}
	require.Len(t, n.queue, maxNotifications)
}
