// Package takeout writes what is stored about a person as a ZIP of JSON files.
//
// # Guarantees
//
//   - Memory is bounded by a page of rows, whatever is stored: each file is an array that is written row by row.
//   - No connection to the database is held while the reader is slow: each page is a statement of its own. The files are therefore
//     no snapshot; a row that changes meanwhile is written as it was before or after the change.
//
// # Failure modes
//
//   - An error of the database or of the writer ends the ZIP without its directory, so that no reader takes it for whole.
package takeout

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/postgres"
)

// Section is a file of the export: all rows of a query.
type Section struct {
	File string // its name, without .json

	// SQL selects pages of (key text, row jsonb) in the order of the key, behind @after, @limit at most. @user is the person.
	SQL   string
	First string // the @after of the first page
	Page  int    // @limit; 200 when zero

	// Each, when not empty, selects texts: SQL runs for each of them, as @scope.
	Each string
}

// ZeroID is a First for keys that are UUIDs.
const ZeroID = "00000000-0000-0000-0000-000000000000"

const defaultPage = 200

// Write writes the sections of a person's data to w.
func Write(ctx context.Context, q postgres.Querier, w io.Writer, userID string, sections []Section) error {
	archive := zip.NewWriter(w)
	for _, s := range sections {
		file, err := archive.CreateHeader(&zip.FileHeader{Name: s.File + ".json", Method: zip.Deflate, Modified: time.Now().UTC()})
		if err != nil {
			return fmt.Errorf("write %s: %w", s.File, err)
		}
		if err := s.write(ctx, q, file, userID); err != nil {
			return fmt.Errorf("write %s: %w", s.File, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("end archive: %w", err)
	}
	return nil
}

func (s Section) write(ctx context.Context, q postgres.Querier, w io.Writer, userID string) error {
	scopes := []string{""}
	if s.Each != "" {
		rows, _ := q.Query(ctx, s.Each, pgx.NamedArgs{"user": userID})
		var err error
		if scopes, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return postgres.Fault(err)
		}
	}
	separator := "[\n"
	for _, scope := range scopes {
		args := pgx.NamedArgs{"user": userID, "scope": scope, "after": s.First, "limit": defaultPage}
		if s.Page != 0 {
			args["limit"] = s.Page
		}
		for found := args["limit"]; found == args["limit"]; {
			rows, _ := q.Query(ctx, s.SQL, args)
			page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
			if err != nil {
				return postgres.Fault(err)
			}
			for _, r := range page {
				if _, err := fmt.Fprintf(w, "%s%s", separator, r.Row); err != nil {
					return err
				}
				separator, args["after"] = ",\n", r.Key
			}
			found = len(page)
		}
	}
	end := "\n]\n"
	if separator == "[\n" { // there was no row
		end = "[]\n"
	}
	_, err := io.WriteString(w, end)
	return err
}

type row struct {
	Key string
	Row []byte
}
