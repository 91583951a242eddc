package identity_test

import (
	"testing"

	"fdc/internal/devstack/testenv"
)

func TestMain(m *testing.M) {
	testenv.Parallel(6) // the tests of caches wait for time to pass
	m.Run()
}
