package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/term"
)

// Config says how much is logged, how, and whether traces are exported.
type Config struct {
	Level    string `env:"LOG_LEVEL" envDefault:"info"`
	Format   string `env:"LOG_FORMAT" envDefault:"json"`
	Endpoint string `env:"OTEL_EXPORTER_OTLP_ENDPOINT"`
}

// Validate names what is malformed.
func (c Config) Validate() error {
	var errs []error
	if _, err := zerolog.ParseLevel(c.Level); err != nil || c.Level == "" {
		errs = append(errs, errors.New("LOG_LEVEL: want trace, debug, info, warn or error"))
	}
	if c.Format != "json" && c.Format != "console" {
		errs = append(errs, errors.New("LOG_FORMAT: want json or console"))
	}
	return errors.Join(errs...)
}

// Logger returns a logger for one service. The config has been validated.
func Logger(c Config, w io.Writer, service string) zerolog.Logger {
	if c.Format == "console" {
		w = zerolog.ConsoleWriter{Out: w, NoColor: !terminal(w), TimeFormat: time.TimeOnly, FieldsExclude: []string{"service"}, PartsOrder: []string{
			zerolog.TimestampFieldName, zerolog.LevelFieldName, "service", zerolog.MessageFieldName,
		}}
	}
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	return zerolog.New(w).Level(level).With().Timestamp().Str("service", service).Logger()
}

// terminal reports whether a person reads what is written: then, and unless NO_COLOR is set, which zerolog looks at, it is coloured.
func terminal(w io.Writer) bool {
	if b, ok := w.(*Buffer); ok {
		w = b.w
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Tracing exports the process's traces as the named service. Without an endpoint it does nothing. The returned function
// sends what is left.
func Tracing(ctx context.Context, c Config, service string) (func(context.Context) error, error) {
	if c.Endpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", service)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("describe the traced service: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}
