package googleemu

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/rs/zerolog"
)

const (
	channelLife     = 7 * 24 * time.Hour  // unless a channel asks for less or more
	maxChannelLife  = 30 * 24 * time.Hour // whatever it asks for
	deliveryTimeout = 5 * time.Second
)

// channel is a client's wish to hear of changes in one calendar.
type channel struct {
	ID       string    `json:"id"`
	Resource string    `json:"resource"` // resourceId
	URI      string    `json:"uri"`
	Address  string    `json:"address"`
	Token    string    `json:"token"`
	Email    string    `json:"email"`
	Calendar string    `json:"calendar"`
	Expires  time.Time `json:"expires"`
	Number   int64     `json:"number"` // of the last message
}

func (e *Emulator) routeWatch() {
	e.api("POST /calendar/v3/calendars/{calendar}/events/watch", eventsRead, listParams, e.watchEvents)
	e.api("POST /calendar/v3/channels/stop", eventsRead, nil, e.stopChannel)
}

var channelID = regexp.MustCompile(`^[A-Za-z0-9\-_+/=]{1,64}$`)

func (e *Emulator) watchEvents(c *call) (any, error) {
	cal, err := c.calendar()
	if err != nil {
		return nil, err
	}
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	ch := channel{
		ID: field(body, "id"), Address: field(body, "address"), Token: field(body, "token"), Email: c.user.Email, Calendar: cal.ID,
		Resource: hash("resource", c.user.ID, cal.ID), Number: 1,
		URI: "http://" + c.Host + "/calendar/v3/calendars/" + url.PathEscape(cal.ID) + "/events?alt=json",
	}
	if ch.Expires, err = expiration(body, c.now); err != nil {
		return nil, err
	}
	address, err := url.Parse(ch.Address)
	switch {
	case !channelID.MatchString(ch.ID):
		return nil, badRequest("invalid", "Invalid channel id %q.", ch.ID)
	case field(body, "type") != "web_hook" && field(body, "type") != "webhook":
		return nil, badRequest("channelUnknown", "Unknown channel type %q.", field(body, "type"))
	case err != nil || address.Host == "" || address.Scheme != "http" && address.Scheme != "https":
		return nil, badRequest("push.webhookUrlNotHttps", "WebHook callback is not an address: %q", ch.Address)
	case len(ch.Token) > 256:
		return nil, badRequest("invalid", "The channel token is longer than 256 characters.")
	}
	maps.DeleteFunc(e.st.Channels, func(_ string, old channel) bool { return !c.now.Before(old.Expires) })
	if _, taken := e.st.Channels[ch.ID]; taken {
		return nil, badRequest("channelIdNotUnique", "Channel id %s not unique", ch.ID)
	}
	if len(e.st.Channels) >= maxChannels {
		return nil, overQuota("Too many channels.")
	}
	e.st.Channels[ch.ID] = ch
	e.changed()
	e.notifier.enqueue(ch.message("sync"))
	answer := object{
		"kind": "api#channel", "id": ch.ID, "resourceId": ch.Resource, "resourceUri": ch.URI,
		"expiration": strconv.FormatInt(ch.Expires.UnixMilli(), 10),
	}
	if ch.Token != "" {
		answer["token"] = ch.Token
	}
	return answer, nil
}

// field is a string in a body, "" when it is none.
func field(o object, name string) string {
	s, _ := o[name].(string)
	return s
}

// expiration is when a channel ends: what it asks for as a time or a TTL, within bounds.
func expiration(body object, now time.Time) (time.Time, error) {
	end := now.Add(channelLife)
	if text := field(body, "expiration"); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return time.Time{}, badRequest("invalid", "Invalid expiration %q.", text)
		}
		end = time.UnixMilli(ms)
	}
	wanted, _ := body["params"].(object)
	if text := field(wanted, "ttl"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return time.Time{}, badRequest("invalid", "Invalid ttl %q.", text)
		}
		end = now.Add(time.Duration(seconds) * time.Second)
	}
	if !end.After(now) {
		return time.Time{}, badRequest("invalid", "The channel would have ended already.")
	}
	if latest := now.Add(maxChannelLife); end.After(latest) {
		end = latest
	}
	return end, nil
}

func (e *Emulator) stopChannel(c *call) (any, error) {
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	ch, ok := e.st.Channels[field(body, "id")]
	if !ok || ch.Email != c.user.Email || ch.Resource != field(body, "resourceId") {
		return nil, notFound("channel " + field(body, "id"))
	}
	delete(e.st.Channels, ch.ID)
	e.changed()
	return nil, nil
}

// notifyWatchers tells the calendar's living channels that something changed. Numbers rise, with gaps.
func (e *Emulator) notifyWatchers(u *user, cal *calendar, now time.Time) {
	for id, ch := range e.st.Channels {
		if ch.Email != u.Email || ch.Calendar != cal.ID || !now.Before(ch.Expires) {
			continue
		}
		ch.Number += 1 + u.Seq%3
		e.st.Channels[id] = ch
		e.notifier.enqueue(ch.message("exists"))
	}
}

// notification is one message to one channel.
type notification struct {
	address string
	header  http.Header
}

func (ch channel) message(state string) notification {
	h := http.Header{}
	h.Set("X-Goog-Channel-ID", ch.ID)
	h.Set("X-Goog-Channel-Expiration", ch.Expires.UTC().Format(http.TimeFormat))
	h.Set("X-Goog-Resource-ID", ch.Resource)
	h.Set("X-Goog-Resource-URI", ch.URI)
	h.Set("X-Goog-Resource-State", state)
	h.Set("X-Goog-Message-Number", strconv.FormatInt(ch.Number, 10))
	if ch.Token != "" {
		h.Set("X-Goog-Channel-Token", ch.Token)
	}
	return notification{address: ch.Address, header: h}
}

// notifier posts notifications one after the other. Like Google's it promises nothing: what cannot be delivered is dropped.
type notifier struct {
	queue  chan notification
	client *http.Client
	log    zerolog.Logger
}

func newNotifier(log zerolog.Logger) *notifier {
	return &notifier{
		queue:  make(chan notification, maxNotifications),
		client: &http.Client{Timeout: deliveryTimeout, Transport: &http.Transport{IdleConnTimeout: time.Minute}},
		log:    log,
	}
}

// enqueue never blocks.
func (n *notifier) enqueue(m notification) {
	select {
	case n.queue <- m:
	default:
		n.log.Warn().Str("address", m.address).Msg("notification dropped, the queue is full")
	}
}

func (n *notifier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			n.client.CloseIdleConnections()
			return
		case m := <-n.queue:
			if err := n.post(ctx, m); err != nil {
				n.log.Debug().Err(err).Str("address", m.address).Msg("notification not delivered")
			}
		}
	}
}

func (n *notifier) post(ctx context.Context, m notification) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.address, http.NoBody)
	if err != nil {
		return err
	}
	req.Header = m.header
	res, err := n.client.Do(req)
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}
