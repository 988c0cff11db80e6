#!/usr/bin/env bash
# Writes the passwords of docker-compose.yml to a file (.env): random ones, for its user alone. A file
# that is there stays as it is.
set -euo pipefail
file=${1:-.env}
umask 077
set -o noclobber
password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
content="CLICKHOUSE_PASSWORD=$(password)
CLICKHOUSE_READER_PASSWORD=$(password)
GRAFANA_PASSWORD=$(password)"
if [ -e "$file" ]; then
  echo "$file is there already and stays as it is"
else
  echo "$content" > "$file"
  echo "$file has the passwords now"
fi
