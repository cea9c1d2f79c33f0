package peercache

import (
	"fmt"
	"strconv"
	"testing"
)

func BenchmarkRingLookup(b *testing.B) {
	tb, keyspace := newTable(1, 2, ringMembers(30, 1)), keyspaceOf("users")
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%d", i)
	}
	b.ReportAllocs()
	i, sum := 0, 0
	for b.Loop() {
		sum += int(tb.owners(shardOf(keyspace, keys[i&1023]))[0])
		i++
	}
	_ = sum
}

func BenchmarkRingTable(b *testing.B) {
	for _, n := range []int{3, 30, 100, 1000} {
		members := ringMembers(n, 1)
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				newTable(1, 2, members)
			}
		})
	}
}

func BenchmarkRingDiff(b *testing.B) {
	members := ringMembers(30, 1)
	before, after := newTable(1, 2, members), newTable(1, 2, members[1:])
	b.ReportAllocs()
	for b.Loop() {
		diffTables(before, after)
	}
}
