package events

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const mask = "***"

// MaskEmail keeps of an address what tells two people of one domain roughly apart: "alice@example.com" becomes
// "a***@example.com". What is no address becomes "***". Masking twice changes nothing.
func MaskEmail(email string) string {
	at := strings.LastIndexByte(email, '@')
	if at < 1 || !validDomain(email[at+1:]) {
		return mask
	}
	first, size := utf8.DecodeRuneInString(email)
	if !unicode.IsLetter(first) && !unicode.IsDigit(first) {
		return mask + email[at:]
	}
	return email[:size] + mask + email[at:]
}

func isMasked(s string) bool { return s == MaskEmail(s) }

func validDomain(s string) bool {
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' && r != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 253
}
