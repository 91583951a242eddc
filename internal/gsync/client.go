package gsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
	goauth "google.golang.org/api/oauth2/v2"
	"google.golang.org/api/option"
	"google.golang.org/api/tasks/v1"
)

// Bounds of the conversation with Google.
const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 64 << 20 // bytes of one answer
	maxTries       = 5        // of one call
	maxPause       = 32 * time.Second
)

func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: requestTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   32,
		ForceAttemptHTTP2:     true,
	}
}

// client is one user's Google during one piece of work. It counts its requests and is not for concurrent use.
type client struct {
	s        *Service
	userID   string
	tasks    *tasks.Service
	calendar *calendar.Service

	token accessToken
	calls atomic.Int64
	ahead atomic.Int64 // how far Google's clock is ahead of ours, in ns
}

// skew is how far Google's clock is ahead of ours.
func (c *client) skew() time.Duration { return time.Duration(c.ahead.Load()) }

// google returns a client for the user. It makes no request.
func (s *Service) google(ctx context.Context, userID string) (*client, error) {
	c := &client{s: s, userID: userID}
	httpClient := &http.Client{Transport: roundTripper(c.roundTrip), Timeout: requestTimeout}
	var err error
	if c.tasks, err = tasks.NewService(ctx, s.options(httpClient, "/")...); err != nil {
		return nil, fmt.Errorf("make Tasks client: %w", err)
	}
	if c.calendar, err = calendar.NewService(ctx, s.options(httpClient, "/calendar/v3/")...); err != nil {
		return nil, fmt.Errorf("make Calendar client: %w", err)
	}
	return c, nil
}

func (s *Service) options(httpClient *http.Client, path string) []option.ClientOption {
	opts := []option.ClientOption{option.WithHTTPClient(httpClient)}
	if s.oauth.Endpoint != "" {
		opts = append(opts, option.WithEndpoint(s.oauth.Endpoint+path))
	}
	return opts
}

// roundTrip adds the access token to a request of the user's.
func (c *client) roundTrip(r *http.Request) (*http.Response, error) {
	if err := c.s.turn(r.Context(), c.userID); err != nil {
		return nil, err
	}
	c.calls.Add(1)
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+c.token.value)
	sent := time.Now()
	resp, err := c.s.roundTrip(r)
	if err != nil {
		return nil, err
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.ahead.Store(int64(skew(at, sent, time.Now())))
	}
	return resp, nil
}

// skew is how far a clock is ahead that showed the whole second at, at some moment between sent and received by ours. What may be none
// counts as none: that an answer was slow says nothing about the clock.
func skew(at, sent, received time.Time) time.Duration {
	least, most := at.Sub(received), at.Add(time.Second).Sub(sent)
	if least <= 0 && most >= 0 {
		return 0
	}
	return (least + most) / 2
}

// roundTrip is the way of every request to Google.
func (s *Service) roundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", s.agent)
	resp, err := s.transport.RoundTrip(r)
	if err != nil {
		s.metrics.calls.WithLabelValues("0").Inc()
		return nil, err
	}
	s.metrics.calls.WithLabelValues(strconv.Itoa(resp.StatusCode)).Inc()
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// boundedBody fails the read of an answer that is too long, rather than to end it: a cut answer may look whole.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, fmt.Errorf("answer longer than %d bytes", int64(maxAnswer))
	}
	return n, err
}

// idempotent calls may be sent again when the fate of the first is unknown; once calls may not.
const (
	idempotent = true
	once       = false
)

// call makes one request of the user's and repeats it while that may help: after limits, failures of Google and lost
// answers, and once with a new token after a 401. A call that is not repeatable is repeated only when Google has
// certainly not carried it out.
func call[T any](ctx context.Context, c *client, repeatable bool, do func() (T, error)) (T, error) {
	renewed := false
	for try := 1; ; try++ {
		var got, none T
		err := c.authorize(ctx)
		if err == nil {
			if got, err = do(); err == nil {
				return got, nil
			}
			err = &failure{verdict: judge(err), err: err}
		}
		if ctx.Err() != nil {
			return none, fmt.Errorf("call Google: %w", context.Cause(ctx))
		}
		f, ok := errors.AsType[*failure](err)
		switch {
		case !ok, errors.Is(err, errQuota): // which has waited already
			return none, err
		case f.class == classUnauthorized && !renewed:
			renewed = true
			c.token.refused = true
			continue
		case f.class == classUnauthorized:
			return none, c.s.refused(ctx, c.userID, reasonInvalidToken, c.token.value, err)
		case f.class != classTransient && f.class != classRate, try == maxTries, f.unknown && !repeatable, f.retryAfter > maxPause:
			return none, err
		}
		if err := pause(ctx, max(f.retryAfter, c.s.jitter(try))); err != nil {
			return none, err
		}
	}
}

