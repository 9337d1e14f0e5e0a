package lab

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// A WebServer is one in front of PHP.
type WebServer struct {
	*Server
	URL string
}

// A Site is what a web server is to serve: the part of its configuration that
// docs/webservers.md has for people to copy. Each of them is given the address, the
// directory and the socket of the lab in place of the ones in the page.
type Site struct {
	Text   string // of the configuration, with the paths of the page
	Root   string // where files are
	Socket string // where PHP is
}

func (s Site) at(address string) string {
	return strings.NewReplacer(
		"/srv/shop/current/public", s.Root, "/run/superd/shop/fpm.sock", s.Socket,
		"listen 80;", "listen "+address+" backlog=4096;", "fastcgi.conf", "/etc/nginx/fastcgi.conf", // nginx
		"*:80", address, // Apache
		"shop.example {", "http://"+address+" {\n\tbind 127.0.0.1", // Caddy
	).Replace(s.Text)
}

// ServeWithNginx serves a site with nginx.
func (l *Lab) ServeWithNginx(s Site) (*WebServer, error) {
	return l.serveWithNginx(s.at)
}

// ServeWithApache serves a site with Apache and mod_proxy_fcgi, as Debian has it.
func (l *Lab) ServeWithApache(s Site) (*WebServer, error) {
	home, address, err := l.place("apache")
	if err != nil {
		return nil, err
	}
	conf := home + "/apache.conf"
	return l.serve("apache", address, conf, fmt.Sprintf(apacheAround, home, address, s.at(address)), nil,
		"apache2", "-D", "FOREGROUND", "-f", conf)
}

// ServeWithCaddy serves a site with Caddy, which runs as the user that Debian's
// package makes for it and has to be let in: listen_group.
func (l *Lab) ServeWithCaddy(s Site) (*WebServer, error) {
	uid, gid, err := lookUp("caddy")
	if err != nil {
		return nil, err
	}
	home, address, err := l.place("caddy")
	if err != nil {
		return nil, err
	}
	if err := os.Chown(home, uid, gid); err != nil {
		return nil, fmt.Errorf("start caddy: %w", err)
	}
	conf := home + "/Caddyfile"
	return l.serve("caddy", address, conf, caddyAround+s.at(address), []string{"HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home},
		"setpriv", "--reuid=caddy", "--regid=caddy", "--init-groups", // which becomes caddy
		"caddy", "run", "--config", conf, "--adapter", "caddyfile")
}

// place is a directory and an address for a server.
func (l *Lab) place(name string) (home, address string, err error) {
	port, err := freePort()
	if err != nil {
		return "", "", err
	}
	home = l.Path(fmt.Sprintf("%s-%d", name, port))
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", "", fmt.Errorf("start %s: %w", name, err)
	}
	return home, fmt.Sprintf("127.0.0.1:%d", port), nil
}

func (l *Lab) serve(name, address, conf, text string, env []string, argv ...string) (*WebServer, error) {
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s, err := l.run(&Server{Name: name + "-" + address, stop: syscall.SIGTERM}, env, argv...)
	if err != nil {
		return nil, err
	}
	return &WebServer{Server: s, URL: "http://" + address}, s.listens("tcp", address)
}

// What a distribution's package has around the site; for nginx see nginx.go.

const apacheAround = `
ServerRoot %[1]s
ServerName 127.0.0.1
Listen %[2]s
User www-data
Group www-data
PidFile %[1]s/pid
DefaultRuntimeDir %[1]s
Mutex fcntl:%[1]s
ErrorLog %[1]s/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
StartServers 2
ThreadsPerChild 64
MaxRequestWorkers 256
%[3]s
`

const caddyAround = `{
	admin off
	auto_https off
}
`
