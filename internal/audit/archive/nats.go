package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// objectStorage is an archive in a JetStream object store.
type objectStorage struct{ jetstream.ObjectStore }

func (s *objectStorage) Put(ctx context.Context, key string, r io.Reader) error {
	if _, err := s.ObjectStore.Put(ctx, jetstream.ObjectMeta{Name: key}, r); err != nil {
		return unavailable(fmt.Errorf("write %s: %w", key, err))
	}
	return nil
}

func (s *objectStorage) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := s.Get(ctx, key)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fmt.Errorf("%s: %w", key, errNoObject)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read %s: %w", key, err))
	}
	return r, nil
}

func (s *objectStorage) Keys(ctx context.Context) ([]string, error) {
	list, err := s.List(ctx)
	if errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("list the archive: %w", err))
	}
	keys := make([]string, len(list))
	for i, object := range list {
		keys[i] = object.Name
	}
	slices.Sort(keys)
	return keys, nil
}

func (s *objectStorage) Close() error { return nil }
