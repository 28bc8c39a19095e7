#!/bin/sh
# Makes the two logins of the store, neither a superuser, on a new PostgreSQL: the owner of the
# database, who migrates it, and the one that works with its rows, whom the owner grants what it
# needs. The image runs this once; by hand it takes the same four variables.
set -eu

psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "$POSTGRES_DB" \
    --set database="$POSTGRES_DB" \
    --set owner_password="$POSTGRES_OWNER_PASSWORD" \
    --set store_password="$POSTGRES_STORE_PASSWORD" <<'SQL'
create role pagewire_owner login password :'owner_password';
create role pagewire_store login password :'store_password';
alter database :"database" owner to pagewire_owner;
SQL
