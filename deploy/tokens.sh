#!/bin/sh
# Makes the tokens of the other services in docker-compose.yml, each in a file. The first one closes the
# server. What is there stays.
set -eu
directory=${1:-/tokens}
token() {
  if [ -s "$directory/$1" ]; then return 0; fi
  # The file is gone, and with it the token.
  heliostat token revoke "$1" 2>/dev/null || true
  heliostat token create --name "$@" > "$directory/$1.new"
  mv "$directory/$1.new" "$directory/$1"
}
token sample --role write
token prometheus --role read
