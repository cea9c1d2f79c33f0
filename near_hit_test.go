package peercache

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A glance is never older than it says, and never from the future.
func TestGlance(t *testing.T) {
	clock := newSystemClock()
	var p pauses
	p.init(clock, time.Hour, nil)
	for range 200_000 {
		before := clock.Elapsed()
		seen := p.glance()
		require.LessOrEqual(t, before-seen, glanceTime)
		require.LessOrEqual(t, seen, clock.Elapsed())
	}
}

// Where time is not real the counter is of no use: every glance looks.
func TestGlanceInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paused time.Duration
		var p pauses
		p.init(newSystemClock(), time.Second, func(d time.Duration) { paused = d })
		require.Zero(t, p.span)
		time.Sleep(time.Second)
		p.glance()
		require.Zero(t, paused)
		time.Sleep(time.Second + 1)
		require.Equal(t, 2*time.Second+1, p.glance())
		require.Equal(t, time.Second+1, paused)
	})
}

// A pause shows in the first glance after it, however short a time a look
// holds, and only after what notice does is done does another one miss it.
func TestGlanceNoticesAPause(t *testing.T) {
	elapsed := time.Duration(0)
	noticed := 0
	var p pauses
	p.init(fakeElapsed{&elapsed}, time.Second, func(time.Duration) {
		noticed++
		require.Zero(t, p.beat.Load(), "a glance meanwhile would find all well")
	})
	p.span = 1 << 10 // as if the counter were of use
	p.glance()
	elapsed = time.Minute
	for start := cycles(); cycles()-start < 1<<10 && start != 0; {
	}
	p.glance()
	require.Equal(t, 1, noticed)
}

type fakeElapsed struct{ at *time.Duration }

func (f fakeElapsed) Running(context.Context) bool { return true }

func (f fakeElapsed) Now() time.Time         { return time.Unix(0, 0).Add(*f.at) }
func (f fakeElapsed) Elapsed() time.Duration { return *f.at }

// A near value ends when it should, to the clock and not to the glance.
func TestNearHitExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, err := Start(t.Context(), Config{})
		require.NoError(t, err)
		defer node.Close()
		c, err := New(node, "c", Options[string]{})
		require.NoError(t, err)
		ctx := context.Background()
		require.NoError(t, c.Set(ctx, "k", "v", WithTTL(time.Second)))
		for range 2 {
			_, err = c.Get(ctx, "k")
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, c.Stats().NearHits)
		time.Sleep(time.Second - time.Millisecond)
		_, err = c.Get(ctx, "k")
		require.NoError(t, err)
		require.EqualValues(t, 2, c.Stats().NearHits)
		time.Sleep(time.Millisecond)
		_, err = c.Get(ctx, "k")
		require.ErrorIs(t, err, ErrNotFound)
	})
}

// What hits cost: nothing near, the value itself from the own store.
func TestHitAllocations(t *testing.T) {
	node, err := Start(t.Context(), Config{})
	require.NoError(t, err)
	defer node.Close()
	ctx := context.Background()
	bytes, err := New(node, "bytes", Options[[]byte]{})
	require.NoError(t, err)
	texts, err := New(node, "texts", Options[string]{})
	require.NoError(t, err)
	require.NoError(t, bytes.Set(ctx, "k", make([]byte, 128)))
	require.NoError(t, bytes.Set(ctx, "empty", nil))
	require.NoError(t, texts.Set(ctx, "k", fmt.Sprintf("%0128d", 1)))
	getBytes := func() { _, _ = bytes.Get(ctx, "k") }
	getText := func() { _, _ = texts.Get(ctx, "k") }
	require.Zero(t, int(testing.AllocsPerRun(1000, getBytes)))
	require.Zero(t, int(testing.AllocsPerRun(1000, getText)))

	bytes.near.setMaxBytes(0)
	texts.near.setMaxBytes(0)
	require.LessOrEqual(t, int(testing.AllocsPerRun(1000, getBytes)), 1)
	require.LessOrEqual(t, int(testing.AllocsPerRun(1000, getText)), 1)
	v, from, err := bytes.GetFrom(ctx, "empty")
	require.NoError(t, err)
	require.Equal(t, SourceStore, from)
	require.NotNil(t, v)
	require.Empty(t, v)

	before := bytes.Stats()
	_, _ = bytes.Get(ctx, "k")
	_, _, _ = bytes.Lookup(ctx, "k")
	after := bytes.Stats()
	require.Equal(t, before.Gets+2, after.Gets)
	require.Equal(t, before.Hits+2, after.Hits)
}

// Of keys that the store holds those get near that come more often than others.
func TestNearVotes(t *testing.T) {
	v := newNearVotes(32 << 10)
	require.Len(t, v.slots, 64)
	won := 0
	for i := range uint64(20_000) { // each key once in a thousand
		if v.wins(mixHash(i % 1000 * 0xd6e8feb86659fd93)) {
			won++
		}
	}
	require.Less(t, won, 200, "cold keys")
	hot := mixHash(42)
	wins := 0
	for i := range uint64(20_000) { // and one that comes each tenth time
		v.wins(mixHash(i % 1000 * 0xd6e8feb86659fd93))
		if i%10 == 0 && v.wins(hot) {
			wins++
		}
	}
	require.Greater(t, wins, 300, "a hot key")
}

// A scan of what the store holds leaves a full near tier as it is.
func TestNearAdmission(t *testing.T) {
	n := newNear[[]byte](64<<10, stoppedClock)
	require.True(t, n.admits(1, 100, 0), "there is room")
	require.False(t, n.admits(1, 9<<10, 0), "more than its share")
	for i := range uint64(2000) {
		n.add(i*0xd6e8feb86659fd93, "a key", nil, 100)
	}
	admitted := 0
	for i := range uint64(10_000) {
		if n.admits((i+1<<40)*0xd6e8feb86659fd93, 100, 0) {
			admitted++
		}
	}
	require.Zero(t, admitted)
	for i := range 3 {
		require.Equal(t, i == 2, n.admits(7, 100, 0))
	}
	// Keys that come in turn all get their votes, each a quarter of its reads.
	wins := make(map[uint64]int)
	for reads := range int64(4 * 120) {
		if key := uint64(reads % 4); n.admits((key+9)*0xd6e8feb86659fd93, 100, reads) {
			wins[key]++
		}
	}
	for key := range uint64(4) {
		require.InDelta(t, 120/nearSample/nearVotesWin, wins[key], 1)
	}
	n.setMaxBytes(1 << 20)
	require.True(t, n.admits(8, 100, 0), "there is room again")
}
