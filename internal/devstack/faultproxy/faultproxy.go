// Package faultproxy stands between a test's client and its server and breaks their connection the ways that networks do.
package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Proxy carries TCP connections to a server. It is safe for concurrent use.
type Proxy struct {
	URL string // the server's, with the proxy's address

	to       string
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	change  *sync.Cond
	state   state
	conns   map[net.Conn]struct{}
	answers *answers // which are held back; nil: none
	delay   time.Duration
}

// answers are those of the server in which a text occurs.
type answers struct {
	text []byte
	held chan struct{}
}

type state int

const (
	open   state = iota
	deaf         // connections stay, and new ones are taken, but nothing reaches the server
	paused       // nor the client
	cut          // connections are closed, and new ones too
	ended
)

// New returns a Proxy to the host and port of a URL, which ends with the test.
func New(tb testing.TB, to string) *Proxy {
	tb.Helper()
	server, err := url.Parse(to)
	if err != nil {
		tb.Fatalf("parse the server's URL: %v", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	p := &Proxy{to: server.Host, listener: listener, conns: map[net.Conn]struct{}{}}
	server.Host = listener.Addr().String()
	p.URL = server.String()
	p.change = sync.NewCond(&p.mu)
	p.running.Go(p.accept)
	tb.Cleanup(func() {
		p.set(ended)
		_ = listener.Close() // nobody has closed it before
		p.running.Wait()
	})
	return p
}

// Pause holds back every byte until Heal, as a firewall that drops packets does: neither end is told.
func (p *Proxy) Pause() { p.set(paused) }

// Deafen holds back what clients send, until Heal; what the server sends arrives.
func (p *Proxy) Deafen() { p.set(deaf) }

// Cut closes all connections, and every new one, until Heal.
func (p *Proxy) Cut() { p.set(cut) }

// Hold holds back, until Heal, each answer of the server in which text occurs, and what comes after it on the same connection.
// The channel tells of each of them, 1024 at most.
func (p *Proxy) Hold(text string) (held <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = &answers{text: []byte(text), held: make(chan struct{}, 1024)}
	return p.answers.held
}

// Slow carries at most 32 KiB in each direction of a connection, and after a delay, until Heal.
func (p *Proxy) Slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// Heal carries again. What was held back arrives.
func (p *Proxy) Heal() { p.set(open) }

func (p *Proxy) set(s state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == ended {
		return
	}
	p.state = s
	if s == open {
		p.answers, p.delay = nil, 0
	}
	if s >= cut {
		for conn := range p.conns {
			_ = conn.Close() // a broken connection is what is wanted
		}
	}
	p.change.Broadcast()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.running.Go(func() { p.carry(conn) })
		}
	}
}

func (p *Proxy) carry(client net.Conn) {
	defer client.Close() //nolint:errcheck // the other direction, or Cut, may have
	if !p.hold(client) {
		return
	}
	defer p.release(client)
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.to)
	if err != nil {
		return // the server is away: so are we
	}
	defer server.Close() //nolint:errcheck // see above
	if !p.hold(server) {
		return
	}
	defer p.release(server)
	var back sync.WaitGroup
	back.Go(func() {
		p.copy(client, server, paused)
		_ = client.Close() // the end of one direction is the end of both
	})
	p.copy(server, client, deaf)
	_ = server.Close()
	back.Wait()
}

// hold keeps a connection for Cut; false when it is cut already.
func (p *Proxy) hold(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state >= cut {
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}

func (p *Proxy) release(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// copy carries one direction, which is held back from a state on, until it is cut.
func (p *Proxy) copy(dst io.Writer, src io.Reader, held state) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := src.Read(buffer)
		p.mu.Lock()
		if a := p.answers; a != nil && held == paused && bytes.Contains(buffer[:n], a.text) {
			select {
			case a.held <- struct{}{}:
			default: // told often enough
			}
			for p.answers == a && p.state < cut {
				p.change.Wait()
			}
		}
		for p.state >= held && p.state < cut {
			p.change.Wait()
		}
		delay := p.delay
		p.mu.Unlock()
		if n > 0 {
			<-time.After(delay)
			if _, err := dst.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
