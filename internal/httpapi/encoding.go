package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// coding is a content coding (RFC 9110, 8.4.1), from the least liked to the most.
type coding int

const (
	plain coding = iota // identity
	gzipped
	zstandard
	codings
)

// String is the coding's name in Content-Encoding.
func (k coding) String() string { return [...]string{"identity", "gzip", "zstd"}[k] }

// Bounds of compressed forms, in bytes.
const (
	minPlain = 1 << 10 // what is shorter fits in a packet or two as it is
	// zstdWindow lets a form refer to all of its document. Browsers take up to 8 MiB (RFC 9659).
	zstdWindow = 1 << 20
)

// maxForm is the longest form that is kept of a body: one that saves less than a quarter isn't worth its memory.
func maxForm(body int) int { return body / 4 * 3 }

// negotiate reads Accept-Encoding (RFC 9110, 12.5.3): which coding the client likes best, of equals the one that we do, and
// whether it takes the body plainly too. Without the header it is plain: who wants a coding says so. An element that can't be
// read counts as not there. Who takes nothing that there is gets it plainly, as 12.4.1 allows.
func negotiate(h http.Header) (best coding, plainToo bool) {
	const unnamed = -1
	weights, others := [codings]int{unnamed, unnamed, unnamed}, unnamed
	for _, line := range h["Accept-Encoding"] {
		for element := range strings.SplitSeq(line, ",") {
			name, weight, ok := weighted(element)
			switch {
			case !ok:
			case name == "*":
				others = weight
			case strings.EqualFold(name, "identity"):
				weights[plain] = weight
			case strings.EqualFold(name, "gzip"), strings.EqualFold(name, "x-gzip"):
				weights[gzipped] = weight
			case strings.EqualFold(name, "zstd"):
				weights[zstandard] = weight
			}
		}
	}
	if weights[plain] == unnamed && others == unnamed {
		weights[plain] = 1 // taken, but liked less than whatever is named
	}
	for k, weight := range weights {
		if weight == unnamed {
			weights[k] = max(0, others)
		}
	}
	for k := gzipped; k < codings; k++ {
		if weights[k] > 0 && weights[k] >= weights[best] {
			best = k
		}
	}
	return best, best == plain || weights[plain] > 0
}

// weighted reads an element such as "gzip;q=0.5"; the weight is in thousandths.
func weighted(element string) (name string, weight int, ok bool) {
	name, param, given := strings.Cut(element, ";")
	name = strings.Trim(name, " \t")
	if !given {
		return name, 1000, name != ""
	}
	key, q, _ := strings.Cut(strings.Trim(param, " \t"), "=")
	weight, ok = thousandths(q)
	return name, weight, ok && strings.EqualFold(key, "q")
}

// thousandths reads a qvalue: 0 to 1 with three decimals at most.
func thousandths(q string) (n int, ok bool) {
	if len(q) == 0 || len(q) > len("0.000") || len(q) > 1 && q[1] != '.' {
		return 0, false
	}
	for i := range len("0.000") {
		switch {
		case i == 1:
		case i >= len(q):
			n *= 10
		case q[i] < '0' || q[i] > '9':
			return 0, false
		default:
			n = n*10 + int(q[i]-'0')
		}
	}
	return n, n <= 1000
}

// ready is a body that is sent many times: its bytes and, made when somebody first wants them, its compressed forms. It is
// safe for concurrent use.
type ready struct {
	body  []byte
	forms [codings]form // plain has none
}

// form is made by the one who claims it.
type form struct {
	claimed atomic.Bool
	made    atomic.Pointer[[]byte] // to nil when it saves too little
}

// size is about the most that r takes of memory, with all its forms.
func (r *ready) size() int {
	size := 128 + cap(r.body)
	if len(r.body) >= minPlain {
		size += int(codings-1) * maxForm(len(r.body))
	}
	return size
}

// in returns the form of r in a coding; nil when the body is better sent plainly: it is small, hardly shrinks, or nobody is
// free to encode it. Nobody waits here, so a burst of new documents costs bandwidth for a moment and never time.
func (r *ready) in(k coding, free encoders) ([]byte, error) {
	if k == plain || len(r.body) < minPlain {
		return nil, nil
	}
	f := &r.forms[k]
	if made := f.made.Load(); made != nil {
		return *made, nil
	}
	select {
	case e := <-free:
		defer func() { free <- e }()
		if !f.claimed.CompareAndSwap(false, true) {
			return nil, nil
		}
		made, err := e.encode(r.body, k)
		if err != nil || len(made) > maxForm(len(r.body)) {
			made = nil
		}
		f.made.Store(&made)
		return made, err
	default:
		return nil, nil
	}
}

// encoders are those that are free. There is one for every two CPUs, so that encoding leaves half of them to hits.
type encoders chan *encoder

func newEncoders() encoders {
	free := make(encoders, max(1, runtime.GOMAXPROCS(0)/2))
	for range cap(free) {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("httpapi: zstd: " + err.Error())
		}
		free <- &encoder{to: [codings]compressor{gzipped: gzip.NewWriter(nil), zstandard: z}}
	}
	return free
}

// encode waits for an encoder.
func (free encoders) encode(ctx context.Context, body []byte, k coding) ([]byte, error) {
	select {
	case e := <-free:
		defer func() { free <- e }()
		return e.encode(body, k)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// encoder is for one at a time.
type encoder struct {
	out bytes.Buffer
	to  [codings]compressor
}

type compressor interface {
	io.WriteCloser
	Reset(w io.Writer)
}

func (e *encoder) encode(body []byte, k coding) ([]byte, error) {
	e.out.Reset()
	w := e.to[k]
	w.Reset(&e.out)
	_, err := w.Write(body)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("encode in %s: %w", k, err)
	}
	return bytes.Clone(e.out.Bytes()), nil
}
