package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	dto "github.com/prometheus/client_model/go"

	"fdc/internal/platform/fault"
	"fdc/web"
)

// The headers of what browsers may keep for ever, and of what they ask for each time.
var (
	immutable = []string{"public, max-age=31536000, immutable"}
	noCache   = []string{"no-cache"}
	byCoding  = []string{"Accept-Encoding"}
)

func pageRoutes() []route {
	const tag = "pages"
	return []route{
		{
			method: http.MethodGet, path: "/", id: "console", tag: tag, public: true,
			summary: "The console.",
			answers: []answer{{status: http.StatusOK, media: htmlMedia}, empty(http.StatusNotModified, "")},
			handle:  func(a *api, c *call) error { return c.page(a.site.pages["console/index"]) },
		},
		{
			method: http.MethodGet, path: "/ops", id: "ops", tag: tag, public: true,
			summary: "The operators' page.",
			answers: []answer{{status: http.StatusOK, media: htmlMedia}, empty(http.StatusNotModified, "")},
			handle:  operators(func(a *api, c *call) error { return c.page(a.site.pages["ops/index"]) }),
		},
		{
			method: http.MethodGet, path: "/ops/status", id: "opsStatus", tag: tag, public: true,
			summary: "What the operators' page draws.",
			answers: []answer{ok[OpsStatus](http.StatusOK, "")},
			handle:  operators((*api).opsStatus),
		},
		{
			method: http.MethodGet, path: web.Prefix + "{name}", id: "asset", tag: tag, public: true,
			summary: "What a page loads.",
			answers: []answer{{status: http.StatusOK, media: "text/javascript"}},
			handle:  (*api).asset,
		},
	}
}

// site is web's site, each file with its compressed forms.
type site struct {
	pages, assets map[string]*file
}

type file struct {
	media string
	tag   string // its entity tag
	ready
}

// theSite is made once for the program.
var theSite = sync.OnceValue(func() *site {
	from, err := web.New()
	if err != nil {
		panic("httpapi: " + err.Error())
	}
	free := newEncoders()
	prepare := func(assets map[string]web.Asset) map[string]*file {
		files := make(map[string]*file, len(assets))
		for name, asset := range assets {
			f := &file{media: asset.Media, tag: strconv.Quote(asset.Fingerprint), ready: ready{body: asset.Body}}
			for k := gzipped; k < codings; k++ {
				if _, err := f.in(k, free); err != nil {
					panic("httpapi: " + err.Error())
				}
			}
			files[name] = f
		}
		return files
	}
	return &site{pages: prepare(from.Pages), assets: prepare(from.Assets)}
})

// pagePolicy lets a page load what is ours and nothing else, run no script that isn't a file, and stand in no frame. Browsers that
// don't count WebSockets as 'self' are told of them.
func pagePolicy(origin string) []string {
	return []string{strings.Join([]string{
		"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:",
		"connect-src 'self' ws" + strings.TrimPrefix(origin, "http"),
		"form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
	}, "; ")}
}

// page answers with a page, which the browser asks about each time.
func (c *call) page(f *file) error {
	h := c.gin.Writer.Header()
	h["Cache-Control"] = noCache
	h["Etag"] = []string{f.tag}
	h["Vary"] = byCoding
	if !noneMatch(c.request().Header, f.tag) {
		return c.empty(http.StatusNotModified)
	}
	h["Referrer-Policy"] = noReferrer
	c.policy = c.api.pagePolicy
	return c.writeReady(f.media, &f.ready)
}

// asset answers with a file whose name tells its content.
func (a *api) asset(c *call) error {
	f := a.site.assets[web.Prefix+c.path("name")]
	if f == nil {
		return fault.Missing("path")
	}
	h := c.gin.Writer.Header()
	h["Cache-Control"] = immutable
	h["Vary"] = byCoding
	return c.writeReady(f.media, &f.ready)
}

// operators lets in system administrators only. To everybody else there is nothing there.
func operators(handle func(*api, *call) error) func(*api, *call) error {
	return func(a *api, c *call) error {
		switch err := c.authenticate(); {
		case fault.KindOf(err) == fault.Unauthenticated:
			return fault.Missing("path")
		case err != nil:
			return err
		case c.session.User.SystemRole != "SA":
			return fault.Missing("path")
		}
		c.renew()
		return handle(a, c)
	}
}

// OpsStatus is what the operators' page draws.
type OpsStatus struct {
	Status  any      `json:"status"`  // as fdc status --json prints it
	Metrics []Metric `json:"metrics"` // of the process that answers
}

// Metric is one time series of the process's /metrics. A histogram has buckets, with the count up to each bound.
type Metric struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels"`
	Value   float64           `json:"value"` // a histogram's is the number of observations
	Buckets []Bucket          `json:"buckets,omitempty"`
}

// Bucket counts the observations up to a bound.
type Bucket struct {
	UpTo  float64 `json:"upTo"`
	Count uint64  `json:"count"`
}

// opsMetrics are those that the page draws.
var opsMetrics = []string{
	"cache_requests_total", "http_request_seconds", "process_resident_memory_bytes", "push_delivered_total", "push_sockets",
}

func (a *api) opsStatus(c *call) error {
	if a.Status == nil || a.Gather == nil {
		return fault.Missing("path")
	}
	status, err := a.Status(c.ctx())
	if err != nil {
		return err
	}
	families, err := a.Gather.Gather()
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, OpsStatus{Status: status, Metrics: metricsOf(families)})
}

func metricsOf(families []*dto.MetricFamily) []Metric {
	list := []Metric{}
	for _, family := range families {
		if !slices.Contains(opsMetrics, family.GetName()) {
			continue
		}
		for _, series := range family.GetMetric() {
			m := Metric{Name: family.GetName(), Labels: map[string]string{}}
			for _, label := range series.GetLabel() {
				m.Labels[label.GetName()] = label.GetValue()
			}
			switch {
			case series.Histogram != nil:
				m.Value = float64(series.Histogram.GetSampleCount())
				for _, b := range series.Histogram.GetBucket() {
					m.Buckets = append(m.Buckets, Bucket{UpTo: b.GetUpperBound(), Count: b.GetCumulativeCount()})
				}
			case series.Counter != nil:
				m.Value = series.Counter.GetValue()
			case series.Gauge != nil:
				m.Value = series.Gauge.GetValue()
			}
			list = append(list, m)
		}
	}
	return list
}
