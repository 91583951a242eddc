package web_test

import "testing"

// BenchmarkFirstVisit is a browser that has never been here, signed in: until the board can be used, and what was transferred.
// The aim is a second, and 150 KB.
func BenchmarkFirstVisit(b *testing.B) {
	at := stack(b)
	var ready, bytes float64
	for b.Loop() {
		p := visit(b, at.HTTP)
		p.enterDemo(demoFounder)
		const drawn = `document.querySelectorAll("#board .card").length > 0`
		p.holds(drawn, "the board")
		// Once more, with nothing kept, so that signing in is not counted.
		p.forget()
		p.do("again", navigate(at.HTTP+"/?fresh"))
		ready += value[float64](p, `new Promise((done) => {
			const look = () => `+drawn+` ? done(performance.now()) : requestAnimationFrame(look);
			look();
		})`)
		bytes += value[float64](p, `["navigation", "resource"].flatMap(t => performance.getEntriesByType(t)).reduce((n, e) => n + e.encodedBodySize, 0)`)
	}
	b.ReportMetric(ready/float64(b.N), "ms/ready")
	b.ReportMetric(bytes/float64(b.N)/1000, "KB/visit")
	b.ReportMetric(0, "ns/op")
}
