package deploy_test

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"fdc/internal/devstack/readme"
)

// composeFile is what the tests know of docker-compose.yml.
type composeFile struct {
	Services map[string]composeService
	Secrets  map[string]struct{ File string }
	Volumes  map[string]any
	Networks map[string]struct{ Internal bool }
}

type composeService struct {
	Image               string
	Build               string
	Entrypoint, Command []string
	Profiles            []string
	DependsOn           map[string]composeDependency `yaml:"depends_on"`
	Environment         map[string]string
	Secrets             []composeSecret
	Volumes             []string
	Ports               []string
	Networks            composeNetworks
	Healthcheck         *composeHealthcheck
	Restart             string
	ReadOnly            bool     `yaml:"read_only"`
	CapDrop             []string `yaml:"cap_drop"`
	SecurityOpt         []string `yaml:"security_opt"`
	Tmpfs               []string
	Privileged          bool
	Deploy              struct {
		Resources struct {
			Limits struct{ CPUs, Memory, Pids string }
		}
	}
}

type composeHealthcheck struct {
	Test          []string
	StartPeriod   string `yaml:"start_period"`
	StartInterval string `yaml:"start_interval"`
}

type composeDependency struct {
	Condition string
	Required  *bool
}

// optional dependencies count only when their profile is on.
func (d composeDependency) optional() bool { return d.Required != nil && !*d.Required }

// composeSecret is "name", or {source, target}. Path is where the container finds it.
type composeSecret struct{ Source, Path string }

func (s *composeSecret) UnmarshalYAML(n *yaml.Node) error {
	var long struct{ Source, Target string }
	if n.Kind == yaml.ScalarNode {
		long.Source = n.Value
	} else if err := n.Decode(&long); err != nil {
		return err
	}
	if long.Target == "" {
		long.Target = long.Source
	}
	s.Source, s.Path = long.Source, long.Target
	if !filepath.IsAbs(s.Path) {
		s.Path = "/run/secrets/" + s.Path
	}
	return nil
}

// composeNetworks is a list of names, or a map with aliases: aliases by network.
type composeNetworks map[string][]string

func (c *composeNetworks) UnmarshalYAML(n *yaml.Node) error {
	*c = composeNetworks{}
	if n.Kind == yaml.SequenceNode {
		var names []string
		err := n.Decode(&names)
		for _, name := range names {
			(*c)[name] = nil
		}
		return err
	}
	var long map[string]struct{ Aliases []string }
	err := n.Decode(&long)
	for name, network := range long {
		(*c)[name] = network.Aliases
	}
	return err
}

var reference = regexp.MustCompile(`\$\$|\$\{([A-Z_]+)(?::([-?])([^}]*))?\}|\$`)

var everyProfile = []string{"demo", "cluster", "operator"}

// load reads docker-compose.yml as Compose does with these variables, the services of these profiles only.
func load(t *testing.T, variables map[string]string, profiles ...string) composeFile {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(readme.Root(t), "docker-compose.yml"))
	require.NoError(t, err)
	text := reference.ReplaceAllStringFunc(string(content), func(found string) string {
		match := reference.FindStringSubmatch(found)
		name, operator, otherwise := match[1], match[2], match[3]
		switch {
		case found == "$$":
			return "$"
		case name == "":
			t.Error("docker-compose.yml has a $ that is neither $$ nor ${NAME}")
		case variables[name] != "":
			return variables[name]
		case operator == "?":
			t.Errorf("docker-compose.yml wants %s: %s", name, otherwise)
		}
		return otherwise
	})
	var file composeFile
	require.NoError(t, yaml.Unmarshal([]byte(text), &file))
	maps.DeleteFunc(file.Services, func(_ string, s composeService) bool {
		return len(s.Profiles) > 0 && !slices.ContainsFunc(s.Profiles, func(p string) bool { return slices.Contains(profiles, p) })
	})
	return file
}

// settings reads files for --env-file; the later one counts.
func settings(t *testing.T, names ...string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, name := range names {
		content, err := os.ReadFile(name) //nolint:gosec // a file of the repository
		require.NoError(t, err)
		for lines := bufio.NewScanner(strings.NewReader(string(content))); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(key, "#") {
				found[key] = value
			}
		}
	}
	return found
}

// Whatever a container doesn't need, it doesn't have; and what it names is there.
func TestContainersAreHardened(t *testing.T) {
	t.Parallel()
	file := load(t, settings(t, "demo.env", "cluster.env"), everyProfile...)
	made, err := os.ReadDir(secrets(t))
	require.NoError(t, err)
	var secretFiles []string
	for _, entry := range made {
		secretFiles = append(secretFiles, "./deploy/secrets/"+entry.Name())
	}
	for name, s := range file.Services {
		require.True(t, s.ReadOnly, name)
		require.Equal(t, []string{"ALL"}, s.CapDrop, name)
		require.Equal(t, []string{"no-new-privileges:true"}, s.SecurityOpt, name)
		require.False(t, s.Privileged, name)
		limits := s.Deploy.Resources.Limits
		require.True(t, limits.CPUs != "" && limits.Memory != "" && limits.Pids != "", "%s has no limits", name)
		for _, port := range s.Ports {
			require.True(t, strings.HasPrefix(port, "127.0.0.1:"), "%s publishes %s beyond loopback", name, port)
		}
		if s.Healthcheck == nil {
			require.NotEqual(t, "unless-stopped", s.Restart, "%s goes on and has no health check", name)
		} else {
			require.True(t, s.Healthcheck.StartPeriod != "" && s.Healthcheck.StartInterval != "", "up --wait takes long with %s, and Compose refuses one without the other", name)
		}
		for network := range s.Networks {
			require.Contains(t, file.Networks, network, name)
		}
		for _, secret := range s.Secrets {
			require.Contains(t, file.Secrets, secret.Source, name)
			require.Contains(t, secretFiles, file.Secrets[secret.Source].File, "secrets.sh does not make what %s wants", name)
		}
		for variable, value := range s.Environment {
			if strings.HasPrefix(value, "/run/secrets/") {
				require.True(t, slices.ContainsFunc(s.Secrets, func(c composeSecret) bool { return c.Path == value }), "%s of %s names a secret that it doesn't get", variable, name)
			}
		}
		for _, volume := range s.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if strings.HasPrefix(source, ".") {
				require.FileExists(t, filepath.Join(readme.Root(t), source), name)
				require.True(t, strings.HasSuffix(volume, ":ro"), "%s may write %s", name, source)
			} else {
				require.Contains(t, file.Volumes, source, name)
			}
		}
		for other, dependency := range s.DependsOn {
			require.Contains(t, file.Services, other, name)
			require.Equal(t, dependency.Condition == "service_healthy", file.Services[other].Healthcheck != nil, "%s waits for %s in the wrong way", name, other)
			if len(file.Services[other].Profiles) > 0 && len(s.Profiles) == 0 {
				require.True(t, dependency.optional(), "%s wants %s, which isn't always there", name, other)
			}
		}
	}
	require.True(t, file.Networks["data"].Internal)
}

// A server of another version than the one that the tests run is a surprise.
func TestTheImagesServerIsTheTested(t *testing.T) {
	t.Parallel()
	file := load(t, settings(t, "demo.env"))
	require.Equal(t, fmt.Sprintf("nats:%s-alpine", server.VERSION), file.Services["nats"].Image)
}
