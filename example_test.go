package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// The examples run on a network in memory, or on a node alone, which is what
// the zero Config is. A program gives Listen and Join instead of Listener and
// DialContext:
//
//	node, err := peercache.Start(ctx, peercache.Config{
//		Listen: ":7600",
//		Join:   []string{"cache.default.svc:7600"},
//	})

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

// startOn starts a node on a host of a network in memory.
func startOn(network *peercachetest.Network, host string, join ...string) *peercache.Node {
	listener, err := network.Host(host).Listen(host + ":7600")
	check(err)
	node, err := peercache.Start(context.Background(), peercache.Config{
		Name:        host,
		Listener:    listener,
		Join:        join,
		DialContext: network.Host(host).DialContext,
	})
	check(err)
	check(node.WaitReady(context.Background()))
	return node
}

func ExampleStart() {
	ctx := context.Background()
	network := peercachetest.NewNetwork()
	listener, err := network.Host("anna").Listen("anna:7600")
	check(err)

	anna, err := peercache.Start(ctx, peercache.Config{
		Name:        "anna",
		Listener:    listener, // or Listen: ":7600"
		DialContext: network.Host("anna").DialContext,
	})
	check(err)
	defer anna.Shutdown(ctx)

	bert := startOn(network, "bert", "anna:7600") // the same on another machine, with Join
	defer bert.Shutdown(ctx)

	check(bert.WaitReady(ctx)) // now bert holds its part, and may serve
	for _, m := range bert.Members() {
		fmt.Println(m.Name, m.Addr, m.State)
	}
	fmt.Println("copies of a key:", len(bert.Owners("users", "42")))
	// Unordered output:
	// anna anna:7600 active
	// bert bert:7600 active
	// copies of a key: 2
}

func ExampleConfig_client() {
	ctx := context.Background()
	network := peercachetest.NewNetwork()
	anna := startOn(network, "anna")
	defer anna.Close()
	users, err := peercache.New(anna, "users", peercache.Options[string]{})
	check(err)
	check(users.Set(ctx, "42", "Ada"))

	// A command-line tool uses the cluster and holds no part of it.
	tool, err := peercache.Start(ctx, peercache.Config{
		Client:      true,
		Join:        []string{"anna:7600"},
		DialContext: network.Host("laptop").DialContext,
	})
	check(err)
	defer tool.Close()
	check(tool.WaitReady(ctx))
	same, err := peercache.New(tool, "users", peercache.Options[string]{})
	check(err)
	fmt.Println(same.Get(ctx, "42"))
	fmt.Println("members:", len(tool.Members()))
	// Output:
	// Ada <nil>
	// members: 1
}

func ExampleNew() {
	ctx := context.Background()
	network := peercachetest.NewNetwork()
	anna := startOn(network, "anna")
	defer anna.Close()
	bert := startOn(network, "bert", "anna:7600")
	defer bert.Close()
	for anna.Stats().TableDigest != bert.Stats().TableDigest || bert.WaitReady(ctx) != nil {
		time.Sleep(time.Millisecond) // until both see the same cluster
	}

	type User struct{ Name string }
	var loads atomic.Int64
	options := peercache.Options[User]{
		Load: func(ctx context.Context, id string) (User, error) {
			loads.Add(1)
			time.Sleep(10 * time.Millisecond) // a slow database
			return User{Name: "user " + id}, nil
		},
		TTL: 5 * time.Minute,
	}
	var callers sync.WaitGroup
	for _, node := range []*peercache.Node{anna, bert} {
		users, err := peercache.New(node, "users", options)
		check(err)
		for range 100 {
			callers.Go(func() {
				_, err := users.Get(ctx, "42")
				check(err)
			})
		}
	}
	callers.Wait()
	fmt.Println("200 callers on two nodes, loads:", loads.Load())
	// Output: 200 callers on two nodes, loads: 1
}

