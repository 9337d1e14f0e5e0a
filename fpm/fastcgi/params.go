package fastcgi

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
)

// Params are the variables of a request, as a web server sends them.
type Params map[string]string

// Own is the variable that marks a request as one of superd's own, which says nothing
// of how users fare. No header of theirs can have that name.
const Own = "SUPERD_CHECK"

// Script is the complete set for a PHP script, as nginx's fastcgi.conf has it:
// root is the document root on disk, scriptName the script below it ("/index.php"
// or "index.php"), uri what the user asked for ("/up?full=1"). An empty host is
// "localhost".
func Script(root, scriptName, uri, method, host string) Params {
	scriptName = "/" + strings.TrimLeft(scriptName, "/")
	if host == "" {
		host = "localhost"
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, "80"
	}
	_, query, _ := strings.Cut(uri, "?")
	return Params{
		"GATEWAY_INTERFACE": "CGI/1.1",
		"SERVER_SOFTWARE":   "superd",
		"SERVER_PROTOCOL":   "HTTP/1.1",
		"SERVER_NAME":       name,
		"SERVER_ADDR":       "127.0.0.1",
		"SERVER_PORT":       port,
		"REMOTE_ADDR":       "127.0.0.1",
		"REMOTE_PORT":       "0",
		"REQUEST_SCHEME":    "http",
		"REQUEST_METHOD":    method,
		"REQUEST_URI":       uri,
		"QUERY_STRING":      query,
		"DOCUMENT_ROOT":     root,
		"DOCUMENT_URI":      scriptName,
		"SCRIPT_NAME":       scriptName,
		"SCRIPT_FILENAME":   filepath.Join(root, scriptName),
		"REDIRECT_STATUS":   "200",
		"HTTP_HOST":         host,
		Own:                 "1",
	}
}

// Page is the set for a page that PHP-FPM answers by itself (ping, status). The
// file need not exist, but FPM ignores a request without SCRIPT_FILENAME.
func Page(path, query string) Params {
	return Params{
		"REQUEST_METHOD":  http.MethodGet,
		"REQUEST_URI":     path,
		"QUERY_STRING":    query,
		"SCRIPT_NAME":     path,
		"SCRIPT_FILENAME": path,
		Own:               "1",
	}
}

// SetHeader adds an HTTP header as CGI names it. Content-Type has a variable of its
// own, Content-Length follows from the body, and Proxy is never passed on
// (HTTP_PROXY is a variable that programs obey).
func (p Params) SetHeader(name, value string) {
	key := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	switch key {
	case "PROXY", "CONTENT_LENGTH":
	case "CONTENT_TYPE":
		p[key] = value
	case "HOST":
		p["HTTP_HOST"] = value
		p["SERVER_NAME"] = value
		if host, _, err := net.SplitHostPort(value); err == nil {
			p["SERVER_NAME"] = host
		}
	default:
		p["HTTP_"+key] = value
	}
}
