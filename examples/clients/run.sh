#!/usr/bin/env bash
# Run with: make test-clients
# or, when the host and the plugins are built already: examples/clients/run.sh
#
# Starts a host and runs DTM's own clients with it. Their packages are installed in target/clients; if run by root, missing
# programs, such as the database for the clients' barriers, are installed from Debian. A missing one is a failure and never
# skips a client.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
root=$(cd ../.. && pwd)
kept=$root/target/clients
temp=$(mktemp -d)
mkdir -p "$kept"

children=()
finish() {
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  for child in "${children[@]}"; do wait "$child" 2>/dev/null || true; done
  rm -rf "$temp"
}
trap finish EXIT
trap 'exit 1' INT TERM

fail() {
  echo "test-clients: $1" >&2
  exit 1
}

# step NAME COMMAND...: runs the command and prints its duration, and its output only if it fails. Commands must be joined
# by &&, since bash ignores `set -e` in the condition of an `if`.
step() {
  local name=$1 begin=$SECONDS
  shift
  if "$@" >"$temp/output" 2>&1; then
    printf '%-16s ok (%s s)  %s\n' "$name" $((SECONDS - begin)) "$(tail -n 1 "$temp/output")"
  else
    cat "$temp/output" >&2
    [ ! -s "$temp/host.log" ] || { echo "-- the host's log:" && tail -n 40 "$temp/host.log"; } >&2
    fail "$name failed"
  fi
}

# waits FILE TEXT PID: waits until the file contains the text that the process writes to it.
waits() {
  for _ in $(seq 600); do
    grep -q "$2" "$1" && return
    kill -0 "$3" 2>/dev/null || break
    sleep 0.1
  done
  cat "$1" >&2
  fail "not ready: no $2"
}

# debian COMMAND... : PACKAGE...: installs the packages if the commands do not work.
debian() {
  local check=()
  while [ "$1" != : ]; do check+=("$1") && shift; done
  shift
  "${check[@]}" >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "needs $*: install these packages of Debian, or similar ones"
  step "install $*" sh -c "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $*"
}

database() {
  # Needs no users, since only this user can open the folder of its socket.
  local as=()
  [ "$(id -u)" != 0 ] || as=(--user=root)
  mkdir "$temp/database"
  export MYSQL_UNIX_PORT=$temp/database.sock
  mariadbd --no-defaults "${as[@]}" --datadir="$temp/database" --socket="$MYSQL_UNIX_PORT" --skip-networking \
    --skip-grant-tables --innodb-buffer-pool-size=16M >"$temp/database.log" 2>&1 &
  children+=($!)
  waits "$temp/database.log" 'ready for connections' $!
}

host() {
  [ -x "$root/target/release/wasaga" ] || fail 'there is no host: run make test-clients'
  touch "$temp/host.log"
  "$root/target/release/wasaga" --listen 127.0.0.1:0 --data "$temp/data" --plugins "$root/target/plugins" \
    2>"$temp/host.log" &
  children+=($!)
  waits "$temp/host.log" 'ready on http' $!
  WASAGA_URL=$(sed -n 's/.*ready on \(http[^ ]*\).*/\1/p' "$temp/host.log")
  WASAGA_GRPC=$(sed -n 's/.*gRPC on \([^ ]*\).*/\1/p' "$temp/host.log")
  export WASAGA_URL WASAGA_GRPC
}

python_install() {
  # Installs again if the list of packages has changed.
  cmp -s python/requirements.txt "$kept/python/installed.txt" && return
  rm -rf "$kept/python" &&
    python3 -m venv "$kept/python" &&
    "$kept/python/bin/pip" install --quiet --only-binary :all: --require-hashes -r python/requirements.txt &&
    cp python/requirements.txt "$kept/python/installed.txt"
}

go_build() {
  mkdir -p "$kept/go" && (cd go && go build -mod=readonly -o "$kept/go/" ./barrier ./plugins ./grpc)
}

schema() {
  "$kept/python/bin/python" - "$here/schema.sql" <<'PYTHON'
import os, sys
import pymysql
from pymysql.constants import CLIENT

connection = pymysql.connect(unix_socket=os.environ["MYSQL_UNIX_PORT"], user="root", client_flag=CLIENT.MULTI_STATEMENTS)
connection.cursor().execute(open(sys.argv[1]).read())
PYTHON
}

debian mariadbd --version : mariadb-server-core
debian python3 -c 'import ensurepip' : python3 python3-venv
debian go version : golang-go
database
host
step 'python install' python_install
step 'python schema' schema
step 'python barrier' "$kept/python/bin/python" python/barrier.py
step 'python plugins' "$kept/python/bin/python" python/plugins.py
step 'go build' go_build
step 'go barrier' "$kept/go/barrier"
step 'go plugins' "$kept/go/plugins"
step 'go grpc' "$kept/go/grpc"
echo "all of DTM's clients work ($SECONDS s)"