// jitter is the pause before the try after the given one: full jitter under a ceiling that doubles.
func (s *Service) jitter(try int) time.Duration {
	return time.Millisecond + rand.N(min(s.backoff<<min(try-1, 10), maxPause)) //nolint:gosec // jitter is no secret
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for Google: %w", context.Cause(ctx))
	}
}

// class is what to do about a failure of Google.
type class int

const (
	classPermanent    class = iota // the request is wrong: asking again gives the same
	classTransient                 // Google or the way to it is in trouble
	classRate                      // too fast: ask again soon
	classQuota                     // a day's quota is used up: ask again much later
	classUnauthorized              // the access token is not taken
	classScope                     // the user did not grant this
	classNotFound                  // no such thing, or not this user's
	classGone                      // of a sync token: read all anew; of a deletion: done already
	classConflict                  // the id is taken
	classStale                     // If-Match did not hold
)

// verdict is what a failure of Google means.
type verdict struct {
	class      class
	unknown    bool // whether Google has carried the request out is not known
	retryAfter time.Duration
}

// failure is an error of Google or of the way to it. Every other error is our own.
type failure struct {
	verdict
	err error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// isClass reports whether err is a failure of Google of that class.
func isClass(err error, want class) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.class == want
}

// judge reads the error of a request. What isn't Google's answer is a failure on the way.
func judge(err error) verdict {
	if known, ok := errors.AsType[*failure](err); ok {
		return known.verdict
	}
	answer, ok := errors.AsType[*googleapi.Error](err)
	if !ok {
		return verdict{class: classTransient, unknown: !neverSent(err)}
	}
	v := verdict{retryAfter: retryAfter(answer.Header, time.Now())}
	switch code := answer.Code; {
	case code == http.StatusTooManyRequests:
		v.class = classRate
	case code == http.StatusUnauthorized:
		v.class = classUnauthorized
	case code == http.StatusForbidden:
		v.class = classOf403(answer)
	case code == http.StatusNotFound:
		v.class = classNotFound
	case code == http.StatusGone:
		v.class = classGone
	case code == http.StatusConflict:
		v.class = classConflict
	case code == http.StatusPreconditionFailed:
		v.class = classStale
	case code == http.StatusRequestTimeout, code >= 500:
		v.class, v.unknown = classTransient, true
	}
	return v
}

// judgeRefresh reads the error of a refresh: the call it was for has not been made.
func judgeRefresh(err error) verdict {
	refusal, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return verdict{class: classTransient}
	}
	v := verdict{retryAfter: retryAfter(refusal.Response.Header, time.Now())}
	switch code := refusal.Response.StatusCode; {
	case code == http.StatusTooManyRequests:
		v.class = classRate
	case code >= 500:
		v.class = classTransient
	}
	return v
}

func classOf403(answer *googleapi.Error) class {
	if len(answer.Errors) == 0 {
		return classPermanent
	}
	switch answer.Errors[0].Reason {
	case "rateLimitExceeded", "userRateLimitExceeded":
		return classRate
	case "quotaExceeded", "dailyLimitExceeded":
		return classQuota
	case "insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
		return classScope
	default:
		return classPermanent
	}
}

// neverSent reports whether the request certainly did not reach Google.
func neverSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), 86_400)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), 24*time.Hour)
	}
	return 0
}

// userinfo asks whose token it is.
func (s *Service) userinfo(ctx context.Context, token *oauth2.Token) (*goauth.Userinfo, error) {
	httpClient := &http.Client{Timeout: requestTimeout, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+token.AccessToken)
		return s.roundTrip(r)
	})}
	service, err := goauth.NewService(ctx, s.options(httpClient, "/")...)
	if err != nil {
		return nil, fmt.Errorf("make userinfo client: %w", err)
	}
	info, err := service.Userinfo.Get().Context(ctx).Do()
	if err != nil {
		return nil, fmt.Errorf("ask Google who the user is: %w", err)
	}
	return info, nil
}
