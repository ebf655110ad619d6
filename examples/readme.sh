#!/usr/bin/env bash
# Run with: make test-readme
#
# Runs every `sh` block of the README in order and checks the output. Two things differ from what a reader does: the host
# keeps its data in a temporary folder, and the reader's plugin is created there instead of beside the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

server=http://127.0.0.1:36789
work=$(mktemp -d)
host=

stop_host() {
  [ -z "$host" ] || { kill -TERM "$host" 2>/dev/null || true; wait "$host" || true; }
  host=
}
trap 'stop_host; rm -rf "$work" target/plugins/stock.wasm' EXIT

fail() {
  echo "README: $*" >&2
  [ ! -e "$work/host.log" ] || tail -n 40 "$work/host.log" >&2
  exit 1
}

start_host() {
  WASAGA_DATA=$work/data bash -ec "exec $1" >"$work/host.log" 2>&1 &
  host=$!
  until curl -fsS "$server/api/ping" >"$work/ping" 2>&1; do
    kill -0 "$host" 2>/dev/null || fail "the host did not start"
    sleep 0.2
  done
}

expect() {
  grep -qF -- "$2" "$1" || { cat "$1" >&2; fail "expected to see: $2"; }
}

command -v curl >/dev/null || fail "needs curl: install it (Debian: apt-get install curl)"
! curl -fsS "$server/api/ping" >/dev/null 2>&1 || fail "another process listens on $server: stop it first"
awk -v dir="$work" '/^```sh$/ { file = sprintf("%s/%02d.sh", dir, ++n); next } /^```$/ { file = "" } file { print > file }' README.md

for block in "$work"/*.sh; do
  sed -i "s#^cd \.\. #cd $work #" "$block"
  echo "-- $(grep -v '^$' "$block" | head -n 1)"
  if grep -qx 'make run' "$block"; then
    start_host 'make run'
    continue
  fi
  # The expected output of each block is checked below.
  bash -euo pipefail "$block" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; fail "failed: $(cat "$block")"; }
  case $(cat "$block") in
    *submit.json*) expect "$work/out" '{"dtm_result":"SUCCESS"}' ;;
    */log*)
      expect "$work/out" 'rejected: simulated failure'
      expect "$work/out" '01 compensate succeeded  -> failed'
      expect "$work/host.log" '[Service A] cancel: rolling back'
      examples/tutorial/run.sh >"$work/out" 2>&1 && fail 'the same gid was accepted twice'
      ;;
    *dtmsvr/query*) expect "$work/out" 'url:http://service-b:8082/try return failed: simulated failure FAILURE' ;;
    *money/open.json*) expect "$work/out" '{"dtm_result":"SUCCESS"}' ;;
    *money/transfer.json*)
      expect "$work/out" '{"dtm_result":"SUCCESS"}'
      expect "$work/out" 'bob: insufficient funds'
      ;;
    *sagas/transfer-2*)
      expect "$work/out" '"status":"failed"'
      expect "$work/out" '"output":{"account":"alice","balance":100}'
      ;;
    *sagas/plan*)
      expect "$work/out" '"failures"'
      expect "$work/out" 'bob: insufficient funds'
      expect "$work/out" '"data_is_restored":true'
      ;;
    *'plugin push'*)
      expect "$work/out" 'Nothing wrong was seen.'
      expect "$work/out" 'New sagas use it from now on, as wasm://stock/try and wasm://stock/cancel.'
      ;;
    *first-order*)
      expect "$work/out" '{"dtm_result":"SUCCESS"}'
      expect "$work/host.log" 'try amount=100 customer=Zoë'
      ;;
    *--help*) expect "$work/out" 'WASAGA_LISTEN' ;;
    *) fail "there is no check for the output of: $(cat "$block")" ;;
  esac
done
stop_host
expect "$work/host.log" 'stopped'
echo 'every command of the README works'
