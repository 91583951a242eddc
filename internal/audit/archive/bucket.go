package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
)

const (
	amazonHost = "s3.amazonaws.com"
	googleHost = "storage.googleapis.com"

	// partSize is how much of an object is sent at a time. A Put holds at most twice that in memory. With the limit of 10,000 parts, an
	// object has at most 156 GiB.
	partSize = 16 << 20

	// attempts of a request, with pauses of up to a second. The archiver tries again later.
	attempts = 5
	// callTime bounds a request with all its attempts; of a download, each wait for the next bytes.
	callTime = 5 * time.Minute
	// metadataTime bounds a request for the credentials of a machine: where there are none, nothing may answer.
	metadataTime = 5 * time.Second
	// abortTime bounds the clearing up after an upload that failed.
	abortTime = 30 * time.Second
)

// bucketStorage is an archive in a bucket of Amazon S3, or of a service with the same interface, such as Google Cloud Storage.
type bucketStorage struct {
	minio.Core
	transport  *http.Transport
	name       string
	encryption encrypt.ServerSide // nil: as the bucket is configured
}

func openBucket(t *target) (Storage, error) {
	endpoint, options, err := t.client()
	if err != nil {
		return nil, err
	}
	s := &bucketStorage{name: t.name}
	if s.encryption, err = t.encryption(); err != nil {
		return nil, err
	}
	if s.transport, err = minio.DefaultTransport(options.Secure); err != nil {
		return nil, fmt.Errorf("ARCHIVE_URL: %w", err)
	}
	options.Transport = s.transport
	client, err := minio.New(endpoint, options)
	if err != nil {
		return nil, fmt.Errorf("ARCHIVE_URL: %w", err)
	}
	s.Client = client
	return s, nil
}

// client returns the host and the options of the client, or what is wrong with the parameters.
func (t *target) client() (host string, o *minio.Options, err error) {
	o = &minio.Options{Secure: !t.on("disable_https"), Region: t.params["region"], MaxRetries: attempts}
	host = amazonHost
	if t.scheme == "gs" {
		host, o.Region = googleHost, "auto" // Google takes any
	}
	if endpoint := t.params["endpoint"]; endpoint != "" {
		if !strings.Contains(endpoint, "://") {
			endpoint = "https://" + endpoint
		}
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			return "", nil, errors.New("ARCHIVE_URL: the parameter endpoint is not https://HOST or http://HOST:PORT")
		}
		host, o.Secure = u.Host, o.Secure && u.Scheme == "https"
	}
	if style := cmp.Or(t.params["use_path_style"], t.params["s3ForcePathStyle"]); style != "" {
		o.BucketLookup = minio.BucketLookupDNS
		if t.on("use_path_style") || t.on("s3ForcePathStyle") {
			o.BucketLookup = minio.BucketLookupPath
		}
	}
	if !t.on("anonymous") {
		o.Creds = credentials.New(newKeys(t))
	}
	if _, err := t.encryption(); err != nil {
		return "", nil, err
	}
	return host, o, nil
}

// encryption returns how the bucket is asked to encrypt, nil for its own configuration.
func (t *target) encryption() (encrypt.ServerSide, error) {
	switch kind, key := t.params["ssetype"], t.params["kmskeyid"]; {
	case kind == "" && key == "":
		return nil, nil
	case strings.EqualFold(kind, "AES256") && key == "":
		return encrypt.NewSSE(), nil
	case strings.EqualFold(kind, "aws:kms"):
		return encrypt.NewSSEKMS(key, nil)
	default:
		return nil, errors.New("ARCHIVE_URL: want ssetype=AES256, or ssetype=aws:kms with kmskeyid")
	}
}

// keys finds credentials where Amazon's tools look for them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the shared files of the profile,
// and for Amazon the role of the container or the machine. For Google they are HMAC keys.
type keys struct{ credentials.Chain }

func newKeys(t *target) *keys {
	k := &keys{}
	if t.params["profile"] == "" {
		k.Providers = append(k.Providers, &credentials.EnvAWS{})
	}
	k.Providers = append(k.Providers, &credentials.FileAWSCredentials{Profile: t.params["profile"]})
	if t.scheme == "s3" && t.params["profile"] == "" {
		k.Providers = append(k.Providers, &credentials.IAM{Client: &http.Client{Timeout: metadataTime}, Region: t.params["region"]})
	}
	return k
}

// RetrieveWithCredContext fails where a Chain would go on without credentials.
func (k *keys) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	value, err := k.Chain.RetrieveWithCredContext(cc)
	if err == nil && value.AccessKeyID == "" {
		err = errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (HMAC keys for gs://), or the parameter anonymous")
	}
	return value, err
}

