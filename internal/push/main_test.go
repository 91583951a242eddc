package push

import (
	"testing"

	"fdc/internal/devstack/testenv"
)

func TestMain(m *testing.M) {
	testenv.Parallel(6) // many wait for timeouts and for restarts of NATS
	m.Run()
}
