#!/usr/bin/env bash
# Run with: examples/tutorial/run.sh   (while `make run` is running elsewhere)
#
# Submits the tutorial's saga and waits until it is rolled back: service A succeeds, service B rejects an amount over 500,
# and service A is cancelled.
set -euo pipefail
cd "$(dirname "$0")"

server=${WASAGA_URL:-http://127.0.0.1:36789}
gid=saga-golang-demo-001

answer=$(curl -sS "$server/api/dtmsvr/submit" -d @submit.json)
echo "submit: $answer"
[ "$answer" = '{"dtm_result":"SUCCESS"}' ]

for _ in $(seq 100); do
  state=$(curl -sS "$server/api/dtmsvr/query?gid=$gid")
  case $state in *'"status":"failed","'*'rollback_reason'*) break ;; esac
  sleep 0.1
done
echo "query:  $state"
curl -sS "$server/api/v1/sagas/$gid/log"
case $state in
  *'return failed: simulated failure FAILURE'*) echo "rolled back, as expected" ;;
  *) echo "not rolled back" >&2; exit 1 ;;
esac
