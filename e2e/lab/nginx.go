package lab

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// Nginx is the web server in front.
type Nginx struct {
	*Server
	URL string
}

// StartNginx serves the shop from PHP behind socket. root is the variable that says
// where scripts are: $document_root goes through the link current for each file,
// $realpath_root resolves it once per request.
func (l *Lab) StartNginx(socket, root string) (*Nginx, error) {
	return l.StartFront(Front{PHP: "unix:" + socket, Root: root})
}

// A Front is an nginx in front of PHP.
type Front struct {
	PHP  string // where PHP is, as nginx has it: "unix:/path" or "127.0.0.1:9000"
	Root string // see StartNginx
	Keep int    // connections that each of its processes keeps to PHP
}

// upstream is what nginx is told about PHP.
func (f Front) upstream() string {
	text := "upstream php { server " + f.PHP + "; "
	if f.Keep > 0 {
		text += fmt.Sprintf("keepalive %d; ", f.Keep)
	}
	return text + "}"
}

// StartFront starts that nginx, on a port of its own.
func (l *Lab) StartFront(f Front) (*Nginx, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("nginx-%d", port)
	home := l.Path(name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	conf := fmt.Sprintf(nginxConf, home, address, l.Path("shop", "current", "public"), f.upstream(), f.Root, map[bool]string{true: "on", false: "off"}[f.Keep > 0])
	if err := os.WriteFile(home+"/nginx.conf", []byte(conf), 0o644); err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	s, err := l.run(&Server{Name: name, stop: syscall.SIGTERM}, nil,
		"nginx", "-p", home, "-c", home+"/nginx.conf", "-e", home+"/error.log", "-g", "daemon off;")
	if err != nil {
		return nil, err
	}
	return &Nginx{Server: s, URL: "http://" + address}, s.ready(func() bool {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

const nginxConf = `
user www-data;
worker_processes 2;
worker_rlimit_nofile 20000;
pid %[1]s/pid;
error_log %[1]s/error.log warn;
events { worker_connections 8192; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	fastcgi_temp_path %[1]s/fastcgi;
	proxy_temp_path %[1]s/proxy;
	scgi_temp_path %[1]s/scgi;
	uwsgi_temp_path %[1]s/uwsgi;
	keepalive_requests 1000000;
	%[4]s
	server {
		listen %[2]s backlog=4096;
		root %[3]s;
		location / {
			fastcgi_pass php;
			fastcgi_keep_conn %[6]s;
			fastcgi_read_timeout 60s;
			fastcgi_param SCRIPT_FILENAME %[5]s/index.php;
			fastcgi_param DOCUMENT_ROOT %[5]s;
			fastcgi_param SCRIPT_NAME /index.php;
			fastcgi_param REQUEST_URI $request_uri;
			fastcgi_param DOCUMENT_URI $document_uri;
			fastcgi_param QUERY_STRING $query_string;
			fastcgi_param REQUEST_METHOD $request_method;
			fastcgi_param CONTENT_TYPE $content_type;
			fastcgi_param CONTENT_LENGTH $content_length;
			fastcgi_param SERVER_PROTOCOL $server_protocol;
			fastcgi_param GATEWAY_INTERFACE CGI/1.1;
			fastcgi_param REMOTE_ADDR $remote_addr;
			fastcgi_param SERVER_NAME $server_name;
			fastcgi_param SERVER_PORT $server_port;
			fastcgi_param HTTP_HOST $http_host;
		}
	}
}
`
