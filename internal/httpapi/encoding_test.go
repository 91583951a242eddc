package httpapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

func accept(lines ...string) http.Header { return http.Header{"Accept-Encoding": lines} }

func TestNegotiate(t *testing.T) {
	t.Parallel()
	type choice struct {
		best     coding
		plainToo bool
	}
	for line, want := range map[string]choice{
		"":                                {plain, true},
		"identity":                        {plain, true},
		"gzip":                            {gzipped, true},
		"zstd":                            {zstandard, true},
		"gzip, deflate, br, zstd":         {zstandard, true},
		"GZIP":                            {gzipped, true},
		"x-gzip":                          {gzipped, true},
		"br, deflate, compress":           {plain, true},
		"*":                               {zstandard, true},
		"*;q=0.1":                         {zstandard, true},
		"zstd;q=0, *":                     {gzipped, true},
		"gzip;q=0.5, zstd;q=0.4":          {gzipped, true},
		"gzip;q=0.5, zstd;q=0.500":        {zstandard, true},
		"gzip;q=0.001":                    {gzipped, true},
		"gzip;q=0":                        {plain, true},
		"gzip;q=0.000, zstd;q=0.":         {plain, true},
		"gzip ; Q=0.5 ,\tzstd\t;\tq=0.1":  {gzipped, true},
		"gzip;q=0.5, identity":            {plain, true},
		"gzip;q=0.5, identity;q=0.5":      {gzipped, true},
		"gzip, identity;q=0":              {gzipped, false},
		"gzip, *;q=0":                     {gzipped, false},
		"gzip, *;q=0, identity;q=0.1":     {gzipped, true},
		"identity;q=0":                    {plain, true}, // there is nothing else, so this
		"*;q=0":                           {plain, true},
		"br, *;q=0":                       {plain, true},
		"identity;q=0, *;q=0.5":           {zstandard, false},
		", ,gzip,,":                       {gzipped, true},
		"gzip;q=2":                        {plain, true},
		"gzip;q=1.001":                    {plain, true},
		"gzip;q=0.1234":                   {plain, true},
		"gzip;q=-1, gzip;q=x, gzip;q":     {plain, true},
		"gzip;q=":                         {plain, true},
		"gzip;level=9":                    {plain, true},
		"gzip;q=0.5;q=1":                  {plain, true},
		"gzipped, zstdx, x-zstd":          {plain, true},
		"identity;q=nonsense, gzip;q=0.1": {gzipped, true},
	} {
		best, plainToo := negotiate(accept(line))
		require.Equal(t, want, choice{best, plainToo}, line)
	}
	best, plainToo := negotiate(http.Header{})
	require.Equal(t, choice{plain, true}, choice{best, plainToo}, "no wish")
	best, _ = negotiate(accept("gzip", "zstd"))
	require.Equal(t, zstandard, best, "two lines are one list")
}

func FuzzNegotiate(f *testing.F) {
	for _, seed := range []string{"gzip, deflate, br, zstd", "gzip;q=0.5, *;q=0", "identity;q=0", "x-gzip ; q=0.001", ";q=1", ",", "gzip;q=1.0000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		best, plainToo := negotiate(accept(line))
		require.True(t, best >= plain && best < codings)
		require.True(t, plainToo || best != plain, "there is always an answer")
		if best != plain {
			lower := strings.ToLower(line)
			require.True(t, strings.Contains(lower, best.String()) || strings.Contains(line, "*"), "nobody asked for %s", best)
		}
		// An element that is none of ours changes nothing, wherever it stands.
		for _, more := range []string{line + ",br;q=0.9", "deflate;q=1," + line} {
			b, p := negotiate(accept(more))
			require.Equal(t, best, b)
			require.Equal(t, plainToo, p)
		}
		// Elements are elements on one line and on many.
		b, p := negotiate(accept(strings.Split(line, ",")...))
		require.Equal(t, best, b)
		require.Equal(t, plainToo, p)
	})
}

// prose is a body of about n bytes as documents are: words, ids, numbers.
func prose(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `{"id":"%08x-0000-7000-8000-%012x","title":"Task %d","done":%t,"suit":"heart"},`, i*2654435761, i*40503, i, i%3 == 0)
	}
	return b.Bytes()[:n]
}

