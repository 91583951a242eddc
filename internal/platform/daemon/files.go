package daemon

import (
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"strings"

	"fdc/internal/platform/seal"
)

// fileSuffix makes NAME_FILE, the variable that names the file with the value of NAME. A secret in a file shows neither in
// `docker inspect` nor in /proc, and what runs containers hands secrets over as files.
const fileSuffix = "_FILE"

// maxSecret is far more than any secret has; who names a log or a device by mistake hears so.
const maxSecret = 64 << 10

// SecretVariables are the names of the variables of a config struct that may be given as files.
func SecretVariables(config reflect.Type) []string {
	var names []string
	for f := range config.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		switch {
		case name != "" && (f.Type == reflect.TypeFor[seal.Secret]() || f.Tag.Get("file") != ""):
			names = append(names, name)
		case f.Type.Kind() == reflect.Struct && f.IsExported():
			names = append(names, SecretVariables(f.Type)...)
		}
	}
	return names
}

// readFiles returns the environment with the named variables read from their files, and what was wrong with those.
func readFiles(environ map[string]string, names []string) (read map[string]string, problems []string) {
	read = maps.Clone(environ)
	for _, name := range names {
		value, err := FromFile(environ, name)
		switch {
		case err != nil:
			problems = append(problems, err.Error())
		case value != "":
			read[name] = value
		}
	}
	return read, problems
}

// FromFile is the value of a variable that may be given as a file, without the line's end that editors leave. The error
// names the variable.
func FromFile(environ map[string]string, name string) (string, error) {
	variable := name + fileSuffix
	path := environ[variable]
	if path == "" {
		return environ[name], nil
	}
	if environ[name] != "" {
		return "", fmt.Errorf("%s: set although %s is, too; unset one of them", variable, name)
	}
	file, err := os.Open(path) //nolint:gosec // whoever starts the program names it
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	defer file.Close() //nolint:errcheck // only read from
	content, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", variable, err)
	case len(content) > maxSecret:
		return "", fmt.Errorf("%s: %s is no secret, it has more than %d bytes", variable, path, maxSecret)
	}
	value := strings.TrimRight(string(content), "\r\n")
	if value == "" {
		return "", fmt.Errorf("%s: %s is empty", variable, path)
	}
	return value, nil
}
