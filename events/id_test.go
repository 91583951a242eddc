package events

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestNewID(t *testing.T) {
	t.Parallel()
	before := time.Now().UnixMilli()
	id := NewID()
	require.True(t, ValidID(id))
	u, err := uuid.Parse(id)
	require.NoError(t, err)
	require.Equal(t, id, u.String())
	require.Equal(t, uuid.Version(7), u.Version())
	require.Equal(t, uuid.RFC4122, u.Variant())
	sec, _ := u.Time().UnixTime()
	require.InDelta(t, before/1000, sec, 2)
}

func TestIDsAreInOrderAndUnique(t *testing.T) {
	t.Parallel()
	const workers, each = 8, 5000
	made := make([][]string, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				made[w] = append(made[w], NewID())
			}
		})
	}
	wg.Wait()
	for _, ids := range made {
		require.True(t, slices.IsSorted(ids), "each worker's ids are in the order it made them")
	}
	all := slices.Concat(made...)
	slices.Sort(all)
	require.Len(t, slices.Compact(all), workers*each)
}

func TestIDsSurviveTheClock(t *testing.T) {
	t.Parallel()
	var s idSource
	at := time.UnixMilli(1_700_000_000_000)
	var made []string
	for _, clock := range []time.Time{at, at, at.Add(-time.Hour), at.Add(time.Millisecond - 1), at.Add(time.Millisecond), at.Add(time.Hour)} {
		made = append(made, s.next(clock))
	}
	for range 5000 { // more than the fraction of one millisecond can count
		made = append(made, s.next(at))
	}
	for _, id := range made {
		require.True(t, ValidID(id))
		require.Equal(t, byte('7'), id[14])
	}
	require.True(t, slices.IsSorted(made))
	require.True(t, strings.HasPrefix(made[0], "018bcfe5-6800-7000-"), made[0])
}

func TestValidID(t *testing.T) {
	t.Parallel()
	require.True(t, ValidID("0195d1a0-0000-7000-8000-00000000abcd"))
	for _, s := range []string{
		"", "0195d1a0-0000-7000-8000-00000000abc", "0195d1a0-0000-7000-8000-00000000abcde",
		"0195D1A0-0000-7000-8000-00000000ABCD", "0195d1a000000-7000-8000-00000000abcd", "{195d1a0-0000-7000-8000-00000000abc}",
		"0195d1a0-0000-7000-8000-00000000abc\u00e9", "0195d1a0.0000.7000.8000.00000000abcd", "0195d1a0-0000-7000-8000-00000000abc*",
	} {
		require.False(t, ValidID(s), s)
	}
}
