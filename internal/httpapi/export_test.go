package httpapi

// BodyLimits returns the largest body, in bytes, of each operation that takes one.
func BodyLimits() map[string]int64 {
	limits := make(map[string]int64)
	for _, r := range routes() {
		if r.body != nil {
			limits[r.id] = r.body.limit
		}
	}
	return limits
}
