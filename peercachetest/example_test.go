package peercachetest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// TestOneLoad is what a test of a program that uses a cache looks like.
func TestOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		cluster := peercachetest.NewCluster(t, 3, func(i int, c *peercache.Config) {
			c.Copies = 2 // what a program would change
		})

		loads := 0
		var users []*peercache.Cache[string]
		for _, node := range cluster.Nodes {
			cache, err := peercache.New(node, "users", peercache.Options[string]{
				Load: func(_ context.Context, id string) (string, error) {
					loads++
					return "user " + id, nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			users = append(users, cache)
		}
		get := func(i int) {
			t.Helper()
			if v, err := users[i].Get(ctx, "42"); err != nil || v != "user 42" {
				t.Errorf("node %d: %q, %v", i, v, err)
			}
		}
		get(0)
		get(1)
		time.Sleep(100 * time.Millisecond) // of virtual time: the replicas have their copies

		cluster.Kill(2)                                                             // as kill -9 would
		cluster.Network.Delay(cluster.Host(0), cluster.Host(1), 5*time.Millisecond) // a slow link
		get(0)
		cluster.WaitAgree() // virtual time: this takes no real second

		if loads != 1 {
			t.Errorf("%d loads, not 1", loads)
		}
	})
}

// A cluster belongs to a test. TestOneLoad beside this example is a longer one.
func ExampleNewCluster() {
	testUsers := func(t *testing.T) { // in a program: func TestUsers(t *testing.T)
		synctest.Test(t, func(t *testing.T) {
			cluster := peercachetest.NewCluster(t, 3)
			for _, node := range cluster.Nodes {
				if _, err := peercache.New(node, "users", peercache.Options[string]{}); err != nil {
					t.Fatal(err)
				}
			}
			cluster.Kill(0)
			cluster.WaitAgree() // seconds of virtual time, none of real time
		})
	}
	_ = testUsers
}
