package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"fdc/internal/platform/fault"
)

// versionTag is the entity tag of a version: "7", in its quotes.
func versionTag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// noVersion is what no object is at: an entity tag that isn't one of ours can't match.
const noVersion = -1

// expected reads the preconditions of a write: the versions of which the object has to be at one, nil without a condition
// (If-Match: * is none either: the object is there or the answer is 404 anyway). The comparison is strong, so a weak tag matches
// nothing. If-None-Match: * asks that there be no object, so no version will do; with tags it makes sense of reads only.
func expected(h http.Header) ([]int64, error) {
	switch tags, err := entityTags(h, "If-None-Match"); {
	case err != nil:
		return nil, err
	case len(tags) > 0 && tags[0] == "*":
		return []int64{}, nil
	case len(tags) > 0:
		return nil, fault.New(fault.Malformed, "bad-header", "If-None-Match must be * in a write; send If-Match.")
	}
	tags, err := entityTags(h, "If-Match")
	if err != nil || len(tags) == 0 || tags[0] == "*" {
		return nil, err
	}
	versions := make([]int64, len(tags))
	for i, tag := range tags {
		versions[i] = versionOf(tag)
	}
	return versions, nil
}

// noneMatch reads If-None-Match and reports whether a GET has to send what has the tag: whether no tag in it, compared weakly, is
// that one. A header that can't be read is no condition.
func noneMatch(h http.Header, own string) bool {
	tags, err := entityTags(h, "If-None-Match")
	if err != nil {
		return true
	}
	for _, tag := range tags {
		if tag == "*" || strings.TrimPrefix(tag, "W/") == own {
			return false
		}
	}
	return true
}

// newestTag is the newest version in If-None-Match. The client has seen it, so nothing older is an answer.
func newestTag(h http.Header) int64 {
	newest := int64(noVersion)
	tags, _ := entityTags(h, "If-None-Match")
	for _, tag := range tags {
		newest = max(newest, versionOf(strings.TrimPrefix(tag, "W/")))
	}
	return newest
}

func versionOf(tag string) int64 {
	text := strings.Trim(tag, `"`)
	version, err := strconv.ParseInt(text, 10, 64)
	if err != nil || version < 0 || versionTag(version) != tag {
		return noVersion
	}
	return version
}

// entityTags splits a header of RFC 9110, 8.8.3: "*" alone, or a list of tags that may hold commas in their quotes.
// Empty elements of the list count for nothing.
func entityTags(h http.Header, name string) ([]string, error) {
	rest := strings.Trim(strings.Join(h.Values(name), ","), ", \t")
	if rest == "*" {
		return []string{"*"}, nil
	}
	var tags []string
	for rest != "" {
		prefix := 0
		if strings.HasPrefix(rest, "W/") {
			prefix = 2
		}
		if len(rest) <= prefix || rest[prefix] != '"' {
			return nil, malformedTags(name)
		}
		end := strings.IndexByte(rest[prefix+1:], '"')
		if end < 0 {
			return nil, malformedTags(name)
		}
		end += prefix + 2
		tags = append(tags, rest[:end])
		rest = strings.TrimLeft(rest[end:], " \t")
		if rest != "" && rest[0] != ',' {
			return nil, malformedTags(name)
		}
		rest = strings.TrimLeft(rest, ", \t")
	}
	if tags == nil && len(h.Values(name)) > 0 {
		return nil, malformedTags(name)
	}
	return tags, nil
}

func malformedTags(name string) error {
	return fault.New(fault.Malformed, "bad-header", `%s must be * or entity tags in quotes, such as "7".`, name)
}
