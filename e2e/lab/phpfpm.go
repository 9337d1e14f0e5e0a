package lab

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// PHPFPM is a plain php-fpm, as people run it without superd.
type PHPFPM struct {
	*Server
	Socket string
}

// StartPHPFPM starts one with so many children. timeout is process_control_timeout:
// how long a reload waits for requests before it cuts them off. more are lines of
// its configuration.
func (l *Lab) StartPHPFPM(name string, children int, timeout, redis string, more ...string) (*PHPFPM, error) {
	conf, socket := l.Path(name+".conf"), l.Path(name+".sock")
	text := fmt.Sprintf(phpfpmConf, timeout, socket, children, redis) + strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("start php-fpm: %w", err)
	}
	s, err := l.run(&Server{Name: name, stop: syscall.SIGTERM}, nil, "php-fpm8.2", "-F", "-O", "-y", conf)
	if err != nil {
		return nil, err
	}
	return &PHPFPM{Server: s, Socket: socket}, s.listens("unix", socket)
}

const phpfpmConf = `[global]
error_log = /dev/null
process_control_timeout = %[1]s
[shop]
user = www-data
group = www-data
listen = %[2]s
listen.owner = www-data
listen.backlog = 1024
pm = static
pm.max_children = %[3]d
clear_env = yes
env[REDIS_SOCKET] = %[4]s
php_admin_value[opcache.file_update_protection] = 0
php_admin_value[opcache.validate_timestamps] = 0
`
