package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
)

// loadCommand sends HTTP requests from a process of its own.
const loadCommand = "load"

// loadRequest says what to send. Each connection sends its own requests in turn, again and again, the next when the answer
// to the last is there.
type loadRequest struct {
	Addr        string        `json:"addr"` // on this machine
	Connections [][]exchange  `json:"connections"`
	Pause       time.Duration `json:"pause"` // between an answer and the next request; connections begin spread over it
	Warmup      time.Duration `json:"warmup"`
	Length      time.Duration `json:"length"`
}

// exchange is a request and what is to come back.
type exchange struct {
	Wire   []byte `json:"wire"`
	Status int    `json:"status"` // of the answer; another ends the run
	// Again asks for something newer than the last answer with an ETag on the connection; that there is none is an answer.
	Again bool `json:"again"`
}

// loadResult is what came back of the requests that began in Length.
type loadResult struct {
	Requests  int     `json:"requests"`
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50"` // milliseconds
	P95       float64 `json:"p95"`
	P99       float64 `json:"p99"`
}

// load runs the generator.
func load(ctx context.Context, request loadRequest) (loadResult, error) {
	generator, err := startChild(ctx, loadCommand, request)
	if err != nil {
		return loadResult{}, err
	}
	var result loadResult
	return result, generator.wait(&result)
}

// raw writes a request as it goes over the wire.
func raw(r *http.Request) ([]byte, error) {
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	return wire.Bytes(), nil
}

// runLoad is the generator. It does as little as it can, because it shares the machine with what it measures.
func runLoad(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	runtime.GOMAXPROCS(2)
	var request loadRequest
	if err := json.NewDecoder(stdin).Decode(&request); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	ctx, cancel := untilEOF(ctx, stdin)
	defer cancel()
	if host, _, err := net.SplitHostPort(request.Addr); err != nil || !net.ParseIP(host).IsLoopback() {
		return fmt.Errorf("load goes to this machine only, not to %q", request.Addr)
	}
	from := time.Now().Add(request.Warmup)
	to := from.Add(request.Length)
	var wait sync.WaitGroup
	latencies := make([][]time.Duration, len(request.Connections))
	errs := make([]error, len(request.Connections))
	for i := range request.Connections {
		wait.Go(func() { latencies[i], errs[i] = hammer(ctx, request, i, from, to) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var all []time.Duration
	for _, one := range latencies {
		all = append(all, one...)
	}
	values := inMilliseconds(all)
	return json.NewEncoder(stdout).Encode(loadResult{
		Requests: len(all), PerSecond: rate(len(all), request.Length),
		P50: median(values), P95: quantile(values, 0.95), P99: quantile(values, 0.99),
	})
}

// hammer is one connection. It keeps the latencies of the requests that began between from and to.
func hammer(ctx context.Context, request loadRequest, number int, from, to time.Time) (latencies []time.Duration, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", request.Addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close() //nolint:errcheck // the last answer has been read
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	reader := bufio.NewReaderSize(conn, 32<<10)
	exchanges := request.Connections[number]
	pause := request.Pause * time.Duration(number) / time.Duration(len(request.Connections))
	etag := ""
	for i := 0; ; i++ {
		if err := rest(ctx, pause); err != nil {
			return nil, err
		}
		pause = request.Pause
		e := exchanges[i%len(exchanges)]
		wire := e.Wire
		if e.Again && etag != "" {
			wire = withHeader(wire, "If-None-Match", etag)
		}
		start := time.Now()
		if start.After(to) {
			return latencies, nil
		}
		if _, err := conn.Write(wire); err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
		status, tag, err := readAnswer(reader)
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		if known := e.Again && status == http.StatusNotModified; status != e.Status && !known {
			return nil, fmt.Errorf("answer %d, not %d", status, e.Status)
		}
		if tag != "" {
			etag = tag
		}
		if start.After(from) {
			latencies = append(latencies, time.Since(start))
		}
	}
}

// rest waits, unless there is nothing to wait for.
func rest(ctx context.Context, pause time.Duration) error {
	if pause == 0 {
		return nil
	}
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// withHeader adds a header to a request without a body.
func withHeader(wire []byte, name, value string) []byte {
	const end = "\r\n"
	return slices.Concat(bytes.TrimSuffix(wire, []byte(end)), []byte(name+": "+value+end+end))
}

// readAnswer reads one HTTP/1.1 answer and throws the body away.
func readAnswer(r *bufio.Reader) (status int, etag string, err error) {
	first, err := r.ReadSlice('\n')
	if err != nil {
		return 0, "", err
	}
	if len(first) < 12 || !bytes.HasPrefix(first, []byte("HTTP/1.1 ")) {
		return 0, "", fmt.Errorf("status line %q", first)
	}
	if status, err = strconv.Atoi(string(first[9:12])); err != nil {
		return 0, "", err
	}
	length, chunked := -1, false
	for {
		header, err := r.ReadSlice('\n')
		if err != nil {
			return 0, "", err
		}
		header = bytes.TrimRight(header, "\r\n")
		if len(header) == 0 {
			break
		}
		name, value, _ := bytes.Cut(header, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, "", err
			}
		case bytes.EqualFold(name, []byte("ETag")):
			etag = string(value)
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
	switch {
	case status == http.StatusNoContent, status == http.StatusNotModified: // never a body
		return status, etag, nil
	case chunked:
		return status, etag, skipChunks(r)
	case length >= 0:
		_, err = r.Discard(length)
		return status, etag, err
	default:
		return 0, "", errors.New("an answer without a length")
	}
}

func skipChunks(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 31)
		if err != nil {
			return err
		}
		if _, err := r.Discard(int(size) + len("\r\n")); err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
	}
}
