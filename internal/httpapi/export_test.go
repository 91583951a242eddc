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

// AccessInWorkspace names, by operation, who may call the routes of a workspace.
func AccessInWorkspace() map[string]string {
	access := make(map[string]string)
	for _, r := range routes() {
		if r.inWorkspace() {
			access[r.id] = r.access()
		}
	}
	return access
}
