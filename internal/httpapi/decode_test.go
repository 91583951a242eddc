package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

type sample struct {
	Name  string          `json:"name"            min:"1" max:"3"`
	Kind  string          `json:"kind,omitempty"  enum:"a|b"`
	Count int             `json:"count,omitempty" min:"5" max:"10"`
	Big   *int64          `json:"big,omitempty"   min:"0"`
	Flag  bool            `json:"flag,omitempty"`
	At    *time.Time      `json:"at,omitempty"`
	Tags  []string        `json:"tags,omitempty"  max:"2"`
	Data  json.RawMessage `json:"data,omitempty"`
	Inner struct {
		X string `json:"x"`
	} `json:"inner,omitzero"`
}

func TestDecodeJSON(t *testing.T) {
	t.Parallel()
	var in sample
	body := `{"name":"日本語","kind":"b","count":7,"big":9007199254740993,"flag":true,"at":"2026-03-01T09:00:00+09:00",` +
		`"tags":["x","y"],"data":{"a":[1]},"inner":{"x":"z"}}`
	require.NoError(t, decodeJSON([]byte(body), &in))
	require.Equal(t, "日本語", in.Name)
	require.Equal(t, int64(9007199254740993), *in.Big)
	require.Equal(t, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), in.At.UTC())
	require.JSONEq(t, `{"a":[1]}`, string(in.Data))
	require.Equal(t, "z", in.Inner.X)

	for body, want := range map[string][]string{
		`[]`:                            {""},
		`null`:                          {""},
		`"x"`:                           {""},
		`{}`:                            {"/name"},
		`{"name":null}`:                 {"/name"},
		`{"name":1}`:                    {"/name"},
		`{"name":""}`:                   {"/name"},
		`{"name":"long"}`:               {"/name"},
		`{"Name":"x"}`:                  {"/name", "/Name"},
		`{"name":"x","kind":"c"}`:       {"/kind"},
		`{"name":"x","kind":""}`:        {"/kind"},
		`{"name":"x","kind":null}`:      {"/kind"},
		`{"name":"x","count":4}`:        {"/count"},
		`{"name":"x","count":11}`:       {"/count"},
		`{"name":"x","count":5.5}`:      {"/count"},
		`{"name":"x","count":"7"}`:      {"/count"},
		`{"name":"x","count":1e99}`:     {"/count"},
		`{"name":"x","big":-1}`:         {"/big"},
		`{"name":"x","big":null}`:       nil,
		`{"name":"x","at":null}`:        nil,
		`{"name":"x","at":"tomorrow"}`:  {"/at"},
		`{"name":"x","at":5}`:           {"/at"},
		`{"name":"x","flag":1}`:         {"/flag"},
		`{"name":"x","flag":null}`:      {"/flag"},
		`{"name":"x","tags":null}`:      {"/tags"},
		`{"name":"x","tags":"x"}`:       {"/tags"},
		`{"name":"x","tags":["a",1]}`:   {"/tags/1"},
		`{"name":"x","tags":[1,2,3]}`:   {"/tags"},
		`{"name":"x","data":[]}`:        {"/data"},
		`{"name":"x","data":null}`:      {"/data"},
		`{"name":"x","inner":{}}`:       {"/inner/x"},
		`{"name":"x","inner":{"y":1}}`:  {"/inner/x", "/inner/y"},
		`{"name":"x","a/b~":1}`:         {"/a~1b~0"},
		`{"name":5,"kind":5,"count":5}`: {"/name", "/kind"},
	} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			var in sample
			err := decodeJSON([]byte(body), &in)
			require.Equal(t, want, pointers(t, err))
		})
	}
}

// pointers are those of an Invalid error; nil without an error.
func pointers(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	require.Equal(t, fault.Invalid, f.Kind)
	var list []string
	for _, field := range f.Fields {
		require.NotEmpty(t, field.Detail)
		list = append(list, field.Pointer)
	}
	return list
}

func TestDecodeJSONBoundsItsErrors(t *testing.T) {
	t.Parallel()
	body := `{"name":"x"`
	for i := range 100 {
		body += `,"` + strings.Repeat("q", i+1) + `":1`
	}
	var in sample
	require.Len(t, pointers(t, decodeJSON([]byte(body+"}"), &in)), maxErrors)
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	const limit = 16
	for name, test := range map[string]struct {
		header http.Header
		body   string
		length int64 // of Content-Length; 0: the body's
		kind   fault.Kind
	}{
		"fine":              {http.Header{"Content-Type": {"application/json"}}, `{"a":1}`, 0, 0},
		"with charset":      {http.Header{"Content-Type": {"Application/JSON; Charset=UTF-8"}}, `{"a":1}`, 0, 0},
		"at the limit":      {http.Header{"Content-Type": {"application/json"}}, `{"a":"12345678"}`, 0, 0},
		"no type":           {http.Header{}, `{"a":1}`, 0, fault.UnsupportedMedia},
		"other type":        {http.Header{"Content-Type": {"text/plain"}}, `{"a":1}`, 0, fault.UnsupportedMedia},
		"form":              {http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, `a=1`, 0, fault.UnsupportedMedia},
		"nonsense type":     {http.Header{"Content-Type": {"///"}}, `{"a":1}`, 0, fault.UnsupportedMedia},
		"other charset":     {http.Header{"Content-Type": {"application/json; charset=latin1"}}, `{"a":1}`, 0, fault.UnsupportedMedia},
		"compressed":        {http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, `{"a":1}`, 0, fault.UnsupportedMedia},
		"over, announced":   {http.Header{"Content-Type": {"application/json"}}, `{"a":"123456789"}`, 0, fault.TooLarge},
		"over, unannounced": {http.Header{"Content-Type": {"application/json"}}, `{"a":"123456789"}`, -1, fault.TooLarge},
		"not JSON":          {http.Header{"Content-Type": {"application/json"}}, `{`, 0, fault.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(test.body))
			r.Header = test.header
			if test.length != 0 {
				r.ContentLength = test.length
			}
			body, err := readBody(httptest.NewRecorder(), r, jsonMedia, limit)
			require.Equal(t, test.kind, fault.KindOf(err))
			if err == nil {
				require.Equal(t, test.body, string(body))
			}
		})
	}
	broken := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", iotest.ErrReader(errors.New("reset")))
	broken.Header.Set("Content-Type", jsonMedia)
	_, err := readBody(httptest.NewRecorder(), broken, jsonMedia, limit)
	require.Equal(t, fault.Malformed, fault.KindOf(err))
}
