#!/usr/bin/env bash
# The README's two commands as a newcomer has them: a fresh clone, nothing fetched, nothing built, an
# empty HOME and CARGO_HOME. Only the Rust toolchain is the machine's own.
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
toolchain=${RUSTUP_HOME:-$HOME/.rustup}
server=
finish() {
  if [ -n "$server" ]; then kill -INT -- "-$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap finish EXIT
git clone --quiet "$source" "$work/heliostat"
mkdir "$work/home"
cd "$work/heliostat"
as_newcomer() {
  env -u CARGO_TARGET_DIR -u HELIOSTAT_LIBCHDB HOME="$work/home" CARGO_HOME="$work/home/.cargo" \
    RUSTUP_HOME="$toolchain" "$@"
}

as_newcomer make test

echo "fresh: make test passed; now make run"
set -m
as_newcomer make run > "$work/run.log" 2>&1 &
server=$!
set +m
# A cold build comes first.
for _ in $(seq 2400); do
  if curl -fs http://127.0.0.1:8080/readyz > /dev/null; then break; fi
  if ! kill -0 "$server" 2>/dev/null; then cat "$work/run.log"; echo "fresh: make run ended"; exit 1; fi
  sleep 1
done
for _ in $(seq 60); do
  orders=$(curl -fs --netrc-file data/reader.netrc http://127.0.0.1:8123 -d 'SELECT count() FROM heliostat.order_summaries' || true)
  if [ "${orders:-0}" -gt 0 ]; then
    echo "fresh: make run serves, and ClickHouse has $orders orders"
    exit 0
  fi
  sleep 1
done
tail -n 50 "$work/run.log"
echo "fresh: make run does not bring orders to ClickHouse"
exit 1