// Put sends what fits into one part as one request, and more as a multipart upload, which becomes an object when it is completed.
//
// Each request has the SHA-256 of its body in its signature, which every service of this kind verifies. The checksums in trailers that
// newer clients send instead are refused by some (rqlite#2699, minio-go#1791), so they stay off.
func (s *bucketStorage) Put(ctx context.Context, key string, r io.Reader) error {
	var part bytes.Buffer
	more, err := readPart(&part, r)
	if err == nil && more {
		err = s.multipart(ctx, key, &part, r)
	} else if err == nil {
		putCtx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		_, err = s.PutObject(putCtx, s.name, key, bytes.NewReader(part.Bytes()), int64(part.Len()), "", digestOf(part.Bytes()), s.options())
	}
	if err != nil {
		return unavailable(fmt.Errorf("write %s: %w", key, err))
	}
	return nil
}

// options of an upload. Without DisableContentSha256 the client would sign chunks of the body instead of its SHA-256.
func (s *bucketStorage) options() minio.PutObjectOptions {
	return minio.PutObjectOptions{ContentType: "application/octet-stream", ServerSideEncryption: s.encryption, DisableContentSha256: true}
}

// readPart fills a part. It reports whether there may be more.
func readPart(part *bytes.Buffer, r io.Reader) (more bool, err error) {
	part.Reset()
	n, err := part.ReadFrom(io.LimitReader(r, partSize))
	return n == partSize, err
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// multipart uploads a first part and what follows it. When that fails, it takes back what was sent.
func (s *bucketStorage) multipart(ctx context.Context, key string, part *bytes.Buffer, r io.Reader) (err error) {
	call := func(fn func(ctx context.Context) error) error {
		callCtx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		return fn(callCtx)
	}
	var upload string
	err = call(func(ctx context.Context) (err error) {
		upload, err = s.NewMultipartUpload(ctx, s.name, key, s.options())
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			abortCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
			defer cancel()
			_ = s.AbortMultipartUpload(abortCtx, s.name, key, upload) // parts that remain are no object
		}
	}()
	var parts []minio.CompletePart
	for more := true; more; {
		err := call(func(ctx context.Context) error {
			sent, err := s.PutObjectPart(ctx, s.name, key, upload, len(parts)+1, bytes.NewReader(part.Bytes()), int64(part.Len()),
				minio.PutObjectPartOptions{Sha256Hex: digestOf(part.Bytes()), DisableContentSha256: true, SSE: s.encryption})
			parts = append(parts, minio.CompletePart{PartNumber: len(parts) + 1, ETag: sent.ETag})
			return err
		})
		if err == nil {
			_, err = readPart(part, r)
		}
		if err != nil {
			return err
		}
		more = part.Len() > 0
	}
	return call(func(ctx context.Context) error {
		_, err := s.CompleteMultipartUpload(ctx, s.name, key, upload, parts, minio.PutObjectOptions{})
		return err
	})
}

func (s *bucketStorage) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(callTime, func() { cancel(fmt.Errorf("nothing came for %s", callTime)) })
	body, _, _, err := s.GetObject(ctx, s.name, key, minio.GetObjectOptions{})
	stalled.Stop()
	if err == nil {
		return &download{ReadCloser: body, stalled: stalled, ctx: ctx, cancel: cancel}, nil
	}
	cancel(nil)
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return nil, fmt.Errorf("%s: %w", key, errNoObject)
	}
	return nil, unavailable(fmt.Errorf("read %s: %w", key, err))
}

// download is the body of an answer. It fails when nothing comes for callTime.
type download struct {
	io.ReadCloser
	stalled *time.Timer
	ctx     context.Context //nolint:containedctx // of the request that it is the answer to
	cancel  context.CancelCauseFunc
}

func (d *download) Read(b []byte) (int, error) {
	d.stalled.Reset(callTime)
	defer d.stalled.Stop()
	n, err := d.ReadCloser.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && d.ctx.Err() != nil {
		err = context.Cause(d.ctx)
	}
	return n, err
}

func (d *download) Close() error {
	d.cancel(nil)
	return d.ReadCloser.Close()
}

func (s *bucketStorage) Keys(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var keys []string
	for object := range s.ListObjectsIter(ctx, s.name, minio.ListObjectsOptions{Recursive: true}) {
		if object.Err != nil {
			return nil, unavailable(fmt.Errorf("list the archive: %w", object.Err))
		}
		keys = append(keys, object.Key)
	}
	if err := ctx.Err(); err != nil { // a list that was broken off ends like a whole one
		return nil, unavailable(fmt.Errorf("list the archive: %w", err))
	}
	return keys, nil
}

func (s *bucketStorage) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}
