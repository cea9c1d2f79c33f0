package peercache_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/peercache/peercache"

// floors says how high a package stands. Imports go strictly down.
var floors = map[string]int{
	"/lru":              0,
	"/internal/wire":    0,
	"/internal/collide": 0,
	"/internal/memnet":  0,
	"/internal/mux":     1,
	"/internal/gossip":  1,
	"":                  2,
	"/peercachetest":    3,
	"/internal/sim":     3,
	"/internal/chaos":   3,
	"/groupcache":       3,
}

func floorOf(pkg string) (int, bool) {
	if strings.HasPrefix(pkg, "/examples/") {
		return 4, true
	}
	floor, ok := floors[pkg]
	return floor, ok
}

// TestFloors keeps the imports going strictly down, never sideways.
func TestFloors(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		from := strings.TrimPrefix(words[0], module)
		floor, ok := floorOf(from)
		require.True(t, ok, "package %s has no floor", words[0])
		for _, imported := range words[1:] {
			to, ours := strings.CutPrefix(imported, module)
			if !ours {
				require.False(t, strings.HasPrefix(imported, "github.com/hashicorp/memberlist") && from != "/internal/gossip",
					"only internal/gossip imports memberlist, not %s", words[0])
				continue
			}
			below, ok := floorOf(to)
			require.True(t, ok, "package %s has no floor", imported)
			require.Less(t, below, floor, "%s imports %s", words[0], imported)
		}
	}
}
