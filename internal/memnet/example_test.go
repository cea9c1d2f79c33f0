package memnet_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/peercache/peercache/internal/memnet"
)

func Example() {
	nw := memnet.New()
	ln, err := nw.Listen("10.0.0.1:80")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	})}
	go srv.Serve(ln)
	defer srv.Close()

	transport := &http.Transport{DialContext: nw.Host("10.0.0.2").DialContext}
	defer transport.CloseIdleConnections()
	get := func(timeout time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://10.0.0.1/", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			fmt.Println("error:", err)
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		fmt.Println(string(body))
	}
	nw.Cut("10.0.0.1", "10.0.0.2")
	get(10 * time.Millisecond)
	nw.HealAll()
	get(time.Minute)
	// Output:
	// error: context deadline exceeded
	// hello
}
