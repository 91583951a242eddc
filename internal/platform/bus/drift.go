package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Drift is one respect in which the server differs from what Streams, Buckets and Consumers declare.
type Drift struct {
	Name  string // the stream's, or the consumer's
	Field string // as JetStream spells it, such as max_age; empty when all of it is missing
	Have  string
	Want  string
}

// Missing reports whether there is nothing of that name.
func (d Drift) Missing() bool { return d.Field == "" }

// StreamDrift compares streams, or buckets, with the server's. Nothing is left out but what the server itself adds.
func StreamDrift(ctx context.Context, js jetstream.JetStream, declared []jetstream.StreamConfig) ([]Drift, error) {
	var drifts []Drift
	for _, want := range declared {
		stream, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			drifts = append(drifts, Drift{Name: want.Name})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for stream %s: %w", want.Name, err)
		}
		drifts = append(drifts, differences(want.Name, streamAsStored(want), streamAsStored(stream.CachedInfo().Config))...)
	}
	return drifts, nil
}

// ConsumerDrift compares the declared consumers with the server's. A paused one differs in pause_until.
func ConsumerDrift(ctx context.Context, js jetstream.JetStream, replicas int) ([]Drift, error) {
	var drifts []Drift
	for _, declared := range Consumers() {
		consumer, err := js.Consumer(ctx, Events, declared.Name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			drifts = append(drifts, Drift{Name: declared.Name})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for consumer %s: %w", declared.Name, err)
		}
		drifts = append(drifts,
			differences(declared.Name, consumerAsStored(declared.config(replicas)), consumerAsStored(consumer.CachedInfo().Config))...)
	}
	return drifts, nil
}

// The server's own values for what a stream or consumer leaves open.
const (
	defaultDedupeWindow = 2 * time.Minute
	defaultMaxWaiting   = 512
)

// streamAsStored spells what was left open as the server does, so that two configurations with the same meaning are equal.
func streamAsStored(c jetstream.StreamConfig) jetstream.StreamConfig {
	for _, limit := range []*int64{&c.MaxMsgs, &c.MaxBytes, &c.MaxMsgsPerSubject} {
		if *limit == 0 {
			*limit = -1
		}
	}
	if c.MaxConsumers == 0 {
		c.MaxConsumers = -1
	}
	if c.MaxMsgSize == 0 {
		c.MaxMsgSize = -1
	}
	if c.Duplicates == 0 {
		c.Duplicates = defaultDedupeWindow
		if c.MaxAge > 0 {
			c.Duplicates = min(c.Duplicates, c.MaxAge)
		}
	}
	c.Replicas = max(c.Replicas, 1)
	c.Metadata = ownMetadata(c.Metadata)
	return c
}

func consumerAsStored(c jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	c.Name = "" // the server repeats the durable name
	if c.MaxWaiting == 0 {
		c.MaxWaiting = defaultMaxWaiting
	}
	if c.MaxDeliver == 0 {
		c.MaxDeliver = -1
	}
	if c.FilterSubject != "" { // the server shortens a list of one
		c.FilterSubjects, c.FilterSubject = []string{c.FilterSubject}, ""
	}
	if c.PauseUntil != nil && !c.PauseUntil.After(time.Now()) {
		c.PauseUntil = nil // over
	}
	c.Metadata = ownMetadata(c.Metadata)
	return c
}

// ownMetadata leaves out what the server writes down for itself.
func ownMetadata(all map[string]string) map[string]string {
	own := maps.Clone(all)
	maps.DeleteFunc(own, func(key, _ string) bool { return strings.HasPrefix(key, "_nats.") })
	if len(own) == 0 {
		return nil
	}
	return own
}

// differences compares two configurations of one type, field by field: a field that a later client brings is compared too.
func differences(name string, want, have any) []Drift {
	var drifts []Drift
	w, h := reflect.ValueOf(want), reflect.ValueOf(have)
	for i := range w.NumField() {
		a, b := w.Field(i).Interface(), h.Field(i).Interface()
		if reflect.DeepEqual(a, b) || empty(w.Field(i)) && empty(h.Field(i)) {
			continue
		}
		field, _, _ := strings.Cut(w.Type().Field(i).Tag.Get("json"), ",")
		drifts = append(drifts, Drift{Name: name, Field: field, Have: show(b), Want: show(a)})
	}
	return drifts
}

// empty is a list or map without entries, whether it is there or not.
func empty(v reflect.Value) bool {
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
}

func show(v any) string {
	if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer {
		if p.IsNil() {
			return "not set"
		}
		v = p.Elem().Interface()
	}
	return fmt.Sprintf("%v", v)
}
