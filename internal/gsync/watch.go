package gsync

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/api/calendar/v3"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// Bounds of channels.
const (
	// channelLife is what Google is asked for, and its own default.
	channelLife = 7 * 24 * time.Hour
	// channelMargin is how long before its end a channel is replaced, and up to a day more: longer than the longest interval
	// between syncs, which do it.
	channelMargin = 2 * 24 * time.Hour
	// openingTime is how long an answer may be missing before Google is asked for another channel.
	openingTime = time.Hour
	// notificationPause is how long a job waits that a notification makes: one change makes several, many changes make many.
	notificationPause = 2 * time.Second
)

// States of a channel.
const (
	channelOpening = "opening"
	channelOpen    = "open"
	channelRefused = "refused"
)

type channel struct {
	ID         string
	CalendarID string
	State      string
	ResourceID string
	KeyVersion string
	CreatedAt  time.Time
	ExpiresAt  time.Time
}

// lasts reports whether the channel makes another one unnecessary for now.
func (ch channel) lasts(now time.Time, margin time.Duration, key string) bool {
	switch ch.State {
	case channelOpen:
		return ch.KeyVersion == key && now.Add(margin).Before(ch.ExpiresAt)
	case channelOpening:
		return now.Before(ch.CreatedAt.Add(openingTime))
	default:
		return now.Before(ch.ExpiresAt)
	}
}

// watchCalendars sees to it that Google tells of changes in the chosen calendars: it opens the channels that are missing or near
// their end, and closes those that are of no use any more after that. The syncs by the clock are the net below, so what goes
// wrong here fails no job. It comes before the pulls, so that no change falls between the two.
func (r *run) watchCalendars(ctx context.Context) (finish, error) {
	channels, err := readChannels(ctx, r.s.ob.Pool(), r.userID)
	if err != nil {
		return nil, err
	}
	now, margin := time.Now(), channelMargin+spread(r.userID, 24*time.Hour)
	lasting := map[string]string{} // the channel to keep, by calendar
	for _, ch := range channels {
		if ch.lasts(now, margin, r.s.keys.Current()) {
			lasting[ch.CalendarID] = ch.ID
		}
	}
	watched := r.s.webhook != "" && r.settings.AutoSync
	if watched {
		for _, id := range r.settings.CalendarIDs {
			if lasting[id] != "" {
				continue
			}
			if lasting[id], err = r.openChannel(ctx, id); err != nil {
				return nil, err
			}
		}
	}
	for _, ch := range channels {
		chosen := watched && slices.Contains(r.settings.CalendarIDs, ch.CalendarID)
		if chosen && (lasting[ch.CalendarID] == "" || lasting[ch.CalendarID] == ch.ID) {
			continue // nothing has taken its place yet
		}
		if err := r.closeChannel(ctx, ch); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// spread is a part of the whole that is the same for a user each time, so that not all do the same thing at the same time.
func spread(userID string, whole time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(userID)) // never fails
	return whole / 1000 * time.Duration(h.Sum32()%1000)
}

// openChannel asks Google for a channel and returns its id, empty when there is none now. When the answer is lost, the channel's
// first notification tells what it would have said.
func (r *run) openChannel(ctx context.Context, calendarID string) (id string, err error) {
	ch := channel{ID: uuid.NewString(), CalendarID: calendarID}
	err = r.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO google_channels (id, user_id, calendar_id, key_version, expires_at) VALUES ($1, $2, $3, $4, now() + $5::interval)`,
			ch.ID, r.userID, calendarID, r.s.keys.Current(), channelLife)
		if err != nil {
			return fmt.Errorf("journal channel of calendar %s: %w", calendarID, err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	opened, err := call(ctx, r.client, once, func() (*calendar.Channel, error) {
		return r.calendar.Events.Watch(calendarID, &calendar.Channel{
			Id: ch.ID, Type: "web_hook", Address: r.s.webhook, Token: r.s.channelToken(ch.ID, r.userID),
			Params: map[string]string{"ttl": strconv.Itoa(int(channelLife / time.Second))},
		}).Context(ctx).Do()
	})
	switch {
	case err == nil:
		ch.State, ch.ResourceID, ch.ExpiresAt = channelOpen, opened.ResourceId, time.UnixMilli(opened.Expiration)
	case isClass(err, classPermanent), isClass(err, classNotFound), isClass(err, classScope):
		ch.State, ch.ExpiresAt = channelRefused, time.Now().Add(channelLife)
	default:
		return "", r.unwatched(ctx, calendarID, err)
	}
	return ch.ID, r.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error { return ch.save(ctx, tx) })
}

// unwatched takes a failure that the job needn't fail of.
func (r *run) unwatched(ctx context.Context, calendarID string, err error) error {
	if _, google := errors.AsType[*failure](err); !google || ctx.Err() != nil {
		return err
	}
	r.s.log.Info().Err(err).Str("user_id", r.userID).Str("calendar_id", calendarID).Msg("channel neither opened nor closed; the next sync tries again")
	return nil
}

// closeChannel stops a channel and forgets it.
func (r *run) closeChannel(ctx context.Context, ch channel) error {
	if ch.ResourceID != "" && time.Now().Before(ch.ExpiresAt) {
		_, err := call(ctx, r.client, idempotent, func() (struct{}, error) {
			return struct{}{}, r.calendar.Channels.Stop(&calendar.Channel{Id: ch.ID, ResourceId: ch.ResourceID}).Context(ctx).Do()
		})
		if err != nil && !isClass(err, classNotFound) && !isClass(err, classPermanent) {
			return r.unwatched(ctx, ch.CalendarID, err)
		}
	}
	return r.tx(ctx, func(ctx context.Context, tx pgx.Tx, _ *Result) error {
		if _, err := tx.Exec(ctx, `DELETE FROM google_channels WHERE id = $1`, ch.ID); err != nil {
			return fmt.Errorf("forget channel %s: %w", ch.ID, err)
		}
		return nil
	})
}

const channelColumns = `id::text, calendar_id, state, resource_id, key_version, created_at, expires_at`

func readChannels(ctx context.Context, q postgres.Querier, userID string) ([]channel, error) {
	rows, err := q.Query(ctx, `SELECT `+channelColumns+` FROM google_channels WHERE user_id = $1 ORDER BY created_at, id`, userID)
	if err != nil {
		return nil, fmt.Errorf("read channels of user %s: %w", userID, err)
	}
	return collectChannels(rows, userID)
}

func collectChannels(rows pgx.Rows, userID string) ([]channel, error) {
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[channel])
	if err != nil {
		return nil, fmt.Errorf("read channels of user %s: %w", userID, err)
	}
	return list, nil
}

// save stores what Google said of a channel, unless that is known already.
func (ch channel) save(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		UPDATE google_channels SET state = $2, resource_id = $3, expires_at = $4 WHERE id = $1 AND state = 'opening'`,
		ch.ID, ch.State, ch.ResourceID, ch.ExpiresAt)
	if err != nil {
		return fmt.Errorf("save channel %s: %w", ch.ID, err)
	}
	return nil
}

