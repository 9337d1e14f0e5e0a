package lab

import (
	"context"
	"fmt"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// Redis is the queue of the shop.
type Redis struct {
	*redis.Client
	Socket string
	server *Server
}

// End stops it; whoever connects is refused then.
func (r *Redis) End() error { return r.server.Stop() }

// StartRedis starts one that keeps everything in memory, on a socket in the lab.
func (l *Lab) StartRedis() (*Redis, error) {
	socket := l.Path("redis.sock")
	s, err := l.run(&Server{Name: "redis", stop: syscall.SIGTERM}, nil, "redis-server",
		"--port", "0", "--unixsocket", socket, "--unixsocketperm", "777", "--tcp-backlog", "1024",
		"--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", l.Dir)
	if err != nil {
		return nil, err
	}
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	r := &Redis{Client: client, Socket: socket, server: s}
	return r, s.ready(func() bool { return client.Ping(context.Background()).Err() == nil })
}

// Push puts a job of so many milliseconds on the shop's queue.
func (r *Redis) Push(id string, milliseconds int) error {
	if err := r.LPush(context.Background(), "jobs", fmt.Sprintf("%s %d", id, milliseconds)).Err(); err != nil {
		return fmt.Errorf("push job %s: %w", id, err)
	}
	return nil
}

// Waiting is how many jobs no worker has taken yet.
func (r *Redis) Waiting() (int64, error) {
	n, err := r.LLen(context.Background(), "jobs").Result()
	if err != nil {
		return 0, fmt.Errorf("count jobs: %w", err)
	}
	return n, nil
}
