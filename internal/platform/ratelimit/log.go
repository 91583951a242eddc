package ratelimit

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/bus"
)

// log is what this node knows of the requests admitted under an exact policy. The entry's shard guards times and revision.
type log struct {
	times    []int64 // in Unix milliseconds, ascending, no two alike
	revision uint64  // of the message that held them; 0: none
	// turn is taken by the request that writes: others of this node would only lose the compare-and-set against it.
	turn chan struct{}
}

func newLog() *log { return &log{turn: make(chan struct{}, 1)} }

// within returns the times of the window that ends now, in a slice of its own.
func (l *log) within(now int64) []int64 {
	for i, t := range l.times {
		if t > now-windowMillis {
			return slices.Clone(l.times[i:])
		}
	}
	return nil
}

// merge adds times. Of those beyond the limit the oldest decide nothing.
func (l *log) merge(times []int64, limit int64) {
	all := append(slices.Clone(l.times), times...)
	slices.Sort(all)
	all = slices.Compact(all)
	l.times = all[max(0, len(all)-int(limit)):]
}

// exact admits by compare-and-set of the subject's log. Without NATS the node's own log decides.
func (l *Limiter) exact(ctx context.Context, p *Policy, subject string) Decision {
	now := l.now().UnixMilli()
	e := l.table.acquire(p, subject, 0)
	d := judgeTimes(p.Limit, e.log.within(now), now)
	e.shard.mu.Unlock()
	if !d.Allowed {
		return d
	}
	// No longer than the requests before it: after one without an answer nobody waits for NATS. A client that hangs up must not get
	// past the other nodes' logs.
	e.log.turn <- struct{}{}
	defer func() { <-e.log.turn }()
	ctx = context.WithoutCancel(ctx)
	for l.reachable() {
		e.shard.mu.Lock()
		times, revision := e.log.within(now), e.log.revision
		e.shard.mu.Unlock()
		if d = judgeTimes(p.Limit, times, now); !d.Allowed {
			return d
		}
		stored, err := l.replaceLog(ctx, e, appendTime(times, now), revision)
		if err == nil && !stored {
			err = l.readLog(ctx, e)
		} else if err == nil {
			return d
		}
		if err != nil {
			l.failed(err)
			break
		}
	}
	return l.admit(e, now)
}

// admit decides by this node's own log, and notes what it admits there.
func (l *Limiter) admit(e *entry, now int64) Decision {
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	times := e.log.within(now)
	d := judgeTimes(e.policy.Limit, times, now)
	if d.Allowed {
		e.log.merge(appendTime(times, now), e.policy.Limit)
	}
	return d
}

// appendTime appends now, or the next free moment: no two times are alike.
func appendTime(times []int64, now int64) []int64 {
	if n := len(times); n > 0 {
		now = max(now, times[n-1]+1)
	}
	return append(times, now)
}

func logSubject(e *entry) string { return bus.RateLimitLogSubject + "." + e.name }

// replaceLog stores times if the stored log is still that of the revision, and reports whether it was.
func (l *Limiter) replaceLog(ctx context.Context, e *entry, times []int64, revision uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, exactWait)
	defer cancel()
	data, err := json.Marshal(times)
	if err != nil {
		return false, err
	}
	msg := nats.NewMsg(logSubject(e))
	msg.Header["Nats-Expected-Last-Subject-Sequence"] = []string{strconv.FormatUint(revision, 10)}
	msg.Data = data
	reply, err := l.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return false, fmt.Errorf("write the log of %s: %w", e.policy.Key, err)
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil:
		return false, fmt.Errorf("write the log of %s: read the answer: %w", e.policy.Key, err)
	case ack.Error == nil:
	case bus.IsConflict(ack.Error):
		return false, nil
	default:
		return false, fmt.Errorf("write the log of %s: %w", e.policy.Key, ack.Error)
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	e.log.merge(times, e.policy.Limit)
	e.log.revision = ack.Seq
	return true, nil
}

// readLog merges the stored log into what this node knows. What the stream has lost, this node's next write restores.
func (l *Limiter) readLog(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, exactWait)
	defer cancel()
	request, err := json.Marshal(map[string]string{"last_by_subj": logSubject(e)})
	if err != nil {
		return err
	}
	reply, err := l.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+bus.RateLimitLogs, request)
	if err != nil {
		return fmt.Errorf("read the log of %s: %w", e.policy.Key, err)
	}
	var answer struct {
		Message struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("read the log of %s: %w", e.policy.Key, err)
	}
	var times []int64
	switch {
	case answer.Error == nil:
		if err := json.Unmarshal(answer.Message.Data, &times); err != nil {
			return fmt.Errorf("read the log of %s: %w", e.policy.Key, err)
		}
	case answer.Error.ErrorCode != jetstream.JSErrCodeMessageNotFound:
		return fmt.Errorf("read the log of %s: %w", e.policy.Key, answer.Error)
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	e.log.merge(times, e.policy.Limit)
	e.log.revision = answer.Message.Seq
	return nil
}
