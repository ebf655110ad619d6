#!/usr/bin/env bash
# Run with: make test-languages
#
# For each language: from an empty folder to a saga that calls the new plugin, by `wasaga plugin new` and then the very
# commands of its README, with the time that each takes; afterwards all components pass one and the same test. What the
# commands need besides, Debian's packages among it, is installed where that is possible; otherwise this fails.
# Give languages as arguments to do only these.
set -euo pipefail
cd "$(dirname "$0")/.."

languages=${*:-rust javascript python go c}
root=$PWD
work=$root/target/languages
components=$work/components
server=http://127.0.0.1:36788
host=

stop_host() {
  [ -z "$host" ] || { kill -TERM "$host" 2>/dev/null || true; wait "$host" || true; }
  host=
}
trap stop_host EXIT

fail() {
  echo "languages: $*" >&2
  [ ! -e "$work/host.log" ] || tail -n 20 "$work/host.log" >&2
  exit 1
}

# need COMMAND PACKAGE...: takes the packages from Debian if the command does not work.
need() {
  $1 >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "\`$1\` does not work: install ${*:2}, or the like"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${@:2}" >/dev/null
  $1 >/dev/null || fail "\`$1\` does not work with what Debian has: install it by other means"
}

need 'curl --version' curl ca-certificates
for language in $languages; do
  case $language in
    javascript) need 'npm --version' nodejs npm ;;
    python) need 'python3 -m ensurepip --version' python3 python3-venv ;;
    go) need 'go version' golang ;;
    c) [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || apt-get update -qq ;;
  esac
done

rm -rf "$work" && mkdir -p "$components" "$work/plugins"
export PATH=$root/target/release:$PATH WASAGA_HOST=$server
WASAGA_DATA=$work/data wasaga --listen "${server#http://}" --grpc-listen off --plugins "$work/plugins" 2>"$work/host.log" &
host=$!
until curl -fsS "$server/api/ping" >"$work/ping" 2>&1; do
  kill -0 "$host" 2>/dev/null || fail 'the host did not start'
  sleep 0.2
done

for language in $languages; do
  cd "$work"
  name=my-$language
  wasaga plugin new "$name" --lang "$language" >"$work/new.log"
  cd "$name"
  awk -v dir="$work" '/^```sh$/ { file = sprintf("%s/step%02d.sh", dir, ++n); next } /^```$/ { file = "" } file { print > file }' README.md
  printf '\n%s\n' "$language"
  for step in "$work"/step*.sh; do
    started=$(date +%s)
    bash -euo pipefail "$step" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "$language: failed: $(cat "$step")"; }
    printf '%6s s  %s\n' $(($(date +%s) - started)) "$(paste -sd '&' "$step" | sed 's/&/ \&\& /g')"
  done
  rm "$work"/step*.sh
  saga=$(printf '{"gid":"%s","trans_type":"saga","wait_result":true,"steps":[{"action":"wasm://%s/try","compensate":"wasm://%s/cancel"}],"payloads":[{"amount":100,"customer":"Zoë"}]}' "$name" "$name" "$name")
  answer=$(curl -fsS "$server/api/dtmsvr/submit" -d "$saga")
  [ "$answer" = '{"dtm_result":"SUCCESS"}' ] || fail "$language: the saga ended with $answer"
  grep -q "try amount=100 customer=Zoë plugin=.\?$name" "$work/host.log" || fail "$language: its line is not in the log"
  wasaga plugin check "$name.wasm" >"$work/out" || { cat "$work/out"; fail "$language: it is no plugin"; }
  cp "$name.wasm" "$components/$language.wasm"
done
stop_host

cd "$root"
printf '\nthe same test for all\n'
WASAGA_TEST_LANGUAGES=$languages WASAGA_TEST_LANGUAGES_DIR=$components \
  cargo test --release -p wasaga --test plugin languages
