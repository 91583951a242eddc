package gsync

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/googleapi"

	"fdc/internal/platform/fault"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	answer := func(code int, reason string) error {
		return fmt.Errorf("wrapped: %w", &googleapi.Error{Code: code, Errors: []googleapi.ErrorItem{{Reason: reason}}})
	}
	for _, c := range []struct {
		err     error
		class   class
		unknown bool
	}{
		{answer(401, "authError"), classUnauthorized, false},
		{answer(403, "rateLimitExceeded"), classRate, false},
		{answer(403, "userRateLimitExceeded"), classRate, false},
		{answer(429, "rateLimitExceeded"), classRate, false},
		{answer(403, "quotaExceeded"), classQuota, false},
		{answer(403, "insufficientPermissions"), classScope, false},
		{answer(403, "forbidden"), classPermanent, false},
		{&googleapi.Error{Code: 403}, classPermanent, false},
		{answer(400, "invalid"), classPermanent, false},
		{answer(404, "notFound"), classNotFound, false},
		{answer(409, "duplicate"), classConflict, false},
		{answer(410, "fullSyncRequired"), classGone, false},
		{answer(412, "conditionNotMet"), classStale, false},
		{answer(500, "backendError"), classTransient, true},
		{&googleapi.Error{Code: 502}, classTransient, true},
		{errors.New("unexpected EOF"), classTransient, true},
		{&net.OpError{Op: "read", Err: errors.New("reset")}, classTransient, true},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, classTransient, false},
	} {
		require.Equal(t, verdict{class: c.class, unknown: c.unknown}, judge(c.err), "%v", c.err)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "99999999999": 24 * time.Hour, "999999": 24 * time.Hour, "soon": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
		now.AddDate(1, 0, 0).Format(http.TimeFormat): 24 * time.Hour,
	} {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {value}}, now), value)
	}
}

func TestValidateOAuth(t *testing.T) {
	t.Parallel()
	for endpoint, ok := range map[string]bool{"": true, "http://127.0.0.1:8085": true, "https://google": true, "google": false, "ftp://x": false, "http://": false} {
		require.Equal(t, ok, OAuth{Endpoint: endpoint}.Validate() == nil, endpoint)
	}
}

// Tokens go over plain http only to hosts that no public network leads to.
func TestPlainEndpointsArePrivate(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"127.0.0.1:1", "127.1.2.3", "[::1]:8085", "localhost:8085", "google.localhost", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"[fd00::1]:80", "[::ffff:10.0.0.1]", "google-emulator:8085", "emulator.internal", "Emulator.LOCAL.", "emulator.default.svc.cluster.local", "x.home.arpa", "x.lan",
	} {
		require.NoError(t, OAuth{Endpoint: "http://" + host}.Validate(), host)
	}
	for _, host := range []string{
		"google.example.com", "oauth2.googleapis.com", "8.8.8.8", "172.32.0.1", "172.15.0.1", "192.169.0.1", "11.0.0.1", "[2001:db8::1]", "[::ffff:8.8.8.8]",
		"localhost.example.com", "internal.example.com", "notinternal.com", "127.0.0.1.nip.io", "134744072", "0x08080808", "8.8", "0.0.0.0", "user@8.8.8.8",
	} {
		require.ErrorContains(t, OAuth{Endpoint: "http://" + host}.Validate(), "GOOGLE_ENDPOINT: http carries tokens", host)
		require.NoError(t, OAuth{Endpoint: "https://" + host}.Validate(), host)
	}
}

func TestGoogleAwayWhileSomebodyWaits(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	w.fault(http.MethodGet, "/*", 1, 0, object{"drop": "before"})
	for _, ask := range []func() error{
		func() error { _, err := w.TaskLists(t.Context(), p.id); return err },
		func() error { _, err := w.Calendars(t.Context(), p.id); return err },
		func() error { _, err := w.Settings(t.Context(), p.id); return err },
	} {
		requireFault(t, ask(), fault.Unavailable, "google-unavailable")
	}
	_, err := w.Exchange(t.Context(), "no code", "no verifier", "http://127.0.0.1/callback")
	requireFault(t, err, fault.Malformed, "google-code-refused")
}

// A clock is taken for another one only when the answer can't be explained by its whole seconds and by the time that it took.
func TestSkew(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		sent, received, want time.Duration // our clock, against the second that the other one showed
	}{
		{0, 0, 0},
		{999 * time.Millisecond, 999 * time.Millisecond, 0},
		{-5 * time.Second, 200 * time.Millisecond, 0}, // a slow answer
		{900 * time.Millisecond, 30 * time.Second, 0},
		{-10 * time.Second, -10 * time.Second, 10500 * time.Millisecond},
		{10 * time.Second, 10 * time.Second, -9500 * time.Millisecond},
		{-11 * time.Second, -9 * time.Second, 10500 * time.Millisecond},
	} {
		require.Equal(t, c.want, skew(at, at.Add(c.sent), at.Add(c.received)), "sent %v, received %v", c.sent, c.received)
	}
}
