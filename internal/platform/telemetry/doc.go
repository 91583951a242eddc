// Package telemetry makes the logger and, when OTEL_EXPORTER_OTLP_ENDPOINT is set, exports traces (OTLP over HTTP, all
// further OTEL_* variables as OpenTelemetry defines them). A service writes its log through a Buffer: lines up to 100 ms late,
// warnings and errors at once.
package telemetry
