# syntax=docker/dockerfile:1
# One image with every binary: api, syncer, cache-invalidator, audit-archiver and fdc. The command says which one runs.
FROM golang:1.26 AS build
WORKDIR /src
# The modules are a layer of their own: they are fetched again when they change, not when the code does.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What `fdc version` says: docker build --build-arg VERSION=1.2.3 --build-arg COMMIT=$(git rev-parse HEAD) …
ARG VERSION=dev COMMIT= DATE=
# Without cgo a binary needs nothing but the kernel, so there can be nothing else in the image.
RUN --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -o /image/usr/local/bin/ \
      -ldflags "-s -w -X fdc/internal/service.Version=$VERSION -X fdc/internal/service.Commit=$COMMIT -X fdc/internal/service.Date=$DATE" \
      ./cmd/... && \
    # Authorities for Google and object stores, time zones for calendars, and a user.
    mkdir -p /image/etc/ssl/certs /image/usr/share /state/archive /state/google && \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ && \
    cp /usr/local/go/lib/time/zoneinfo.zip /image/usr/share/ && \
    echo 'fdc:x:65532:65532::/var/lib/fdc:/none' >/image/etc/passwd && \
    echo 'fdc:x:65532:' >/image/etc/group

FROM scratch
COPY --from=build /image/ /
# A new volume takes its owner from the folder that it is mounted on.
COPY --from=build --chown=65532:65532 /state/ /var/lib/fdc/
ENV PATH=/usr/local/bin ZONEINFO=/usr/share/zoneinfo.zip
# By number, so that an orchestrator can see that it isn't root.
USER 65532:65532
WORKDIR /var/lib/fdc
EXPOSE 8080 9090
# No HEALTHCHECK: what to ask depends on the command; docker-compose.yml does it with `fdc health`.
CMD ["fdc", "version"]
