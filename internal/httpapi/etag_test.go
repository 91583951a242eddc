package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func TestIfMatch(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int64{
		`"0"`: 0, `"7"`: 7, ` "7" `: 7, `"9223372036854775807"`: 9223372036854775807,
		// Entity tags that are none of ours, and weak ones, match nothing.
		`W/"7"`: noVersion, `"07"`: noVersion, `"-1"`: noVersion, `"+7"`: noVersion, `"abc"`: noVersion, `""`: noVersion,
		`"9223372036854775808"`: noVersion, `"a,b"`: noVersion,
	} {
		got, err := expected(http.Header{"If-Match": {value}})
		require.NoError(t, err, value)
		require.Equal(t, []int64{want}, got, value)
	}
	for _, values := range [][]string{{`"7","8"`}, {`"7"`, `"8"`}, {` "7" ,, "8",`}, {"", `,"7"`, "", `"8"`}, {`"7"`, "", `"8"`}} {
		got, err := expected(http.Header{"If-Match": values})
		require.NoError(t, err, "%q", values)
		require.Equal(t, []int64{7, 8}, got, "%q", values)
	}
	got, err := expected(http.Header{"If-Match": {`"a", W/"7", "8"`}})
	require.NoError(t, err)
	require.Equal(t, []int64{noVersion, noVersion, 8}, got)
	for _, h := range []http.Header{{}, {"If-Match": {"*"}}, {"If-Match": {" * "}}} {
		got, err := expected(h)
		require.NoError(t, err)
		require.Nil(t, got)
	}
	for _, values := range [][]string{{"7"}, {""}, {`"7`}, {`7"`}, {`w/"7"`}, {`"7" "8"`}, {`*,"7"`}, {`"7",*`}, {"*", "*"}, {","}, {"W/"}, {`"7",x`}} {
		_, err := expected(http.Header{"If-Match": values})
		require.Equal(t, fault.Malformed, fault.KindOf(err), "%q", values)
	}
}

func TestIfNoneMatchOfAWrite(t *testing.T) {
	t.Parallel()
	got, err := expected(http.Header{"If-None-Match": {"*"}, "If-Match": {`"7"`}})
	require.NoError(t, err)
	require.NotNil(t, got)
	require.Empty(t, got, "no version is none")
	for _, value := range []string{`"7"`, `W/"7"`, `"7", "8"`, "7", ""} {
		_, err := expected(http.Header{"If-None-Match": {value}})
		require.Equal(t, fault.Malformed, fault.KindOf(err), value)
	}
}

func TestIfNoneMatch(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		`"7"`: false, `W/"7"`: false, `"6", "7"`: false, `"a,b","7"`: false, `*`: false,
		`"6"`: true, `"07"`: true, `7`: true, `nonsense`: true, `""`: true,
	} {
		require.Equal(t, want, noneMatch(http.Header{"If-None-Match": {value}}, versionTag(7)), value)
	}
	require.True(t, noneMatch(http.Header{}, versionTag(7)))
}

func FuzzEntityTags(f *testing.F) {
	for _, seed := range []string{`"7"`, `W/"7", "8"`, `*`, `"`, `W/`, `,,"a" , "b"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		tags, err := entityTags(http.Header{"If-Match": {value}}, "If-Match")
		if err != nil {
			return
		}
		if len(tags) == 1 && tags[0] == "*" {
			return
		}
		again, err := entityTags(http.Header{"If-Match": {strings.Join(tags, ", ")}}, "If-Match")
		require.NoError(t, err)
		require.Equal(t, tags, again)
		for _, tag := range tags {
			require.Regexp(t, `^(W/)?"[^"]*"$`, tag)
		}
	})
}
