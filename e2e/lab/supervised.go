package lab

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// SupervisedPHPFPM is a php-fpm below supervisord: the peer.
type SupervisedPHPFPM struct {
	*Server
	Socket string
	conf   string
}

// StartSupervisedPHPFPM starts both.
func (l *Lab) StartSupervisedPHPFPM(children int, redis string) (*SupervisedPHPFPM, error) {
	fpmConf, socket, conf := l.Path("supervised.conf"), l.Path("supervised.sock"), l.Path("supervisord.conf")
	text := fmt.Sprintf(supervisordConf, l.Dir, fpmConf)
	if err := os.WriteFile(fpmConf, fmt.Appendf(nil, phpfpmConf, "10s", socket, children, redis), 0o644); err != nil {
		return nil, fmt.Errorf("start supervisord: %w", err)
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("start supervisord: %w", err)
	}
	s, err := l.run(&Server{Name: "supervisord", stop: syscall.SIGTERM}, nil, "supervisord", "-n", "-c", conf)
	if err != nil {
		return nil, err
	}
	return &SupervisedPHPFPM{Server: s, Socket: socket, conf: conf}, s.listens("unix", socket)
}

// Restart is `supervisorctl restart`: the old master is stopped, then a new one started.
func (s *SupervisedPHPFPM) Restart() error {
	if said, err := exec.Command("supervisorctl", "-c", s.conf, "restart", "php-fpm").CombinedOutput(); err != nil {
		return fmt.Errorf("supervisorctl restart: %w: %s", err, said)
	}
	return nil
}

const supervisordConf = `[supervisord]
nodaemon = true
user = root
logfile = %[1]s/log/supervisord-own.log
pidfile = %[1]s/supervisord.pid
childlogdir = %[1]s/log

[unix_http_server]
file = %[1]s/supervisorctl.sock

[supervisorctl]
serverurl = unix://%[1]s/supervisorctl.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[program:php-fpm]
command = php-fpm8.2 -F -O -y %[2]s
stopsignal = QUIT
startsecs = 0
`