// forgetChannels removes the user's channels, which are of no use from the commit on.
func forgetChannels(ctx context.Context, tx pgx.Tx, userID string) ([]channel, error) {
	rows, err := tx.Query(ctx, `DELETE FROM google_channels WHERE user_id = $1 RETURNING `+channelColumns, userID)
	if err != nil {
		return nil, fmt.Errorf("forget channels of user %s: %w", userID, err)
	}
	return collectChannels(rows, userID)
}

// stopChannels tells Google, as long as the account's token still serves. Whatever stays open ends by itself.
func (s *Service) stopChannels(ctx context.Context, a account, channels []channel) {
	a.State = StateConnected // it was
	token, err := s.usable(a, "")
	if err != nil || token.value == "" || len(channels) == 0 {
		return
	}
	c, err := s.google(ctx, a.UserID)
	if err != nil {
		return
	}
	c.token = token
	for _, ch := range channels {
		if ch.State != channelOpen {
			continue
		}
		if err := c.calendar.Channels.Stop(&calendar.Channel{Id: ch.ID, ResourceId: ch.ResourceID}).Context(ctx).Do(); err != nil {
			s.log.Info().Err(err).Str("user_id", a.UserID).Msg("channel not stopped at Google; it ends by itself")
		}
	}
}

// channelToken is what Google repeats in each notification of a channel: sealed for the channel, so that nobody else can make one,
// and that it can be checked without asking anybody.
func (s *Service) channelToken(channelID, userID string) string {
	return base64.RawURLEncoding.EncodeToString(s.keys.Seal(channelPurpose+channelID, []byte(userID)))
}

