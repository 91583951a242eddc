package service

import "runtime/debug"

// What the linker sets for a release: -X fdc/internal/service.Version=1.2.3, and likewise Commit and Date.
var (
	// Version is the program's version.
	Version = "dev"
	// Commit is the revision that it was built from.
	Commit = ""
	// Date is when that revision was made, RFC 3339.
	Date = ""
)

// Build says which program this is.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"` // with "-dirty" behind it when there were changes; empty when the builder didn't say
	Date    string `json:"date"`
	Go      string `json:"go"`
}

// ReadBuild is what the linker has set, and for the rest what the Go command noted in the binary.
func ReadBuild() Build {
	b := Build{Version: Version, Commit: Commit, Date: Date}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	noted := make(map[string]string)
	for _, s := range info.Settings {
		noted[s.Key] = s.Value
	}
	if b.Commit == "" && noted["vcs.revision"] != "" {
		b.Commit = noted["vcs.revision"]
		if noted["vcs.modified"] == "true" {
			b.Commit += "-dirty"
		}
	}
	if b.Date == "" {
		b.Date = noted["vcs.time"]
	}
	return b
}
