# Optional: every target is one command that can as well be typed.
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: dev
dev: ## run everything on this machine
	go run ./cmd/fdc dev

.PHONY: test
test: ## run every test
	go test ./...

.PHONY: check
check: ## all that CI checks
	.ci/run

.PHONY: soak
soak: ## run every test ten times beside busy loops
	.ci/soak

.PHONY: lint
lint: ## golangci-lint with the project's rules
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

.PHONY: generate
generate: ## write the generated files anew
	go generate ./...

.PHONY: bench
bench: ## measure against the peers, ratios in one table
	go -C bench run .
