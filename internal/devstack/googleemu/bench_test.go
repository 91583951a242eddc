package googleemu

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkPage serves one full page, 2,500 events, without the network.
func BenchmarkPage(b *testing.B) {
	e, err := New(Options{})
	require.NoError(b, err)
	require.NoError(b, e.AddUser(ann, "Ann"))
	for i := range 2500 {
		_, err := e.AddEvent(ann, "primary", meeting(testTime.AddDate(0, 0, i)))
		require.NoError(b, err)
	}
	token, err := e.Token(ann)
	require.NoError(b, err)
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/calendar/v3/calendars/primary/events?maxResults=2500", http.NoBody)
	req.Header.Set("Authorization", "Bearer "+token)
	for b.Loop() {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, req)
		require.Equal(b, http.StatusOK, w.Code)
	}
	require.NoError(b, e.Close())
}
