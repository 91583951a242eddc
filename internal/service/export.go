package service

import (
	"context"
	"errors"
	"io"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/httpapi"
)

// ExportAudit writes the entries of the audit log that match, newest first, as NDJSON or CSV, and returns how many those are. progress is told
// how many there are so far.
func ExportAudit(ctx context.Context, log *audit.Log, meta events.Meta, f audit.Filter, format string, w io.Writer, progress func(int64)) (int64, error) {
	lines := httpapi.AuditLines(format)
	done := int64(0)
	rows, err := log.Export(ctx, meta, f, format, func(entries []audit.Entry) error {
		b, err := lines(entries)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		done += int64(len(entries))
		progress(done)
		return err
	})
	if err == nil && rows == 0 { // a header, in CSV
		b, linesErr := lines(nil)
		_, writeErr := w.Write(b)
		err = errors.Join(linesErr, writeErr)
	}
	return rows, err
}

// ExportFormats are the forms of ExportAudit.
var ExportFormats = []string{httpapi.FormatNDJSON, httpapi.FormatCSV}
