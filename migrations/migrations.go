// Package migrations holds the schema as goose migrations, in the order of their numbers. A migration that has been
// released is never edited; a change is a new file.
package migrations

import "embed"

// FS holds the *.sql files.
//
//go:embed *.sql
var FS embed.FS
