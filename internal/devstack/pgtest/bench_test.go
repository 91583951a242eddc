package pgtest

import "testing"

// BenchmarkClone is what a test pays for its database, beyond the first one of a run.
func BenchmarkClone(b *testing.B) {
	shared, name := cluster(b), template(b)
	for b.Loop() {
		if err := maintain(b.Context(), shared, "CREATE DATABASE clone TEMPLATE "+name+" STRATEGY FILE_COPY"); err != nil {
			b.Fatal(err)
		}
		if err := maintain(b.Context(), shared, "DROP DATABASE clone"); err != nil {
			b.Fatal(err)
		}
	}
}
