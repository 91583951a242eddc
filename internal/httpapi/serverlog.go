package httpapi

import (
	"log" //nolint:depguard // http.Server knows no other logger
	"strings"

	"github.com/rs/zerolog"
)

// newServerLog passes on what net/http has to say, about TLS handshakes and the like.
func newServerLog(logger zerolog.Logger) *log.Logger { return log.New(serverLog{logger}, "", 0) }

type serverLog struct{ log zerolog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	l.log.Warn().Str("reason", strings.TrimSpace(string(line))).Msg("http server")
	return len(line), nil
}
