package devstack

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// LoopbackOnly answers requests to a loopback listener only if they name a loopback host, or the host of the listener's flag (HOST:PORT).
// Otherwise a page could rebind its own name to 127.0.0.1 and read what is there as its own origin. A listener that others reach is left
// alone: it has names that nobody here knows.
func LoopbackOnly(next http.Handler, listener net.Listener, flag string) http.Handler {
	if !isLoopback(hostOf(listener.Addr().String())) {
		return next
	}
	given := hostOf(flag)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := hostOf(r.Host); !isLoopback(host) && (host == "" || host != given) {
			http.Error(w, "This address answers requests for localhost, 127.0.0.1 and [::1] only; use one of them.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostOf is the host of HOST:PORT, or of HOST alone, in lower case.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	}
	return strings.ToLower(host)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
