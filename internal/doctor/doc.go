// Package doctor examines a running system from outside: what an operator would look at one thing after the other, at once.
//
// # What it guarantees
//
//   - It changes nothing. Rights are tried with requests that the server refuses for another reason once it has let them in.
//   - Checks run side by side, each for Config.Patience at most. One that hangs is a finding; the others don't wait for it.
//   - What can't be reached is a finding, and what could only be asked there is then not examined: one cause, one finding.
//   - A finding that is not ok says what to do.
//
// # How it fails
//
// It does not: an error on the way is a finding of the check that met it.
package doctor
