package push

import (
	"os"
	"testing"

	"fdc/internal/devstack/testenv"
)

func TestMain(m *testing.M) {
	testenv.Parallel(6) // they wait for timeouts and for restarts of NATS
	os.Exit(m.Run())
}
