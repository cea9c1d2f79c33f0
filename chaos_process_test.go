//go:build unix

package peercache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	processes "github.com/peercache/peercache/internal/chaos"
)

// TestChaosPeer is no test but the life of a peer of TestProcessesUnderChaos.
func TestChaosPeer(t *testing.T) {
	if !processes.IsPeer() {
		t.Skip("a peer that another test starts")
	}
	require.NoError(t, processes.BePeer())
}

// TestProcessesUnderChaos is the short form of examples/chaos: peers in
// processes of their own are killed, stopped, restarted and joined by others
// while all of them read and write.
func TestProcessesUnderChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and waits for deaths in real time")
	}
	report, err := processes.Run(t.Context(), processes.Options{
		Dir: t.TempDir(), Args: []string{"-test.run=^TestChaosPeer$"}, Out: t.Output(), Errors: t.Output(), Short: true, Patience: time.Minute,
	})
	require.NoError(t, err)
	t.Logf("%+v", *report)
	require.Empty(t, report.Broken())
}