// All who want a form at once get it or the plain body, never wait, and it is made once.
func TestAFormIsMadeOnce(t *testing.T) {
	t.Parallel()
	free := make(encoders, 8) // as many as may race
	for range cap(free) {
		one := newEncoders()
		free <- <-one
	}
	r := &ready{body: prose(200_000)}
	var group sync.WaitGroup
	forms, start := make([][]byte, 64), make(chan struct{})
	for i := range forms {
		group.Go(func() {
			<-start
			var err error
			if forms[i], err = r.in(gzipped, free); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	group.Wait()
	made, err := r.in(gzipped, nil)
	require.NoError(t, err)
	require.NotNil(t, made, "kept: nobody encodes any more")
	for _, form := range forms {
		require.True(t, form == nil || &form[0] == &made[0])
	}
	require.Len(t, free, cap(free), "the encoders are back")
	z, err := gzip.NewReader(bytes.NewReader(made))
	require.NoError(t, err)
	body, err := io.ReadAll(z)
	require.NoError(t, err)
	require.Equal(t, r.body, body)
}

func TestNobodyWaitsForAnEncoder(t *testing.T) {
	t.Parallel()
	free := newEncoders()
	var busy []*encoder
	for range cap(free) {
		busy = append(busy, <-free)
	}
	r := &ready{body: prose(10_000)}
	form, err := r.in(zstandard, free)
	require.NoError(t, err)
	require.Nil(t, form)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = free.encode(ctx, r.body, zstandard)
	require.ErrorIs(t, err, context.Canceled, "but for who refuses the plain body, no longer than the request")

	free <- busy[0]
	form, err = r.in(zstandard, free)
	require.NoError(t, err)
	require.NotEmpty(t, form, "the next one has it made")
}

// What a document is reckoned to take is what it takes at most, with all its forms.
func TestReadySize(t *testing.T) {
	t.Parallel()
	free := newEncoders()
	for _, n := range []int{0, 1, minPlain - 1, minPlain, minPlain + 1, 20_000, 900_000} {
		r := &ready{body: prose(n)}
		before := r.size()
		taken := cap(r.body)
		for k := gzipped; k < codings; k++ {
			form, err := r.in(k, free)
			require.NoError(t, err)
			require.Equal(t, n >= minPlain, form != nil, "%d bytes in %s", n, k)
			taken += cap(form)
		}
		require.LessOrEqual(t, taken, before)
		require.LessOrEqual(t, before, 5*cap(r.body)/2+200)
	}
}

// BenchmarkWriteReady is what the answer to a hit costs from the document in memory to the connection's writer.
func BenchmarkWriteReady(b *testing.B) {
	gin.SetMode(gin.ReleaseMode)
	for _, line := range []string{"identity", "gzip, deflate, br", "gzip, deflate, br, zstd"} {
		best, _ := negotiate(accept(line))
		b.Run(best.String(), func(b *testing.B) {
			ctx := gin.CreateTestContextOnly(discard{http.Header{}}, gin.New())
			ctx.Request = httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
			ctx.Request.Header = accept(line)
			c := &call{api: &api{encoders: newEncoders()}, gin: ctx}
			doc := &ready{body: prose(20 << 10)}
			b.ReportAllocs()
			for b.Loop() {
				if err := c.writeReady(jsonMedia, doc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard is a response writer that keeps nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkEncode is what the first who wants a form pays.
func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{2 << 10, 20 << 10, 200 << 10, 1 << 20} {
		for k := gzipped; k < codings; k++ {
			b.Run(fmt.Sprintf("%s/%dKiB", k, n>>10), func(b *testing.B) {
				free, body := newEncoders(), prose(n)
				var form []byte
				var err error
				for b.Loop() {
					if form, err = free.encode(b.Context(), body, k); err != nil {
						b.Fatal(err)
					}
				}
				b.SetBytes(int64(n))
				b.ReportMetric(100*float64(len(form))/float64(n), "%size")
			})
		}
	}
}
