package web

import (
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func site(t *testing.T, files map[string]string) Site {
	t.Helper()
	s, err := build(tree(files))
	require.NoError(t, err)
	return s
}

func tree(files map[string]string) fstest.MapFS {
	from := fstest.MapFS{}
	for name, text := range files {
		from[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return from
}

// names are the fingerprinted ones, by what they are without the fingerprint.
func names(s Site) map[string]string {
	plain := map[string]string{}
	for at := range s.Assets {
		plain[regexp.MustCompile(`\.[\w-]{12}\.`).ReplaceAllString(strings.TrimPrefix(at, Prefix), ".")] = at
	}
	return plain
}

// A file's name changes with its content and with that of whatever it refers to, near or far, and with nothing else.
func TestFingerprints(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"a/page.html": `<link rel="stylesheet" href="./page.css"><script type="module" src="./page.js"></script><a href="/other">`,
		"a/page.css":  `.x { background: url("./dot.svg") }`,
		"a/dot.svg":   `<svg xmlns="http://www.w3.org/2000/svg"/>`,
		"a/page.js":   "import { one } from \"../b/one.js\";\nexport { two } from \"../b/two.js\";\n/** import(\"./page.js\") */",
		"b/one.js":    `export const one = 1;`,
		"b/two.js":    `import "./one.js";`,
	}
	before := site(t, files)
	plain := names(before)
	require.Len(t, plain, 5)
	require.Equal(t, `<link rel="stylesheet" href="`+plain["a-page.css"]+`"><script type="module" src="`+plain["a-page.js"]+`"></script><a href="/other">`,
		string(before.Pages["a/page"].Body))
	require.Equal(t, "import { one } from \""+plain["b-one.js"]+"\";\nexport { two } from \""+plain["b-two.js"]+"\";\n/** import(\"./page.js\") */",
		string(before.Assets[plain["a-page.js"]].Body))
	require.Equal(t, before, site(t, files), "it is the same each time")

	files["b/one.js"] = `export const one = 2;`
	after := names(site(t, files))
	for name, at := range plain {
		if strings.HasSuffix(name, ".js") {
			require.NotEqual(t, at, after[name], name)
		} else {
			require.Equal(t, at, after[name], name)
		}
	}
}

func TestBrokenReferences(t *testing.T) {
	t.Parallel()
	_, err := build(tree(map[string]string{"a.js": `import "./b.js";`}))
	require.ErrorContains(t, err, "a.js: read b.js: ")
	_, err = build(tree(map[string]string{"a.js": `import "./b.js";`, "b.js": `import "./a.js";`}))
	require.ErrorIs(t, err, errCycle)
	_, err = build(tree(map[string]string{"a.bin": ""}))
	require.ErrorContains(t, err, "a.bin: a file of an unknown kind")
}
