package groupcache

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// A child is what the test binary is when another test has started it.
const childEnv = "GROUPCACHE_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		children[name]()
		return
	}
	goleak.VerifyTestMain(m)
}
