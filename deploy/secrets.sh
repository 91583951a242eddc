#!/bin/sh
# Makes what docker-compose.yml wants as secrets, in deploy/secrets or the folder named as its argument. What is there
# already is kept: run it again after an update, or after taking a file away to have it made anew.
set -eu
command -v openssl >/dev/null || { echo "secrets.sh: openssl is not there; install it" >&2; exit 1; }
dir=${1:-$(dirname "$0")/secrets}
umask 022
mkdir -p "$dir"
# The folder keeps other users of this machine out. The files themselves can be read by all, because Compose mounts them
# as they are and the services' user inside of the containers isn't the one outside.
chmod 700 "$dir"
cd "$dir"

put() { # FILE: what is read from standard input, unless it is there
  if [ ! -e "$1" ]; then cat >"$1.new" && chmod 444 "$1.new" && mv -f "$1.new" "$1"; else cat >/dev/null; fi
}
word() { printf 'p%s' "$(openssl rand -hex 24)"; } # begins with a letter: nats.conf would take digits for a number

# PostgreSQL: the owner, for migrations and the audit-archiver, and the login of the other services.
word | put postgres_password
word | put postgres_service_password
printf 'postgres://fdc:%s@postgres:5432/fdc' "$(cat postgres_password)" | put database_url
printf 'postgres://fdc_service:%s@postgres:5432/fdc' "$(cat postgres_service_password)" | put database_service_url

# NATS: each user's password alone, for its service, and all of them with the key of the store, for the server.
for user in provision api syncer cache_invalidator audit_archiver ops sys; do
  word | put "nats_password_$user"
done
word | put nats_encryption_key
{
  for user in provision api syncer cache_invalidator audit_archiver ops sys; do
    printf 'export NATS_PASSWORD_%s=%s\n' "$(echo "$user" | tr '[:lower:]' '[:upper:]')" "$(cat "nats_password_$user")"
  done
  printf 'export NATS_ENCRYPTION_KEY=%s\n' "$(cat nats_encryption_key)"
} | put nats.env

# What seals Google's tokens, and what signs for the audit log. Keep copies of both: without the first nothing sealed opens.
printf 'v1:%s' "$(openssl rand -base64 32)" | put master_encryption_keys
openssl rand -base64 32 | put audit_signing_key

# Google's emulator takes any. For Google itself, write the secret of your OAuth client here.
printf 'fdc-demo' | put google_client_secret

# The cluster's own authority, and one certificate for all of its nodes, in Compose and on this machine.
if [ ! -e nats_cert.pem ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=FDC NATS authority" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=nats" \
    -keyout "$work/key.pem" -out "$work/request.pem" 2>/dev/null
  printf '%s\n' "subjectAltName=DNS:nats,DNS:nats-2,DNS:nats-3,DNS:localhost,IP:127.0.0.1" \
    "extendedKeyUsage=serverAuth,clientAuth" "basicConstraints=CA:FALSE" >"$work/extensions"
  openssl x509 -req -in "$work/request.pem" -CA "$work/ca.pem" -CAkey "$work/ca.key" -set_serial "0x$(openssl rand -hex 15)" \
    -days 825 -extfile "$work/extensions" -out "$work/cert.pem" 2>/dev/null
  # The authority's key is thrown away: a new certificate comes with a new authority.
  rm -f nats_ca.pem nats_key.pem
  put nats_ca.pem <"$work/ca.pem"
  put nats_key.pem <"$work/key.pem"
  put nats_cert.pem <"$work/cert.pem"
fi