func ExampleCache_Get() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()

	errDown := errors.New("the database is down")
	users, err := peercache.New(node, "users", peercache.Options[string]{
		Load: func(ctx context.Context, id string) (string, error) {
			switch id {
			case "42":
				return "Ada", nil
			case "43":
				return "", errDown
			default:
				return "", peercache.ErrNotFound
			}
		},
		Errors: []error{errDown}, // it stays errDown when another member ran Load
	})
	check(err)

	for _, id := range []string{"42", "43", "44"} {
		name, err := users.Get(ctx, id)
		switch {
		case errors.Is(err, peercache.ErrNotFound):
			fmt.Println(id, "does not exist")
		case errors.Is(err, errDown):
			fmt.Println(id, "cannot be loaded now")
		default:
			fmt.Println(id, name, err)
		}
	}
	// Output:
	// 42 Ada <nil>
	// 43 cannot be loaded now
	// 44 does not exist
}

func ExampleCache_GetMany() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()
	ages, err := peercache.New(node, "ages", peercache.Options[int]{})
	check(err)
	check(ages.SetMany(ctx, map[string]int{"ada": 36, "alan": 41}))

	found, err := ages.GetMany(ctx, []string{"ada", "alan", "nobody"})
	fmt.Println(found, err)
	// Output: map[ada:36 alan:41] <nil>
}

func ExampleCache_Set() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()
	sessions, err := peercache.New(node, "sessions", peercache.Options[string]{TTL: time.Hour})
	check(err)

	check(sessions.Set(ctx, "long", "Ada"))
	check(sessions.Set(ctx, "short", "Alan", peercache.WithTTL(time.Millisecond)))
	err = sessions.Set(ctx, "long", "Grace", peercache.IfAbsent())
	fmt.Println("set again:", errors.Is(err, peercache.ErrConflict))

	time.Sleep(5 * time.Millisecond)
	for _, key := range []string{"long", "short"} {
		name, found, err := sessions.Lookup(ctx, key)
		fmt.Printf("%s: %q %v %v\n", key, name, found, err)
	}
	// Output:
	// set again: true
	// long: "Ada" true <nil>
	// short: "" false <nil>
}

func ExampleCache_Update() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()
	counts, err := peercache.New(node, "counts", peercache.Options[int]{})
	check(err)

	var callers sync.WaitGroup
	for range 10 {
		callers.Go(func() {
			check(counts.Update(ctx, "visits", func(old int, ok bool) (int, error) {
				return old + 1, nil // it may run several times
			}))
		})
	}
	callers.Wait()
	fmt.Println(counts.Get(ctx, "visits"))
	// Output: 10 <nil>
}

func ExampleCache_Delete() {
	ctx := context.Background()
	network := peercachetest.NewNetwork()
	var users []*peercache.Cache[string]
	for _, host := range []string{"anna", "bert", "cora"} {
		node := startOn(network, host, "anna:7600", "bert:7600")
		defer node.Close()
		cache, err := peercache.New(node, "users", peercache.Options[string]{})
		check(err)
		users = append(users, cache)
	}
	check(users[0].Set(ctx, "42", "Ada"))
	check(users[1].Delete(ctx, "42"))
	for _, cache := range users {
		_, err := cache.Get(ctx, "42")
		fmt.Println(errors.Is(err, peercache.ErrNotFound))
	}
	// Output:
	// true
	// true
	// true
}

func ExampleCache_Clear() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()
	pages, err := peercache.New(node, "pages", peercache.Options[string]{})
	check(err)
	check(pages.SetMany(ctx, map[string]string{"/": "home", "/about": "about"}))

	check(pages.Clear(ctx))
	found, err := pages.GetMany(ctx, []string{"/", "/about"})
	fmt.Println(len(found), err)
	// Output: 0 <nil>
}

