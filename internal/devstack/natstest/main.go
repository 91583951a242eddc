package natstest

import (
	"flag"

	"github.com/nats-io/nats-server/v2/server"
)

// Main is the main function of nats-server, for test binaries that are started as one: a server that can be killed. It returns when
// the server has ended, or at once when the arguments only ask for a check of the configuration.
func Main(args []string) error {
	opts, err := server.ConfigureOptions(flag.NewFlagSet("nats-server", flag.ContinueOnError), args, nil, nil, nil)
	if err != nil {
		return err
	}
	if opts.CheckConfig {
		return nil
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		return err
	}
	s.WaitForShutdown()
	return nil
}
