package doctor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Checks that never end, also ones that don't heed their context, hold up nobody and are told.
func TestAHangingCheckHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		deaf := make(chan struct{})
		defer close(deaf)
		began := time.Now()
		found := Config{Patience: time.Second}.run(ctx,
			check{"deaf", func(context.Context) ([]Finding, error) { <-deaf; return nil, nil }},
			check{"patient", func(ctx context.Context) ([]Finding, error) { <-ctx.Done(); return nil, ctx.Err() }},
			check{"quick", func(context.Context) ([]Finding, error) { return ok("fine."), nil }},
			check{"broken", func(context.Context) ([]Finding, error) { return nil, errors.New("it fell over") }},
		)
		require.Equal(t, time.Second+grace, time.Since(began))
		require.Equal(t, []string{"deaf", "patient", "quick", "broken"}, []string{found[0].Check, found[1].Check, found[2].Check, found[3].Check})
		require.Equal(t, []string{Error, Error, OK, Error}, []string{found[0].Status, found[1].Status, found[2].Status, found[3].Status})
		require.Equal(t, found[0].Message, found[1].Message)
		require.Contains(t, found[3].Message, "it fell over")
	})
}
