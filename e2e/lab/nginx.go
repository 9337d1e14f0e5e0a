package lab

import "fmt"

// StartNginx serves the shop from PHP behind socket. root is the variable that says
// where scripts are: $document_root goes through the link current for each file,
// $realpath_root resolves it once per request.
func (l *Lab) StartNginx(socket, root string) (*WebServer, error) {
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
func (l *Lab) StartFront(f Front) (*WebServer, error) {
	return l.serveWithNginx(func(address string) string {
		return fmt.Sprintf(front, address, l.Path("shop", "current", "public"), f.upstream(), f.Root, map[bool]string{true: "on", false: "off"}[f.Keep > 0])
	})
}

// serveWithNginx starts an nginx with a site, which it is given the address for.
func (l *Lab) serveWithNginx(site func(address string) string) (*WebServer, error) {
	home, address, err := l.place("nginx")
	if err != nil {
		return nil, err
	}
	conf := home + "/nginx.conf"
	return l.serve("nginx", address, conf, fmt.Sprintf(nginxAround, home, site(address)), nil,
		"nginx", "-p", home, "-c", conf, "-e", home+"/error.log", "-g", "daemon off;")
}

const nginxAround = `
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
	%[2]s
}
`

const front = `keepalive_requests 1000000;
	%[3]s
	server {
		listen %[1]s backlog=4096;
		root %[2]s;
		location / {
			fastcgi_pass php;
			fastcgi_keep_conn %[5]s;
			fastcgi_read_timeout 60s;
			fastcgi_param SCRIPT_FILENAME %[4]s/index.php;
			fastcgi_param DOCUMENT_ROOT %[4]s;
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
`
