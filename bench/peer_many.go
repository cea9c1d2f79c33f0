package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/peercache/peercache"
)

const (
	manyPeers = 3
	manyKeys  = 1000
)

// manySection measures reading and writing many keys, one by one and at once.
func manySection() *Section {
	return &Section{
		Name:  "many",
		Title: "1,000 keys of three peers",
		Text:  "A client and three members in processes of their own, 2 copies; 1,000 values of 128 bytes, one call after the other or one call for all.",
		Contenders: []string{
			"peercache Get, one by one", "peercache GetMany", "peercache Set, one by one", "peercache SetMany",
		},
		Columns: []Column{{Figure: "ms", Head: "ms for 1,000 keys", Digits: 2, Plain: true}},
		Measure: measureMany,
		Serve: func(_ string, join []string) error {
			node, err := peercache.Start(context.Background(), peercache.Config{Listen: "127.0.0.1:0", Join: join, Secret: peerSecret})
			if err != nil {
				return err
			}
			defer node.Close()
			fmt.Println(node.Addr(), os.Getpid())
			untilTold()
			return nil
		},
	}
}

func measureMany(contender string, s Settings) (f Figures, err error) {
	var join []string
	for range manyPeers {
		srv, err2 := startServer("many", contender, nil, join...)
		if err2 != nil {
			return nil, err2
		}
		defer func() { err = errors.Join(err, srv.stop()) }()
		addr, _, _ := strings.Cut(srv.line, " ")
		join = append(join, addr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	node, err := peercache.Start(ctx, peercache.Config{Client: true, Join: join, Secret: peerSecret})
	if err != nil {
		return nil, err
	}
	defer node.Close()
	for len(activeOf(node)) < manyPeers {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		time.Sleep(10 * time.Millisecond)
	}
	cache, err := peercache.New(node, "bench", peercache.Options[[]byte]{})
	if err != nil {
		return nil, err
	}
	values := make(map[string][]byte)
	var keys []string
	for i := range manyKeys {
		keys = append(keys, numberedKey(i).Name)
		values[keys[i]] = make([]byte, 128)
	}
	if err := cache.SetMany(ctx, values); err != nil {
		return nil, err
	}
	var once func() error
	switch _, what, _ := strings.Cut(contender, " "); what {
	case "GetMany":
		once = func() error {
			got, err := cache.GetMany(ctx, keys)
			if err == nil && len(got) != len(keys) {
				err = fmt.Errorf("%d keys, not %d", len(got), len(keys))
			}
			return err
		}
	case "SetMany":
		once = func() error { return cache.SetMany(ctx, values) }
	case "Get, one by one":
		once = func() error {
			for _, key := range keys {
				if _, err := cache.Get(ctx, key); err != nil {
					return err
				}
			}
			return nil
		}
	default:
		once = func() error {
			for _, key := range keys {
				if err := cache.Set(ctx, key, values[key]); err != nil {
					return err
				}
			}
			return nil
		}
	}
	var took []time.Duration
	for start := time.Now(); len(took) == 0 || time.Since(start) < 2*s.Time; {
		began := time.Now()
		if err := once(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return Figures{"ms": float64(took[len(took)/2].Nanoseconds()) / 1e6}, nil
}

// activeOf lists the members that own keys.
func activeOf(n *peercache.Node) []peercache.Member {
	return slices.DeleteFunc(n.Members(), func(m peercache.Member) bool { return m.State != peercache.MemberActive })
}
