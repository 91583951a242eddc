package events_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

func BenchmarkEncode(b *testing.B) {
	for _, action := range []string{"task.updated", "sync.completed"} {
		b.Run(action, func(b *testing.B) {
			ev := exampleOf(action)
			b.ReportAllocs()
			for b.Loop() {
				_, err := events.Encode(ev)
				require.NoError(b, err)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, action := range []string{"task.updated", "sync.completed"} {
		b.Run(action, func(b *testing.B) {
			encoded, err := events.Encode(exampleOf(action))
			require.NoError(b, err)
			b.SetBytes(int64(len(encoded)))
			b.ReportAllocs()
			for b.Loop() {
				_, err := events.Decode(encoded)
				require.NoError(b, err)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	data := exampleOf("task.updated").Data
	b.ReportAllocs()
	for b.Loop() {
		events.New(byUser, exampleTask, data)
	}
}

func BenchmarkParseSubject(b *testing.B) {
	subject := exampleOf("task.updated").NATSSubject()
	b.ReportAllocs()
	for b.Loop() {
		_, err := events.ParseSubject(subject)
		require.NoError(b, err)
	}
}
