#!/usr/bin/env bash
# Runs the server and, once it serves, a light stream of sample orders; Ctrl-C ends both.
set -euo pipefail
heliostat=$1
listen=${HELIOSTAT_LISTEN:-127.0.0.1:8080}
data=${HELIOSTAT_DATA_DIR:-data}
clickhouse_port=${HELIOSTAT_CLICKHOUSE_HTTP_PORT:-8123}

"$heliostat" serve &
server=$!
trap 'kill -TERM "$server" 2>/dev/null || true' INT TERM
until curl -fs "http://$listen/readyz?views=all" >/dev/null 2>&1; do
  kill -0 "$server" 2>/dev/null || { wait "$server"; exit $?; }
  sleep 0.2
done
"$heliostat" sample --rate 2 --url "http://$listen" >/dev/null 2>&1 &
sample=$!
trap 'kill -TERM "$sample" "$server" 2>/dev/null || true' INT TERM
cat <<TEXT

Heliostat serves on   http://$listen
ClickHouse answers on http://127.0.0.1:$clickhouse_port
Try:
  curl "http://$listen/v1/views"
  curl --netrc-file $data/reader.netrc "http://127.0.0.1:$clickhouse_port" -d "SELECT * FROM heliostat.order_summaries ORDER BY last_updated DESC LIMIT 5 FORMAT PrettyCompact"
  curl "http://$listen/v1/events?wait=clickhouse" -H "content-type: application/json" -d '{"type": "OrderPaid", "data": {"orderId": "o-1", "paymentMethod": "card", "amount": 12.50, "paidAt": "2026-01-01T00:00:00Z"}}'
Ctrl-C ends everything.

TEXT
code=0
wait "$server" || code=$?
# A signal ends the first wait before the server has ended.
wait "$server" 2>/dev/null || code=$?
kill -TERM "$sample" 2>/dev/null || true
exit "$code"
