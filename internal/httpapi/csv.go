package httpapi

import (
	"bytes"
	"regexp"
	"strings"
)

// csvLine writes a record as RFC 4180 says, with every field in quotes.
func csvLine(b *bytes.Buffer, fields []string) {
	for n, field := range fields {
		if n > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		b.WriteString(strings.ReplaceAll(csvCell(field), `"`, `""`))
		b.WriteByte('"')
	}
	b.WriteString("\r\n")
}

// formula is what a spreadsheet may take for the beginning of one: at the beginning of a cell, and behind a semicolon, which
// separates cells where the comma is the decimal point.
var formula = regexp.MustCompile(`(?:^|;[ "']*)[=+\-@\t\r\n＝＋－＠]`)

// csvCell keeps a spreadsheet from taking text for a formula, https://owasp.org/www-community/attacks/CSV_Injection: it prefixes
// an apostrophe.
func csvCell(s string) string {
	if formula.MatchString(s) {
		return "'" + s
	}
	return s
}
