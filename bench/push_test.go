package main

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadFrame(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	wire := "\x81\x02hi" + "\x81\x7e\x01\x2c" + long + "\x89\x00" + "\x88\x02\x0f\xa8"
	r := bufio.NewReader(strings.NewReader(wire))
	var payload []byte
	for _, want := range []struct {
		kind    byte
		payload string
	}{{frameText, "hi"}, {frameText, long}, {framePing, ""}, {frameClose, "\x0f\xa8"}} {
		kind, err := readFrame(r, &payload)
		require.NoError(t, err)
		require.Equal(t, want.kind, kind)
		require.Equal(t, want.payload, string(payload))
	}
	for name, wire := range map[string]string{
		"fragment": "\x01\x02hi", "masked": "\x81\x82\x00\x00\x00\x00hi", "compressed": "\xc1\x02hi", "cut": "\x81\x02h",
		"too long": "\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00",
	} {
		_, err := readFrame(bufio.NewReader(strings.NewReader(wire)), &payload)
		require.Error(t, err, name)
	}
}

func TestASocketChecksItsEvents(t *testing.T) {
	t.Parallel()
	const a, b = "00000000-0000-7000-8000-00000000000a", "00000000-0000-7000-8000-00000000000b"
	event := func(id string) []byte {
		return []byte(`{"type":"event","cursor":"","event":{"data":{"taskId":"t"},"id":"` + id + `"}}`)
	}
	for name, test := range map[string]struct {
		got   []string
		wrong string
	}{
		"as sent":      {got: []string{a, b}},
		"lost":         {got: []string{a}, wrong: "1 of 2"},
		"repeated":     {got: []string{a, a, b}, wrong: "repeated"},
		"out of order": {got: []string{b, a}, wrong: "out of order"},
		"too many":     {got: []string{a, b, b}, wrong: "repeated"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &swarm{failed: make(chan error, 1)}
			c := &socketConn{swarm: s}
			for _, id := range test.got {
				c.take(event(id))
			}
			require.NoError(t, s.wait(t.Context(), &s.events, len(test.got), "events"))
			_, err := c.check([]string{a, b})
			if test.wrong != "" {
				require.ErrorContains(t, err, test.wrong)
				return
			}
			require.NoError(t, err)
			arrivals, err := c.check(nil)
			require.NoError(t, err, "what was checked is forgotten")
			require.Empty(t, arrivals)
		})
	}
}

func TestASocketTakesOnlyWhatItKnows(t *testing.T) {
	t.Parallel()
	for _, message := range []string{
		`{"type":"resync","cursor":"","reason":"expired"}`, `{"type":"event","cursor":"","event":{}}`, `{"error":{}}`,
	} {
		s := &swarm{failed: make(chan error, 1)}
		(&socketConn{swarm: s}).take([]byte(message))
		require.Error(t, s.wait(t.Context(), &s.events, 1, "events"), message)
	}
}

// The bare loop writes what the hub would.
func TestEnvelopeIsTheHubs(t *testing.T) {
	t.Parallel()
	message := envelopeOf([]byte(`{"id":"1"}`))
	require.Equal(t, `{"type":"event","cursor":"AAAAAAAAAAAAAAAAAAAAAA","event":{"id":"1"}}`, message)
	require.True(t, bytes.HasPrefix([]byte(message), eventPrefix))
}
