package main

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"fdc/internal/devstack"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/telemetry"
	"fdc/internal/service"
)

func (c *cli) googleEmulator() *cobra.Command {
	var addr, file, seed string
	command := &cobra.Command{
		Use:   "google-emulator",
		Short: "Run the emulator of Google's OAuth, Tasks and Calendar alone",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if seed != "demo" && seed != "none" {
				return &daemon.UsageError{Err: fmt.Errorf("--seed %s: want demo or none", seed)}
			}
			log := telemetry.Logger(telemetry.Config{Level: "info", Format: "console"}, c.stderr, "google")
			listener, err := service.Listen(cmd.Context(), addr, "--addr")
			if err != nil {
				return err
			}
			emulator, err := googleemu.New(googleemu.Options{File: file, Log: log})
			if err != nil {
				return errors.Join(err, listener.Close())
			}
			defer func() { err = errors.Join(err, emulator.Close()) }()
			if seed == "demo" {
				if err := googleemu.SeedDemo(emulator, time.Now()); err != nil {
					return errors.Join(err, listener.Close())
				}
			}
			if err := c.printf("ready {\"google\":\"http://%s\"}\n", listener.Addr()); err != nil {
				return errors.Join(err, listener.Close())
			}
			server := &http.Server{Handler: devstack.LoopbackOnly(emulator, listener, addr), ReadHeaderTimeout: 10 * time.Second}
			return daemon.ServeHTTP(cmd.Context(), server, listener, time.Second)
		},
	}
	flags := command.Flags()
	flags.StringVar(&addr, "addr", "127.0.0.1:8085", "where it listens, `HOST:PORT`")
	flags.StringVar(&file, "data", "", "`FILE` that keeps its state over restarts; none by default")
	flags.StringVar(&seed, "seed", "demo", "`demo` or none")
	return command
}
