#!/bin/sh
# Run once by the image of PostgreSQL, on a new database: makes the login of the services api, syncer and
# cache-invalidator, which has the role fdc_app and so can't change the audit log. `fdc migrate` gives that role its rights.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$(cat "$POSTGRES_SERVICE_PASSWORD_FILE")" \
  --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE fdc_app NOLOGIN;
CREATE ROLE fdc_service LOGIN PASSWORD :'password' IN ROLE fdc_app;
SQL
