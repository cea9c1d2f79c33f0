package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// storeFetches are servers of their own with the clients that Go programs use.
func storeFetches() []Fetch {
	redisArgs := func(port string) []string {
		return []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"}
	}
	memcachedArgs := func(port string) []string {
		args := []string{"-p", port, "-l", "127.0.0.1", "-U", "0", "-m", "256", "-I", "2m", "-c", "4096"}
		if os.Getuid() == 0 {
			args = append(args, "-u", "root")
		}
		return args
	}
	return []Fetch{
		{Name: "redis, rueidis", Needs: "redis-server", Serve: serveProgram("redis-server", redisArgs), Dial: dialRueidis},
		{Name: "redis, go-redis", Needs: "redis-server", Serve: serveProgram("redis-server", redisArgs), Dial: dialGoRedis},
		{Name: "memcached, gomemcache", Needs: "memcached", Serve: serveProgram("memcached", memcachedArgs), Dial: dialMemcached},
	}
}

// serveProgram runs a server that is another program.
func serveProgram(name string, args func(port string) []string) func(Data, func(string, int)) error {
	return func(_ Data, ready func(string, int)) (err error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addr := ln.Addr().(*net.TCPAddr)
		ln.Close()
		cmd := exec.Command(name, args(strconv.Itoa(addr.Port))...)
		cmd.Dir = os.TempDir()
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		for range 100 {
			conn, err := net.Dial("tcp", addr.String())
			if err == nil {
				conn.Close()
				ready(addr.String(), cmd.Process.Pid)
				untilTold()
				return nil
			}
			time.Sleep(50 * time.Millisecond)
		}
		return errors.New(name + " does not answer")
	}
}

type rueidisGetter struct{ c rueidis.Client }

func dialRueidis(d Data, addr string) (Getter, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		return nil, err
	}
	value := rueidis.BinaryString(d.value())
	for _, key := range d.Keys {
		if err := c.Do(context.Background(), c.B().Set().Key(key).Value(value).Build()).Error(); err != nil {
			c.Close()
			return nil, err
		}
	}
	return rueidisGetter{c}, nil
}

func (g rueidisGetter) Get(ctx context.Context, key string) (int, error) {
	v, err := g.c.Do(ctx, g.c.B().Get().Key(key).Build()).AsBytes()
	return len(v), err
}

func (g rueidisGetter) Close() { g.c.Close() }

type goRedisGetter struct{ c *redis.Client }

func dialGoRedis(d Data, addr string) (Getter, error) {
	c := redis.NewClient(&redis.Options{Addr: addr, PoolSize: peerManyCall})
	value := d.value()
	for _, key := range d.Keys {
		if err := c.Set(context.Background(), key, value, 0).Err(); err != nil {
			c.Close()
			return nil, err
		}
	}
	return goRedisGetter{c}, nil
}

func (g goRedisGetter) Get(ctx context.Context, key string) (int, error) {
	v, err := g.c.Get(ctx, key).Bytes()
	return len(v), err
}

func (g goRedisGetter) Close() { g.c.Close() }

type memcachedGetter struct{ c *memcache.Client }

func dialMemcached(d Data, addr string) (Getter, error) {
	c := memcache.New(addr)
	c.MaxIdleConns = peerManyCall
	c.Timeout = 5 * time.Second
	value := d.value()
	for _, key := range d.Keys {
		if err := c.Set(&memcache.Item{Key: key, Value: value}); err != nil {
			c.Close()
			return nil, err
		}
	}
	return memcachedGetter{c}, nil
}

func (g memcachedGetter) Get(_ context.Context, key string) (int, error) {
	item, err := g.c.Get(key)
	if err != nil {
		return 0, err
	}
	return len(item.Value), nil
}

func (g memcachedGetter) Close() { g.c.Close() }
