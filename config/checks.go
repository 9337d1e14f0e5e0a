package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kindKeys are the keys that count with some kinds of check only.
func kindKeys() map[string][]string {
	return map[string][]string{
		"path":    {"fastcgi"},
		"script":  {"fastcgi"},
		"status":  {"fastcgi", "http"},
		"body":    {"fastcgi", "http"},
		"headers": {"fastcgi", "http"},
		"url":     {"http"},
		"address": {"tcp"},
		"command": {"command"},
	}
}

func checkCheck(n node, c *Check) {
	if _, isTable := n.value.(map[string]any); !isTable {
		return
	}
	if n.has("name") {
		checkName(n.at("name"), c.Name)
	}
	for name, kinds := range kindKeys() {
		if n.has(name) && !slices.Contains(kinds, c.Kind) {
			n.at(name).wrong(`counts with kind = "%s" only, and this check is %q`, strings.Join(kinds, `" or "`), c.Kind)
		}
	}
	if c.Kind == "fastcgi" && !strings.HasPrefix(c.Path, "/") {
		n.at("path").wrong("must begin with /, is %q", short(c.Path))
	}
	if c.Kind == "fastcgi" && c.Script == "." {
		n.at("script").wrong(`must be a script inside document_root, such as "index.php", is empty`)
	}
	checkDeadline(n, c)
	needed := map[string]string{
		"http": "url", "tcp": "address", "command": "command",
	}[c.Kind]
	if needed != "" && !n.has(needed) {
		n.missing(needed, "kind = %q needs it, such as %s", c.Kind, exampleOf(needed))
		return
	}
	var err error
	switch c.Kind {
	case "http":
		err = checkURL(c.URL)
	case "tcp":
		err = checkAddress(c.Address)
	}
	if err != nil {
		n.at(needed).wrong("%v", err)
	}
	if n.has("status") && len(c.Status) == 0 {
		n.at("status").wrong("is empty, and no answer would do; such as [200]")
	}
}

// checkDeadline refuses a check that no candidate could pass.
func checkDeadline(n node, c *Check) {
	pauses := time.Duration(c.HealthyThreshold - 1)
	if c.Phase == "live" || pauses < 1 || c.Interval < c.Deadline/pauses {
		return
	}
	at := n
	for _, name := range []string{"healthy_threshold", "interval", "deadline"} {
		if n.has(name) {
			at = n.at(name)
		}
	}
	at.wrong("no release can pass this check: %d successes in a row, %s apart, take longer than the deadline, %s",
		c.HealthyThreshold, c.Interval, c.Deadline)
}

func exampleOf(key string) string {
	switch key {
	case "url":
		return `url = "http://127.0.0.1:8080/up"`
	case "address":
		return `address = "127.0.0.1:6379"`
	}
	return `command = ["php", "artisan", "health"]`
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf(`must be a URL of http or https, such as "http://127.0.0.1:8080/up", is %q`, short(s))
	}
	return nil
}

// checkAddress accepts host:port and the absolute path of a unix socket.
func checkAddress(s string) error {
	if filepath.IsAbs(s) {
		return checkSocket(s)
	}
	host, port, err := net.SplitHostPort(s)
	if err == nil && host != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			return nil
		}
	}
	return fmt.Errorf(`must be host:port, such as "127.0.0.1:6379", or the path of a unix socket, is %q`, short(s))
}
