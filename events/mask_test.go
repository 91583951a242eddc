package events_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
)

func TestMaskEmail(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"alice@example.com":          "a***@example.com",
		"a@example.com":              "a***@example.com",
		"Alice.Liddell+x@Example.co": "A***@Example.co",
		"élise@exämple.fr":           "é***@exämple.fr",
		"佐藤@例え.jp":                   "佐***@例え.jp",
		"a@b@example.com":            "a***@example.com",
		`"al ice"@example.com`:       "***@example.com",
		"a***@example.com":           "a***@example.com",
		"***@example.com":            "***@example.com",
		"***":                        "***",
		"":                           "***",
		"alice":                      "***",
		"@example.com":               "***",
		"alice@":                     "***",
		"alice@exa mple.com":         "***",
		"alice@example.com\nbob":     "***",
		"alice@<script>":             "***",
		"\xff@example.com":           "***@example.com",
	} {
		require.Equal(t, want, events.MaskEmail(given), given)
	}
}

func FuzzMaskEmail(f *testing.F) {
	for _, seed := range []string{"alice@example.com", "***", "@", "a@", "\xff@\xff", "佐藤@例え.jp"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, email string) {
		masked := events.MaskEmail(email)
		require.Equal(t, masked, events.MaskEmail(masked), "masking twice changes nothing")
		_, err := events.Encode(events.New(byUser, "", events.UserCreated{UserID: exampleUser, Version: 1, Email: masked}))
		require.NoError(t, err, "what is masked can be told")
	})
}
