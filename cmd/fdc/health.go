package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthPatience is less than what asks allows: docker-compose.yml gives a check 5 s.
const healthPatience = 4 * time.Second

// health is for the health checks of containers, whose image has no shell and no curl.
func (c *cli) health() *cobra.Command {
	return &cobra.Command{
		Use: "health URL", Short: "Ask a service whether it is ready: exit code 0 when the URL answers 200", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthPatience)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
			if err != nil || request.URL.Host == "" {
				return usage("health: %q is no URL such as http://127.0.0.1:9090/readyz", args[0])
			}
			// Never through a proxy of the environment: what is asked is beside this process.
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			response, err := client.Do(request)
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			defer func() { err = errors.Join(err, response.Body.Close()) }()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			return fmt.Errorf("health: %s answers %s: %s", args[0], response.Status, strings.TrimSpace(string(body)))
		},
	}
}
