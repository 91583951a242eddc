package events

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParser holds the parser to encoding/json: it accepts nothing that is not JSON, and reads strings alike.
func FuzzParser(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, `[1,-0,0.5,1e9,1E+9,-1.5e-3]`, `"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"`, `[true,false,null]`, `"\ud800"`, `"\u0000"`,
		` { "a" : [ { } , [ ] ] } `, `01`, `1.`, `.5`, `1e`, `--1`, `[1,]`, `{"a":1,}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, "\"\xff\"",
		`tru`, `nullx`, `"`, `"\`, `"\u`, `"\u00g0"`, `"\u+123"`, `{"a" 1}`, `[1 2]`, "\"\t\"", "\ufeff1", "\v1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parser{s: string(b)}
		err := p.skip()
		if err == nil {
			err = p.end()
		}
		if err != nil {
			return
		}
		require.True(t, json.Valid(b))
		p = parser{s: string(b)}
		if p.peek() == '"' {
			got, err := p.str()
			require.NoError(t, err)
			var want string
			require.NoError(t, json.Unmarshal(b, &want))
			require.Equal(t, want, got)
		}
	})
}
