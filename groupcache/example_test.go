package groupcache_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/groupcache"
)

var colours = map[string]string{"red": "#FF0000", "green": "#00FF00"}

func Example() {
	group := groupcache.NewGroup("colours", 64<<20, groupcache.GetterFunc(
		func(_ context.Context, name string, dest groupcache.Sink) error {
			fmt.Println("looking up", name)
			colour, ok := colours[name]
			if !ok {
				return errors.New("no such colour")
			}
			return dest.SetString(colour)
		}))
	for range 2 {
		var colour string
		err := group.Get(context.Background(), "red", groupcache.StringSink(&colour))
		fmt.Println(colour, err)
	}
	fmt.Println(&group.Stats.Gets, &group.Stats.CacheHits, &group.Stats.LocalLoads)
	// Output:
	// looking up red
	// #FF0000 <nil>
	// #FF0000 <nil>
	// 2 1 1
}

func ExampleNewGroupWithOptions() {
	ctx := context.Background()
	group := groupcache.NewGroupWithOptions("prices", 64<<20, groupcache.GetterFunc(
		func(_ context.Context, key string, dest groupcache.Sink) error {
			fmt.Println("asking for the price of", key)
			return dest.SetString("10")
		}), groupcache.GroupOptions{TTL: time.Minute})
	show := func() {
		var price string
		err := group.Get(ctx, "tea", groupcache.StringSink(&price))
		fmt.Println(price, err)
	}
	show()
	fmt.Println(group.Set(ctx, "tea", []byte("12"), peercache.WithTTL(time.Hour)))
	show()
	fmt.Println(group.Remove(ctx, "tea"))
	show()
	// Output:
	// asking for the price of tea
	// 10 <nil>
	// <nil>
	// 12 <nil>
	// <nil>
	// asking for the price of tea
	// 10 <nil>
}

func ExampleHTTPPool() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	self := "http://" + listener.Addr().String()
	pool := groupcache.NewHTTPPoolOpts(self, nil)
	pool.Configure(func(c *peercache.Config) { c.Secret = "known to all peers" }) // the original has no such thing
	pool.Set(self)                                                                // and those of the others
	group := groupcache.NewGroup("squares", 64<<20, groupcache.GetterFunc(
		func(_ context.Context, key string, dest groupcache.Sink) error { return dest.SetString(key + "²") }))

	server := &http.Server{Handler: pool}
	go server.Serve(listener)
	defer server.Close()
	node := group.Node()
	defer node.Shutdown(context.Background())
	fmt.Println(node.WaitReady(context.Background()), len(node.Members()))

	// As a process asks that still uses the original.
	response, err := http.Get(self + "/_groupcache/squares/7")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	fmt.Println(response.Status, response.Header.Get("Content-Type"))
	// Output:
	// <nil> 1
	// 200 OK application/x-protobuf
}
