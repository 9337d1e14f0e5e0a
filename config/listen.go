package config

import (
	"net/netip"
	"regexp"
	"strings"
)

// Where FPM listens when it is an address of TCP.

var tcpAddress = regexp.MustCompile(`^([0-9]+|[^/]*:[^/]*)$`)

func isTCP(s string) bool { return tcpAddress.MatchString(s) }

var barePort = regexp.MustCompile(`^[:*]*([0-9]+)$`)

func (k listener) address(n node, s string) {
	at, ok := addressOf(n, s)
	if !ok {
		return
	}
	*k.into = at.String()
	if !at.Addr().IsLoopback() {
		n.warn("whoever can connect to %s can run every PHP file that this app can read: FastCGI asks for no password; "+
			"let a firewall see to it that only the web server can", at)
	}
}

// scraped is the address of the metrics; empty is none.
type scraped struct{ into *string }

func (k scraped) set(n node) {
	s, ok := n.text(`an address, such as "127.0.0.1:9465"`)
	if !ok || s == "" {
		return
	}
	at, ok := addressOf(n, s)
	if !ok {
		return
	}
	*k.into = at.String()
	if !at.Addr().IsLoopback() {
		n.warn("whoever can connect to %s can read all metrics: they ask for no password; let a firewall see to it that only your Prometheus can", at)
	}
}

// addressOf is an address and a port, in numbers only: php-fpm takes the first of what
// a name stands for, and that may change. When it is false it was told what is wrong.
func addressOf(n node, s string) (netip.AddrPort, bool) {
	const want = `an address in numbers and a port, such as "127.0.0.1:9000" or "[::1]:9000"`
	if m := barePort.FindStringSubmatch(s); m != nil {
		n.wrong(`must say on which address, is %q; write "127.0.0.1:%s", or "0.0.0.0:%s" for all`, short(s), short(m[1]), short(m[1]))
		return netip.AddrPort{}, false
	}
	if host, port, ok := strings.Cut(s, "localhost:"); ok && host == "" {
		n.wrong(`must be %s, is %q; write "127.0.0.1:%s"`, want, short(s), short(port))
		return netip.AddrPort{}, false
	}
	at, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		n.wrong("must be %s, with a port of 1 to 65535, is %q", want, short(s))
	case at.Port() == 0:
		n.wrong("must have a port of 1 to 65535, is %q", short(s))
	case at.Addr().Zone() != "":
		n.wrong("cannot have a zone, is %q", short(s))
	case at.Addr().Is4In6():
		n.wrong("is an address of IPv4 in the clothes of IPv6; write %q", netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String())
	default:
		return at, true
	}
	return netip.AddrPort{}, false
}

// overlap tells whether two addresses of one port are one of all and one of those.
func overlap(a, b string) bool {
	x, err := netip.ParseAddrPort(a)
	y, err2 := netip.ParseAddrPort(b)
	if err != nil || err2 != nil || x.Port() != y.Port() || x.Addr().Is4() != y.Addr().Is4() {
		return false
	}
	return x.Addr().IsUnspecified() || y.Addr().IsUnspecified()
}
