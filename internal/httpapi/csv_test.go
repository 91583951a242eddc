package httpapi

import (
	"bytes"
	"encoding/csv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/audit"
)

func TestNoCellOfACSVIsAFormula(t *testing.T) {
	t.Parallel()
	for _, sign := range []string{"=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"} {
		for _, attack := range []string{sign + "cmd|' /C calc'!A0", "a;" + sign + "1+1", "a; " + sign + "1", `{"a":"b;""` + sign + `1"}`, sign} {
			require.Equal(t, "'"+attack, csvCell(attack), "%q", attack)
		}
	}
	for _, harmless := range []string{"", "a=b", "a-b", "curl/8 (x; y)", `{"a":"b;c"}`, "2026-01-01T00:00:00Z", "名前"} {
		require.Equal(t, harmless, csvCell(harmless))
	}
}

// Every field is in quotes, empty ones and the header too, and a reader gets back what was written.
func TestEveryFieldOfACSVIsQuoted(t *testing.T) {
	t.Parallel()
	attack := "Mozilla \"5\",\r\n=1;x"
	b, err := AuditLines(FormatCSV)([]audit.Entry{{EventID: "id", UserAgent: attack, TargetID: "＝1"}})
	require.NoError(t, err)
	for field := range strings.SplitSeq(strings.ReplaceAll(strings.TrimSuffix(string(b), "\r\n"), attack[:13], ""), ",") {
		require.Regexp(t, `(?s)^"|"$`, field)
	}
	require.True(t, bytes.HasPrefix(b, []byte(`"eventId","occurredAt",`)))
	require.Contains(t, string(b), `,"",`)
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 2)
	require.Equal(t, strings.ReplaceAll(attack, "\r\n", "\n"), rows[1][9])
	require.Equal(t, "'＝1", rows[1][7])
}
