package deploy_test

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Bounds of what a program links: its packages, the standard library's among them, and its size without symbols.
const (
	servicePackages = 720
	toolPackages    = 850
	serviceBytes    = 42_000_000
	toolBytes       = 58_000_000
	archiverBytes   = 46_000_000
)

// testOnly are the modules that no program may contain.
var testOnly = []string{
	"github.com/anishathalye/porcupine", "github.com/chromedp/", "github.com/creack/pty", "github.com/johannesboyne/gofakes3",
	"github.com/stretchr/testify", "fdc/internal/devstack/pgtest", "fdc/internal/devstack/natstest", "fdc/internal/devstack/testenv",
}

// No program grows unnoticed: each is bounded, none contains what only tests need, and only the audit-archiver and fdc contain the archive
// and its clients of object storage.
func TestWhatIsLinked(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, "fdc/cmd/...").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, 5)
	for _, line := range lines {
		packages := strings.Fields(line) // the program's own, and all that it imports
		name := path.Base(packages[0])
		info, err := os.Stat(filepath.Join(bin(t), name))
		require.NoError(t, err)
		mostPackages, mostBytes := servicePackages, int64(serviceBytes)
		archives := name == "fdc" || name == "audit-archiver"
		switch name {
		case "fdc":
			mostPackages, mostBytes = toolPackages, toolBytes
		case "audit-archiver":
			mostPackages, mostBytes = toolPackages, archiverBytes
		}
		t.Logf("%-18s %4d packages (at most %d) %5.1f MB (at most %.1f)",
			name, len(packages), mostPackages, float64(info.Size())/1e6, float64(mostBytes)/1e6)
		require.LessOrEqual(t, len(packages), mostPackages, name)
		require.LessOrEqual(t, info.Size(), mostBytes, name)
		for _, linked := range packages {
			require.False(t, slices.ContainsFunc(testOnly, func(of string) bool { return strings.HasPrefix(linked, of) }), "%s contains %s", name, linked)
		}
		for _, of := range []string{"fdc/internal/audit/archive", "github.com/minio/minio-go/v7"} {
			require.Equal(t, archives, slices.Contains(packages, of), "%s, %s", name, of)
		}
	}
}