const channelPurpose = "google/channel/"

// Notification is what Google posts to the address of a channel.
//
// https://developers.google.com/workspace/calendar/api/guides/push
type Notification struct {
	ChannelID  string
	token      string
	resourceID string
	state      string // sync, when the channel has been opened; exists or not_exists, when something has changed
	number     string // rises, with gaps
	expiration string
}

// NewNotification reads a notification, all of which is in the headers.
func NewNotification(h http.Header) Notification {
	return Notification{
		ChannelID: h.Get("X-Goog-Channel-Id"), token: h.Get("X-Goog-Channel-Token"), resourceID: h.Get("X-Goog-Resource-Id"),
		state: h.Get("X-Goog-Resource-State"), number: h.Get("X-Goog-Message-Number"), expiration: h.Get("X-Goog-Channel-Expiration"),
	}
}

// Genuine reports whether the notification has the token that its channel was opened with, and whose channel it is. It asks nobody.
func (s *Service) Genuine(n Notification) (userID string, ok bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(n.token)
	if err != nil || !validUUID(n.ChannelID) {
		return "", false
	}
	plain, err := s.keys.Open(channelPurpose+n.ChannelID, sealed)
	return string(plain), err == nil
}

// Notified takes a notification: of a change it makes a job of the user's, unless one waits already or the user wants none. One
// without its channel's token, or of a channel that was closed, is fault.NotFound and does nothing.
func (s *Service) Notified(ctx context.Context, n Notification, requestID string) error {
	userID, ok := s.Genuine(n)
	if !ok {
		s.metrics.notifications.WithLabelValues("forged").Inc()
		return fault.Missing("channel")
	}
	number, err := strconv.ParseInt(n.number, 10, 64)
	if err != nil || number < 1 {
		return fault.New(fault.Malformed, "bad-header", "X-Goog-Message-Number must be a number above 0.")
	}
	var outcome string
	err = s.ob.Tx(ctx, func(tx pgx.Tx) error {
		outcome, err = s.notified(ctx, tx, n, number, userID, requestID)
		return err
	})
	if err != nil {
		return err
	}
	s.metrics.notifications.WithLabelValues(outcome).Inc()
	return nil
}

func (s *Service) notified(ctx context.Context, tx pgx.Tx, n Notification, number int64, userID, requestID string) (outcome string, err error) {
	var resourceID string
	var last int64
	var wanted bool
	// Without a lock: two that come at once make one job all the same, and a disconnect comes to the channel from the job.
	err = tx.QueryRow(ctx, `
		SELECT resource_id, last_message, EXISTS (SELECT 1 FROM sync_schedules s WHERE s.user_id = c.user_id)
		FROM google_channels c WHERE id = $1 AND user_id = $2 AND state <> 'refused'`, n.ChannelID, userID).Scan(&resourceID, &last, &wanted)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", fault.Missing("channel")
	case err != nil:
		return "", fmt.Errorf("read channel %s: %w", n.ChannelID, err)
	case resourceID != "" && resourceID != n.resourceID:
		return "", fault.Missing("channel")
	case n.state == "sync":
		ch := channel{ID: n.ChannelID, State: channelOpen, ResourceID: n.resourceID, ExpiresAt: time.Now().Add(channelLife)}
		if at, err := http.ParseTime(n.expiration); err == nil {
			ch.ExpiresAt = at
		}
		return "opened", ch.save(ctx, tx)
	case number <= last:
		return "repeated", nil
	}
	outcome = "unwanted"
	if wanted {
		meta := s.background(userID, requestID)
		_, coalesced, err := enqueue(ctx, tx, meta, userID, Ask{Type: events.SyncCalendar, Mode: events.SyncIncremental}, events.TriggerWebhook)
		if err != nil {
			return "", err
		}
		outcome = "queued"
		if coalesced {
			outcome = "coalesced"
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE google_channels SET last_message = $2 WHERE id = $1 AND last_message < $2`, n.ChannelID, number); err != nil {
		return "", fmt.Errorf("note message of channel %s: %w", n.ChannelID, err)
	}
	return outcome, nil
}