// The version of a value makes an ETag: a client that sends it back with its
// change overwrites nothing that it has not seen.
func ExampleCache_LookupEntry() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()
	docs, err := peercache.New(node, "docs", peercache.Options[string]{})
	check(err)
	check(docs.Set(ctx, "readme", "draft"))

	entry, found, err := docs.LookupEntry(ctx, "readme")
	check(err)
	etag := entry.Version.String()
	fmt.Println(found, entry.Value, len(etag), "digits, expires:", !entry.Expires.IsZero())

	var seen peercache.Version
	check(seen.UnmarshalText([]byte(etag)))
	check(docs.Set(ctx, "readme", "second draft", peercache.IfVersion(seen)))
	err = docs.Set(ctx, "readme", "another second draft", peercache.IfVersion(seen))
	fmt.Println(errors.Is(err, peercache.ErrConflict))
	// Output:
	// true draft 32 digits, expires: false
	// true
}

func ExampleIfVersion() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()
	locks, err := peercache.New(node, "locks", peercache.Options[string]{})
	check(err)

	// The zero Version is that of a key without a value: IfAbsent.
	fmt.Println(locks.Set(ctx, "job", "anna", peercache.IfVersion(peercache.Version{})))
	err = locks.Set(ctx, "job", "bert", peercache.IfVersion(peercache.Version{}))
	fmt.Println(errors.Is(err, peercache.ErrConflict))
	// Output:
	// <nil>
	// true
}

func ExampleOptions() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()

	table := map[string]string{"42": "Ada", "43": "Alan"}
	users, err := peercache.New(node, "users", peercache.Options[string]{
		LoadMany: func(ctx context.Context, ids []string) (map[string]string, error) {
			slices.Sort(ids)
			fmt.Println("SELECT name FROM users WHERE id IN", ids)
			names := make(map[string]string)
			for _, id := range ids {
				if name, ok := table[id]; ok {
					names[id] = name // a key that is missing is not found
				}
			}
			return names, nil
		},
		TTL:         5 * time.Minute,
		NegativeTTL: time.Minute, // that 44 does not exist is remembered
		TTLFor: func(id, name string) time.Duration {
			if name == "Ada" {
				return time.Hour
			}
			return 0 // TTL
		},
	})
	check(err)

	found, err := users.GetMany(ctx, []string{"42", "43", "44"})
	fmt.Println(found, err)
	_, err = users.Get(ctx, "44") // asks nobody
	fmt.Println(errors.Is(err, peercache.ErrNotFound))
	// Output:
	// SELECT name FROM users WHERE id IN [42 43 44]
	// map[42:Ada 43:Alan] <nil>
	// true
}

// reverse is a codec that stores strings back to front.
type reverse struct{}

func (reverse) Append(dst []byte, v string) ([]byte, error) {
	for i := range len(v) {
		dst = append(dst, v[len(v)-1-i])
	}
	return dst, nil
}

func (r reverse) Decode(data []byte) (string, error) {
	v, err := r.Append(nil, string(data))
	return string(v), err
}

func ExampleCodec() {
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{})
	check(err)
	defer node.Close()
	words, err := peercache.New(node, "words", peercache.Options[string]{Codec: reverse{}})
	check(err)
	check(words.Set(ctx, "key", "drawer"))
	fmt.Println(words.Get(ctx, "key"))
	// Output: drawer <nil>
}

// A node can be a part of a program's own HTTP server, on its port.
func ExampleNode_ServeHTTP() {
	ctx := context.Background()
	network := peercachetest.NewNetwork()
	anna := network.Host("anna")
	listener, err := anna.Listen("anna:80")
	check(err)

	node, err := peercache.Start(ctx, peercache.Config{
		Name:        "anna",
		Advertise:   "anna:80", // where peers reach the server below
		DialContext: anna.DialContext,
	})
	check(err)
	defer node.Close()

	mux := http.NewServeMux()
	mux.Handle("/_peercache/", node) // Config.Path
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	defer server.Close()

	check(node.WaitReady(ctx)) // the node has reached itself at anna:80
	bert := startOn(network, "bert", "anna:80")
	defer bert.Close()
	fmt.Println(len(bert.Members()), "members")

	client := &http.Client{Transport: &http.Transport{DialContext: network.Host("laptop").DialContext, DisableKeepAlives: true}}
	response, err := client.Get("http://anna/hello")
	check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(err)
	fmt.Println(strings.TrimSpace(string(body)))
	// Output:
	// 2 members
	// hello
}
