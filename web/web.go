// Package web holds the pages that browsers get: the console and the operators' page, with the client module that both use.
//
// # How they are served
//
// A page refers to its style and its modules, and those to each other, by relative paths, as the files lie in the repository, so
// that an editor and a type checker follow them. Assets gives each file a name with a fingerprint of its content and of all
// that it refers to, and rewrites the references: what a name stands for never changes, and browsers may keep it for ever.
// There is no other build.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// Prefix is where assets are served.
const Prefix = "/assets/"

//go:embed console/*.html console/*.css console/*.js console/*.svg ops/*.html ops/*.css ops/*.js client/*.js
var files embed.FS

// Asset is a file ready to be sent.
type Asset struct {
	Media       string
	Body        []byte
	Fingerprint string // of the body, and so of all that it refers to
}

func newAsset(media string, body []byte) Asset {
	sum := sha256.Sum256(body)
	return Asset{media, body, base64.RawURLEncoding.EncodeToString(sum[:9])}
}

// media are the kinds of files that there are.
var media = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// Site is all that browsers get.
type Site struct {
	Assets map[string]Asset // by their path, Prefix included
	Pages  map[string]Asset // by their file's path without the ending: console/index
}

// New makes the site out of the files that are compiled in.
func New() (Site, error) { return build(files) }

// reference is where one file names another: import and export in modules, at the beginning of a line (comments name modules too, for
// the sake of types), src and href in pages, url() in styles.
var reference = regexp.MustCompile(`(?m)((?:^(?:import|export) (?:[^"\n]* from )?|\bsrc=|\bhref=|\burl\()")(\.\.?/[^"]+)(")`)

func build(from fs.FS) (Site, error) {
	b := builder{from: from, site: Site{Assets: map[string]Asset{}, Pages: map[string]Asset{}}, named: map[string]string{}}
	err := fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if path.Ext(name) != ".html" {
			_, err = b.asset(name)
			return err
		}
		body, err := b.linked(name)
		b.site.Pages[strings.TrimSuffix(name, ".html")] = newAsset(media[".html"], body)
		return err
	})
	return b.site, err
}

type builder struct {
	from  fs.FS
	site  Site
	named map[string]string // files by their path in the repository; empty while one is under way
}

var errCycle = errors.New("it refers to itself, by way of others: no fingerprint can hold its own")

// asset adds a file, after those that it refers to, and returns the path at which it is served.
func (b *builder) asset(name string) (string, error) {
	if at, ok := b.named[name]; ok {
		if at == "" {
			return "", fmt.Errorf("%s: %w", name, errCycle)
		}
		return at, nil
	}
	b.named[name] = ""
	body, err := b.linked(name)
	if err != nil {
		return "", err
	}
	ext := path.Ext(name)
	if media[ext] == "" {
		return "", fmt.Errorf("%s: a file of an unknown kind", name)
	}
	made := newAsset(media[ext], body)
	at := Prefix + strings.ReplaceAll(strings.TrimSuffix(name, ext), "/", "-") + "." + made.Fingerprint + ext
	b.named[name], b.site.Assets[at] = at, made
	return at, nil
}

// linked is a file's content with the served paths of what it refers to.
func (b *builder) linked(name string) ([]byte, error) {
	body, err := fs.ReadFile(b.from, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var failed error
	body = reference.ReplaceAllFunc(body, func(found []byte) []byte {
		parts := reference.FindSubmatch(found)
		at, err := b.asset(path.Join(path.Dir(name), string(parts[2])))
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
		}
		return []byte(string(parts[1]) + at + string(parts[3]))
	})
	return body, failed
}
